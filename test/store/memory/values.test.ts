/** Values in memory: how many are kept, and adopting the values of another store. */
import t from 'tap'
import { MemoryValues } from '../../../lib/store/memory/values.js'

function setUp (capacity: number) {
  const clock = { ms: 1_000_000 }
  return { clock, memory: new MemoryValues({ capacity, now: () => clock.ms }) }
}

t.test('keeps a bounded number of values, and drops the oldest', async t => {
  const { memory } = setUp(2)
  for (const key of ['a', 'b', 'c']) memory.set(key, key, undefined)
  t.same(['a', 'b', 'c'].map(key => memory.get(key)), [null, 'b', 'c'])
})

t.test('adopts a value from another store, unless it changed here in the meantime', async t => {
  const { memory, clock } = setUp(10)
  const since = memory.changeCount
  memory.adopt('adopted', { text: '5', leftMs: 1000 }, since)
  t.equal(memory.get('adopted'), '5')
  memory.set('changed', 'local', undefined)
  memory.adopt('changed', { text: 'remote', leftMs: Infinity }, since)
  memory.adopt('changed', undefined, since)
  t.equal(memory.get('changed'), 'local')
  memory.adopt('changed', undefined, memory.changeCount)
  t.equal(memory.get('changed'), null)
  clock.ms += 1000
  t.equal(memory.get('adopted'), null)
})
