/** The store in the memory of one process: its bounds, and who keeps a counter when there is no room for all. */
import t from 'tap'
import { algorithms, defineLimit, take, type Algorithm } from '../../../lib/rules/rate-limit.js'
import type { LimitState } from '../../../lib/rules/rule.js'
import { Keys } from '../../../lib/store/keys.js'
import { MemoryStore } from '../../../lib/store/memory/memory-store.js'
import type { NamedCheck } from '../../../lib/store/limit-store.js'
import { randomFrom } from '../../support/random.js'
import { size } from '../../support/size.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

function setUp (capacity: number) {
  const clock = { ms: 1_000_000 }
  return { clock, memory: new MemoryStore({ keys: new Keys('guard:'), capacity, maxEvents: 10, now: () => clock.ms }) }
}

const limit = { name: 'limit', limit: defineLimit('fixed-window', 2, 1000), cost: 1 }

t.test('a sweep forgets what has run out, and nothing else', async t => {
  const { clock, memory } = setUp(100)
  memory.limits.takeOne({ key: 'short', checks: [limit] })
  memory.limits.takeOne({ key: 'long', checks: [{ ...limit, limit: defineLimit('fixed-window', 2, 5000) }] })
  memory.values.set('short', 'x', 1000)
  memory.values.set('long', 'x', 5000)
  memory.values.set('good', 'x', undefined)
  memory.blocks.block({ ip: '192.0.2.1', durationMs: 1000, reason: '', origin: '' })
  memory.blocks.block({ ip: '192.0.2.0/24', durationMs: 5000, reason: '', origin: '' })
  memory.sweep()
  t.same([memory.limits.size, memory.blocks.size], [2, 2])
  clock.ms += 1000
  memory.sweep()
  t.same([memory.limits.size, memory.blocks.size], [1, 1])
  t.same([memory.values.get('short'), memory.values.get('long'), memory.values.get('good')], [null, 'x', 'x'])
  t.equal(memory.blocks.isBlocked('192.0.2.1'), true, 'the range around it is still blocked')
})

t.test('a sweep forgets locked clients a day after their last request, however often they were refused', async t => {
  const { clock, memory } = setUp(100)
  const backoff = { name: 'limit', limit: defineLimit('fixed-window', 2, 1000, { excess: 'backoff' }), cost: 1 }
  for (let i = 0; i < 60; i++) memory.limits.takeOne({ key: 'client', checks: [backoff] })
  clock.ms += 86_399_999
  memory.sweep()
  t.equal(memory.limits.size, 1)
  clock.ms += 1
  memory.sweep()
  t.equal(memory.limits.size, 0)
})

t.test('a flood of fresh clients neither grows it past its bound nor frees a limited one, for each algorithm', async t => {
  for (const algorithm of ['fixed-window', 'sliding-window', 'gcra'] as const) {
    const { memory } = setUp(1000)
    const check = { name: 'limit', limit: defineLimit(algorithm, 2, 60_000), cost: 1 }
    const accepted = (key: string) => memory.limits.takeOne({ key, checks: [check] }).accepted
    t.same([accepted('attacker'), accepted('attacker'), accepted('attacker')], [true, true, false])
    for (let i = 0; i < 20_000; i++) accepted(`fresh ${i}`)
    t.ok(memory.limits.size <= 1000)
    t.equal(accepted('attacker'), false, algorithm)
  }
})

t.test('a counter that is nearly used up outlives a flood of names that come twice each', async t => {
  const { memory } = setUp(1000)
  const check = { name: 'login', limit: defineLimit('fixed-window', 5, 3_600_000), cost: 1 }
  const accepted = (key: string) => memory.limits.takeOne({ key, checks: [check] }).accepted
  for (let i = 0; i < 4; i++) accepted('admin')
  for (let i = 0; i < 20_000; i++) {
    accepted(`name ${i}`)
    accepted(`name ${i}`)
  }
  t.same([accepted('admin'), accepted('admin')], [true, false])
})

