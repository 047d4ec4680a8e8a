/** Plain values in this process: how many are kept, and what another store has reported of them. */
import t from 'tap'
import { MemoryValues } from '../../../lib/store/memory/values.js'

function setUp (capacity: number) {
  const clock = { ms: 1_000_000 }
  return { clock, memory: new MemoryValues({ capacity, now: () => clock.ms }) }
}

t.test('values are bounded: the oldest goes first', async t => {
  const { memory } = setUp(2)
  for (const key of ['a', 'b', 'c']) memory.set(key, key, undefined)
  t.same(['a', 'b', 'c'].map(key => memory.get(key)), [null, 'b', 'c'])
})

t.test('what another store reports of a value is taken over, unless the value was changed here since', async t => {
  const { memory, clock } = setUp(10)
  const since = memory.changeCount
  memory.adopt('told', { text: '5', leftMs: 1000 }, since)
  t.equal(memory.get('told'), '5')
  memory.set('changed', 'here', undefined)
  memory.adopt('changed', { text: 'there', leftMs: Infinity }, since)
  memory.adopt('changed', undefined, since)
  t.equal(memory.get('changed'), 'here')
  memory.adopt('changed', undefined, memory.changeCount)
  t.equal(memory.get('changed'), null)
  clock.ms += 1000
  t.equal(memory.get('told'), null)
})
