/** A cache of bounded size that keeps the entries in use. */
import t from 'tap'
import { BoundedCache } from '../../lib/guard/bounded-cache.js'

t.test('finds an entry by both parts of its key', async t => {
  const cache = new BoundedCache<number>(10)
  cache.set('a', 'b', 1)
  cache.set(undefined, 'b', 2)
  t.equal(cache.get('a', 'b'), 1)
  t.equal(cache.get(undefined, 'b'), 2)
  t.equal(cache.get('b', 'a'), undefined)
  t.equal(cache.get('a', 'c'), undefined)
})

t.test('never holds more than its capacity', async t => {
  for (const capacity of [1, 2, 3, 10, 101]) {
    const cache = new BoundedCache<number>(capacity)
    for (let i = 0; i < 1000; i++) cache.set(`outer ${i % 3}`, String(i), i)
    const found = Array.from({ length: 1000 }, (_, i) => cache.get(`outer ${i % 3}`, String(i)))
    const held = found.filter(i => i !== undefined)
    t.ok(held.length >= 1 && held.length <= Math.max(2, capacity + 1), `${held.length} of ${capacity}`)
  }
})

t.test('an entry in use stays, whatever else comes and goes', async t => {
  const cache = new BoundedCache<string>(10)
  cache.set('a', 'used', 'kept')
  for (let i = 0; i < 1000; i++) {
    cache.set('a', `other ${i}`, 'other')
    if (i % 5 === 0) t.equal(cache.get('a', 'used'), 'kept')
  }
  t.equal(cache.get('a', 'other 0'), undefined)
})

t.test('setting an entry again replaces it, and takes no more room', async t => {
  const cache = new BoundedCache<number>(4)
  cache.set('a', 'first', 1)
  for (let i = 0; i < 100; i++) cache.set('a', 'again', i)
  t.equal(cache.get('a', 'again'), 99)
  t.equal(cache.get('a', 'first'), 1)
})