t.test('a list that is taken over replaces all that was there', async t => {
  const { memory } = setUp(10)
  memory.blocks.block({ ip: '192.0.2.1', durationMs: 1000, reason: '', origin: '' })
  memory.blocks.replace(memory.blocks.newList())
  t.equal(memory.blocks.isBlocked('192.0.2.1'), false)
})

t.test('values are bounded, too: the oldest goes first', async t => {
  const { memory } = setUp(2)
  for (const key of ['a', 'b', 'c']) memory.values.set(key, key, undefined)
  t.same(['a', 'b', 'c'].map(key => memory.values.get(key)), [null, 'b', 'c'])
})

t.test('a hit with more limits than there is room for stays within the bound', async t => {
  const { memory } = setUp(1)
  const other = { ...limit, name: 'other' }
  for (let i = 0; i < 5; i++) {
    memory.limits.takeOne({ key: 'client', checks: [limit, other] })
    t.equal(memory.limits.size, 1)
  }
})

t.test('what another store tells of a value is taken over, unless something was done to it here since', async t => {
  const { memory, clock } = setUp(10)
  const since = memory.values.clock
  memory.values.adopt('told', { text: '5', leftMs: 1000 }, since)
  t.equal(memory.values.get('told'), '5')
  memory.values.set('changed', 'here', undefined)
  memory.values.adopt('changed', { text: 'there', leftMs: Infinity }, since)
  memory.values.adopt('changed', undefined, since)
  t.equal(memory.values.get('changed'), 'here')
  memory.values.adopt('changed', undefined, memory.values.clock)
  t.equal(memory.values.get('changed'), null)
  clock.ms += 1000
  t.equal(memory.values.get('told'), null)
})

const hourMs = 3_600_000

/** A limit for an hour. */
function hourly (name: string, max: number, algorithm: Algorithm = 'fixed-window'): NamedCheck {
  return { name, limit: defineLimit(algorithm, max, hourMs), cost: 1 }
}

/** Whether a request that counts by a name of the client's choice passes. */
function asks (memory: MemoryStore, check: NamedCheck, key: string, from?: string): boolean {
  return memory.limits.takeOne({ key, checks: [check], from }).accepted
}

t.test('one host that fills memory with limited names has nobody else refused, by name or by address', async t => {
  const { memory } = setUp(5000)
  const [login, search, global] = [hourly('login', 1), hourly('search', 1), hourly('global', 1)]
  for (let i = 0; i < 9100; i++) asks(memory, login, `name ${i}`, '198.51.100.1')
  const clients = Array.from({ length: 200 }, (_, i) => `192.0.2.${i}`)
  const refused = clients.filter(address => {
    const byName = [search, login].every(check => asks(memory, check, `user of ${address}`, address))
    return !byName || !asks(memory, global, address)
  })
  t.same(refused, [])
  t.ok(memory.limits.size <= 5000)
})

