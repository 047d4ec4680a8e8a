import t from 'tap'
import { defineLimit } from '../../lib/rules/rate-limit.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryStore } from '../../lib/store/memory.js'

function setUp (capacity: number) {
  const clock = { ms: 1_000_000 }
  return { clock, memory: new MemoryStore({ keys: new Keys('guard:'), capacity, maxEvents: 10, now: () => clock.ms }) }
}

const limit = { name: 'limit', limit: defineLimit('fixed-window', 2, 1000), cost: 1 }

t.test('a sweep forgets what has run out, and nothing else', async t => {
  const { clock, memory } = setUp(100)
  memory.takeOne({ key: 'short', checks: [limit] })
  memory.takeOne({ key: 'long', checks: [{ ...limit, limit: defineLimit('fixed-window', 2, 5000) }] })
  memory.set('short', 'x', 1000)
  memory.set('long', 'x', 5000)
  memory.set('good', 'x', undefined)
  memory.block({ ip: '192.0.2.1', durationMs: 1000, reason: '', origin: '' })
  memory.block({ ip: '192.0.2.0/24', durationMs: 5000, reason: '', origin: '' })
  memory.sweep()
  t.same([memory.size, memory.blockCount], [2, 2])
  clock.ms += 1000
  memory.sweep()
  t.same([memory.size, memory.blockCount], [1, 1])
  t.same([memory.get('short'), memory.get('long'), memory.get('good')], [null, 'x', 'x'])
  t.equal(memory.isBlocked('192.0.2.1'), true, 'the range around it is still blocked')
})

t.test('a flood of fresh clients neither grows it past its bound nor frees a limited one, for each algorithm', async t => {
  for (const algorithm of ['fixed-window', 'sliding-window', 'gcra'] as const) {
    const { memory } = setUp(1000)
    const check = { name: 'limit', limit: defineLimit(algorithm, 2, 60_000), cost: 1 }
    const accepted = (key: string) => memory.takeOne({ key, checks: [check] }).accepted
    t.same([accepted('attacker'), accepted('attacker'), accepted('attacker')], [true, true, false])
    for (let i = 0; i < 20_000; i++) accepted(`fresh ${i}`)
    t.ok(memory.size <= 1000)
    t.equal(accepted('attacker'), false, algorithm)
  }
})

t.test('a counter that is nearly used up outlives a flood of names that come twice each', async t => {
  const { memory } = setUp(1000)
  const check = { name: 'login', limit: defineLimit('fixed-window', 5, 3_600_000), cost: 1 }
  const accepted = (key: string) => memory.takeOne({ key, checks: [check] }).accepted
  for (let i = 0; i < 4; i++) accepted('admin')
  for (let i = 0; i < 20_000; i++) {
    accepted(`name ${i}`)
    accepted(`name ${i}`)
  }
  t.same([accepted('admin'), accepted('admin')], [true, false])
})

t.test('a list that is taken over replaces all that was there', async t => {
  const { memory } = setUp(10)
  memory.block({ ip: '192.0.2.1', durationMs: 1000, reason: '', origin: '' })
  memory.replaceBlocks(memory.newBlockList())
  t.equal(memory.isBlocked('192.0.2.1'), false)
})

t.test('values are bounded, too: the oldest goes first', async t => {
  const { memory } = setUp(2)
  for (const key of ['a', 'b', 'c']) memory.set(key, key, undefined)
  t.same(['a', 'b', 'c'].map(key => memory.get(key)), [null, 'b', 'c'])
})

t.test('a hit with more limits than there is room for stays within the bound', async t => {
  const { memory } = setUp(1)
  const other = { ...limit, name: 'other' }
  for (let i = 0; i < 5; i++) {
    memory.takeOne({ key: 'client', checks: [limit, other] })
    t.equal(memory.size, 1)
  }
})

t.test('what another store tells of a value is taken over, unless something was done to it here since', async t => {
  const { memory, clock } = setUp(10)
  const since = memory.valueClock
  memory.learnValue('told', { text: '5', leftMs: 1000 }, since)
  t.equal(memory.get('told'), '5')
  memory.set('changed', 'here', undefined)
  memory.learnValue('changed', { text: 'there', leftMs: Infinity }, since)
  memory.learnValue('changed', undefined, since)
  t.equal(memory.get('changed'), 'here')
  memory.learnValue('changed', undefined, memory.valueClock)
  t.equal(memory.get('changed'), null)
  clock.ms += 1000
  t.equal(memory.get('told'), null)
})
