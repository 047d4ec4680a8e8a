/** A cache of bounded size that keeps the entries in use. */
import t from 'tap'
import { BoundedCache } from '../../lib/guard/bounded-cache.js'

/** Offers a value twice, so that it is cached. */
function put<V> (cache: BoundedCache<V>, outer: string | undefined, inner: string, value: V): void {
  cache.offer(outer, inner, value)
  cache.offer(outer, inner, value)
}

t.test('finds an entry by both parts of its key', async t => {
  const cache = new BoundedCache<number>(10)
  put(cache, 'a', 'b', 1)
  put(cache, undefined, 'b', 2)
  t.equal(cache.get('a', 'b'), 1)
  t.equal(cache.get(undefined, 'b'), 2)
  t.equal(cache.get('b', 'a'), undefined)
  t.equal(cache.get('a', 'c'), undefined)
})

t.test('caches a key when it comes for the second time', async t => {
  const cache = new BoundedCache<number>(10)
  for (const key of ['', 'x', '203.0.113.7', 'é\ud800', 'k'.repeat(200)]) {
    cache.offer(undefined, key, 1)
    t.equal(cache.get(undefined, key), undefined)
    cache.offer(undefined, key, 2)
    t.equal(cache.get(undefined, key), 2)
  }
})

t.test('keys that come once push out nothing', async t => {
  const cache = new BoundedCache<string>(10)
  put(cache, undefined, 'returns', 'kept')
  for (let i = 0; i < 100_000; i++) cache.offer(undefined, `198.18.${i >> 8}.${i & 255}`, 'once')
  t.equal(cache.get(undefined, 'returns'), 'kept')
})

t.test('never holds more than its capacity', async t => {
  for (const capacity of [1, 2, 3, 10, 101]) {
    const cache = new BoundedCache<number>(capacity)
    for (let i = 0; i < 1000; i++) put(cache, `outer ${i % 3}`, String(i), i)
    const found = Array.from({ length: 1000 }, (_, i) => cache.get(`outer ${i % 3}`, String(i)))
    const held = found.filter(i => i !== undefined)
    t.ok(held.length >= 1 && held.length <= Math.max(2, capacity + 1), `${held.length} of ${capacity}`)
  }
})

t.test('an entry in use stays, whatever else comes and goes', async t => {
  const cache = new BoundedCache<string>(10)
  put(cache, 'a', 'used', 'kept')
  for (let i = 0; i < 1000; i++) {
    put(cache, 'a', `other ${i}`, 'other')
    if (i % 5 === 0) t.equal(cache.get('a', 'used'), 'kept')
  }
  t.equal(cache.get('a', 'other 0'), undefined)
})

t.test('an entry that is offered again takes no more room', async t => {
  const cache = new BoundedCache<number>(4)
  put(cache, 'a', 'first', 1)
  for (let i = 0; i < 100; i++) cache.offer('a', 'again', i)
  t.equal(cache.get('a', 'again'), 99)
  t.equal(cache.get('a', 'first'), 1)
})