t.test('ten thousand addresses that one limit limits leave the other limits their room', async t => {
  const { memory } = setUp(5000)
  const [login, search] = [hourly('login', 1), hourly('search', 1)]
  for (let i = 0; i < 10_000; i++) asks(memory, login, `10.0.${i >> 8}.${i & 255}`)
  // Three quarters of the quarter that is left.
  const clients = Array.from({ length: 937 }, (_, i) => `192.0.${i >> 8}.${i & 255}`)
  t.same(clients.filter(address => !asks(memory, search, address)), [])
  t.same(clients.filter(address => asks(memory, search, address)), [], 'and each is counted')
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: a host that floods with names gets five guesses at each, by a limit of five`, async t => {
    const { memory } = setUp(1000)
    const login = hourly('login', 5, algorithm)
    const passed = new Map<string, number>()
    let made = 0
    const guess = (name: string) => {
      if (asks(memory, login, name, '198.51.100.1')) passed.set(name, (passed.get(name) ?? 0) + 1)
    }
    for (let round = 0; round < size(40, 130); round++) {
      guess('admin')
      guess('root')
      // More than fit, some of them limited.
      for (let i = 0; i < 1200; i++) guess(`name ${made++}`)
      for (let i = 0; i < 5; i++) guess(`name ${made}`)
    }
    t.equal(passed.get('admin'), 5)
    t.same([...passed].filter(([, times]) => times > 5), [])
    t.ok(memory.limits.size <= 1000)
  })
}

t.test('a name learned from Redis takes the room of the address that asked for it', async t => {
  const { memory, clock } = setUp(160)
  const login = hourly('login', 5)
  const state = { used: 5, previous: 0, atMs: clock.ms + hourMs }
  const told = (key: string, from: string) => memory.limits.adopt({ key, from }, login, state, clock.ms)
  for (let i = 0; i < 1000; i++) told(`name ${i}`, '198.51.100.1')
  t.equal(memory.limits.size, 10 + 80)
  told('name', '192.0.2.1')
  t.equal(memory.limits.known('name', login)?.used, 5)
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: an address beyond its part has no second quota of a name when Redis goes`, async t => {
    const { memory, clock } = setUp(160)
    const check = { ...hourly('login', 5), limit: defineLimit(algorithm, 5, hourMs) }
    const tell = (key: string, hits: number, from?: string) => {
      let state: LimitState | undefined
      for (let i = 0; i < hits; i++) state = take(state, clock.ms, check.limit, 1).state
      memory.limits.adopt(from === undefined ? { key } : { key, from }, check, state!, clock.ms)
    }
    const passes = (key: string, from: string) =>
      Array.from({ length: 6 }, () => asks(memory, check, key, from)).filter(Boolean).length
    for (let i = 0; i < 1000; i++) tell(`name ${i}`, 1, '198.51.100.1')
    tell('used up', 5, '198.51.100.1')
    tell('used', 3, '198.51.100.1')
    tell('used', 2, '198.51.100.1')
    t.same([passes('used up', '198.51.100.1'), passes('used', '198.51.100.1')], [0, 2])
    t.equal(passes('used up', '192.0.2.1'), 5, 'what an address shares with itself is nobody else\'s')
  })
}

t.test('what newcomers of all addresses share is not for one of them to set', async t => {
  const passedOf = (told: number) => {
    const { memory, clock } = setUp(16)
    const login = hourly('login', 5)
    for (let i = 0; i < 16; i++) for (let j = 0; j < 5; j++) asks(memory, login, `limited ${i}`)
    const state = { used: 5, previous: 0, atMs: clock.ms + hourMs }
    for (let i = 0; i < told; i++) memory.limits.adopt({ key: `told ${i}` }, login, state, clock.ms)
    return Array.from({ length: 200 }, (_, i) => asks(memory, login, `newcomer ${i}`)).filter(Boolean).length
  }
  t.equal(passedOf(1000), passedOf(0))
})

// With a part of 20 each, four hosts and the counters of all others fill half of the table.
t.test(`in a flood no client passes more than its limit, and other clients are not refused before it (SEED=${seed})`, async t => {
  const random = randomFrom(seed)
  for (let run = 0; run < size(15, 60); run++) {
    const { memory, clock } = setUp(320)
    const windowMs = random.pick([500, 2000, hourMs])
    const limitOf = (algorithm: Algorithm) => defineLimit(algorithm, random.whole(1, 6), windowMs)
    const checks = algorithms.map((algorithm, i) => ({ name: `limit ${i}`, limit: limitOf(algorithm), cost: 1 }))
    const hosts = Array.from({ length: random.whole(1, 4) }, (_, i) => `198.51.100.${i}`)
    /** what each client has passed of each limit, by the rules themselves */
    const passed = new Map<string, { state: LimitState | undefined, count: number, firstMs: number }>()
    const isRight = (key: string, from: string | undefined, isFlood: boolean): boolean => {
      const check = random.pick(checks)
      const { limit } = check
      const client = `${check.name} ${key} ${from}`
      const of = passed.get(client) ?? { state: undefined, count: 0, firstMs: clock.ms }
      passed.set(client, of)
      const { fits, state } = take(of.state, clock.ms, limit, 1)
      if (!asks(memory, check, key, from)) return isFlood || !fits
      of.state = state
      of.count++
      // The windows of shared counters begin with hits at other names.
      const windows = Math.floor((clock.ms - of.firstMs) / windowMs) + 2
      return isFlood && windowMs < hourMs ? of.count <= limit.max * windows : fits
    }
    for (let step = 0; step < 300; step++) {
      clock.ms += random.whole(0, 20)
      if (random.chance(0.02)) memory.sweep()
      const client = random.whole(0, 12)
      const host = random.pick(hosts)
      const rights = [
        isRight(`192.0.2.${client}`, undefined, false),
        isRight(`user ${client}`, `192.0.2.${client}`, false),
        isRight(`admin ${random.whole(0, 2)} of ${host}`, host, true)
      ]
      const flood = Array.from({ length: random.whole(0, 60) }, () => `name ${random.whole(0, 5000)}`)
      rights.push(...flood.map(name => isRight(name, host, true)))
      if (rights.includes(false)) return t.fail(`run ${run}, step ${step}, seed ${seed}: ${rights.indexOf(false)}`)
    }
    t.ok(memory.limits.size <= 320)
  }
})

t.test('a hit that is given back where its counter is not known leaves none behind', async t => {
  const { memory } = setUp(10)
  memory.limits.takeBackAt('client', limit, 1_000_000)
  t.equal(memory.limits.size, 0)
})

t.test('the last 10,000 blocks that were lifted are known, also where they were placed again', async t => {
  const { memory, clock } = setUp(10)
  const lifted = () => memory.blocks.lifted().map(({ unblock }) => unblock)
  for (let i = 0; i <= 10_000; i++) memory.blocks.unblock(`10.0.${i >> 8}.${i & 255}`)
  t.same([lifted().length, lifted()[0]], [10_000, '10.0.0.1'])
  clock.ms += 5
  memory.blocks.unblock('10.0.0.1')
  t.same([lifted()[0], memory.blocks.lifted().at(-1)], ['10.0.0.2', { unblock: '10.0.0.1', atMs: clock.ms }])
  const liftedAtMs = () => memory.blocks.lifted().at(-1)!.atMs
  memory.blocks.block({ ip: '10.0.0.1', durationMs: 1000, reason: '', origin: '' })
  t.equal(liftedAtMs(), clock.ms - 1, 'before the block')
  clock.ms += 5
  memory.blocks.block({ ip: '10.0.0.1', durationMs: 1000, reason: '', origin: '' })
  t.equal(liftedAtMs(), clock.ms - 6)
})

t.test('a block that another store replaced by a shorter one is known as lifted', async t => {
  const { memory, clock } = setUp(10)
  const block = { ip: '192.0.2.1', reason: '', origin: '', blockedAtMs: clock.ms }
  memory.blocks.adopt({ ...block, expiresAtMs: Infinity })
  memory.blocks.adopt({ ...block, expiresAtMs: clock.ms + 60_000 })
  t.same(memory.blocks.lifted(), [{ unblock: '192.0.2.1', atMs: clock.ms - 1 }])
  memory.blocks.adopt({ ...block, ip: '192.0.2.2', expiresAtMs: clock.ms + 60_005 })
  memory.blocks.adopt({ ...block, ip: '192.0.2.2', expiresAtMs: clock.ms + 60_000 })
  t.equal(memory.blocks.lifted().length, 1, 'the clocks of two stores differ by some ms')
})

t.test('a change that is made again late spares what was blocked after it', async t => {
  const { memory, clock } = setUp(10)
  const request = { ip: '192.0.2.1', durationMs: 1000, reason: '', origin: '', replace: true }
  memory.blocks.adopt({ ip: '192.0.2.1', reason: 'later', origin: '', blockedAtMs: clock.ms, expiresAtMs: clock.ms + 60_000 })
  t.equal(memory.blocks.unblock('192.0.2.1', clock.ms - 10), false)
  t.match(memory.blocks.block(request, clock.ms - 10), { reason: 'later' })
  t.match(memory.blocks.block(request), { reason: '', expiresAtMs: clock.ms + 1000 })
  t.equal(memory.blocks.unblock('192.0.2.1', clock.ms), true)
})
