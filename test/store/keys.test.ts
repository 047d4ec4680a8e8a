/** The names of keys in Redis: readable, in the right slot, and different for different things. */
import crypto from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import fc from 'fast-check'
import t from 'tap'
import { type Algorithm, algorithms } from '../../lib/rules/algorithms.js'
import { CounterKeys, Keys } from '../../lib/store/keys.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

const keys = new Keys('guard:')

const parts = [
  '%', '{', '}', ' ', '\n', '\r', ':', '%empty', '%0020', '%007b', '0020', 'a', 'A', 'é', '😀', '\ud800', '\udc00',
  '\0', ''
]
/** Texts with characters that could end a part or look escaped, around the length above which a text is hashed. */
const texts = fc.oneof(
  fc.array(fc.constantFrom(...parts), { maxLength: 4 }).map(list => list.join('')),
  fc.string({ unit: 'binary', maxLength: 8 }),
  fc.tuple(fc.constantFrom(...parts), fc.integer({ min: 190, max: 210 })).map(([unit, length]) => {
    return `${'a'.repeat(length)}${unit}`
  })
)
const triples = fc.tuple(fc.constantFrom(...algorithms), texts, texts)

/** The part of a key that decides its slot in a Redis Cluster. */
function hashTag (key: string): string {
  const start = key.indexOf('{')
  const end = key.indexOf('}', start)
  return start === -1 || end === -1 || end === start + 1 ? key : key.slice(start + 1, end)
}

t.test('a key reads like what it holds', async t => {
  const names: [key: string, expected: string][] = [
    [keys.newCounter('fixed-window', 'login', '203.0.113.7'), 'guard:fixed-window:{203.0.113.7}:login'],
    [keys.newCounter('gcra', 'GET:/users/:id', '2001:db8:1:2::/64'), 'guard:gcra:{2001:db8:1:2::/64}:GET:/users/:id'],
    [keys.newCounter('gcra', '', 'a b'), 'guard:gcra:{a%0020b}:%empty'],
    [keys.blocks, 'guard:{blocks}'],
    [keys.blockExpiry, 'guard:{blocks}:expiry'],
    [keys.blockChanges, 'guard:{blocks}:changes'],
    [keys.blockSequence, 'guard:{blocks}:sequence'],
    [keys.events, 'guard:{events}'],
    [keys.suspects, 'guard:{events}:suspects'],
    [keys.probe, 'guard:probe'],
    [keys.value('any {text}'), 'guard:value:{any%0020%007btext%007d}']
  ]
  for (const [key, expected] of names) t.equal(key, expected)
})

t.test('the keys that one script uses lie in one slot', async t => {
  t.same([keys.blocks, keys.blockExpiry, keys.blockChanges, keys.blockSequence].map(hashTag), [
    'blocks', 'blocks', 'blocks', 'blocks'
  ])
  t.same([keys.events, keys.suspects].map(hashTag), ['events', 'events'])
})

t.test('different clients, limits and algorithms never share a key', async t => {
  fc.assert(fc.property(fc.array(triples, { minLength: 2, maxLength: 100 }), list => {
    const taken = new Map<string, string>()
    return list.every(([algorithm, name, client]) => {
      const key = keys.newCounter(algorithm, name, client)
      const triple = JSON.stringify([algorithm, name, client])
      const isOwn = (taken.get(key) ?? triple) === triple
      taken.set(key, triple)
      return isOwn
    })
  }), { seed, numRuns: 500 })
})

t.test('long texts that differ in a lone surrogate have different keys', async t => {
  const long = 'a'.repeat(300)
  t.not(keys.newCounter('gcra', 'login', `${long}\ud800`), keys.newCounter('gcra', 'login', `${long}\ud801`))
})

t.test('no text can end its part, the hash tag or the line', async t => {
  fc.assert(fc.property(triples, ([algorithm, name, client]) => {
    const key = keys.newCounter(algorithm, name, client)
    return /^guard:[a-z-]+:\{[^{}\s\p{Cc}\p{Cs}]+\}:[^{}\s\p{Cc}\p{Cs}]+$/u.test(key)
  }), { seed, numRuns: 2000 })
})

t.test('all limits of a client lie in one slot', async t => {
  fc.assert(fc.property(triples, triples, ([algorithm, name, client], [otherAlgorithm, otherName]) => {
    const other = keys.newCounter(otherAlgorithm, otherName, client)
    return hashTag(keys.newCounter(algorithm, name, client)) === hashTag(other)
  }), { seed })
  t.not(hashTag(keys.newCounter('gcra', 'login', 'a')), hashTag(keys.newCounter('gcra', 'login', 'b')))
})

t.test('a long text is hashed once for all limits of its client, as long as they ask in a row', async t => {
  const { createHash } = crypto
  let hashes = 0
  Object.assign(crypto, {
    createHash: (...args: Parameters<typeof createHash>) => {
      hashes++
      return createHash(...args)
    }
  })
  syncBuiltinESMExports()
  t.teardown(() => {
    Object.assign(crypto, { createHash })
    syncBuiltinESMExports()
  })
  const names = Array.from({ length: 10 }, (_, i) => `limit ${i}`)
  const keysOf = (client: string) => names.map(name => keys.newCounter('fixed-window', name, client))
  const first = keysOf('a'.repeat(1_000_000))
  t.same(keysOf('a'.repeat(1_000_000)), first)
  t.equal(hashes, 1)
  t.not(keysOf('b'.repeat(1_000_000))[0], first[0])
  t.same(keysOf('a'.repeat(1_000_000)), first)
  t.equal(hashes, 3, 'only the last hash is remembered')
})

t.test('a client key of 1 MB becomes a short key', async t => {
  const key = keys.newCounter('fixed-window', 'login', 'x'.repeat(1_000_000))
  t.match(key, /^guard:fixed-window:\{%sha256-[\w-]{43}\}:login$/)
  t.match(keys.newCounter('fixed-window', 'login', 'x'.repeat(200)), 'x'.repeat(200))
  t.ok(keys.newCounter('fixed-window', '\n'.repeat(200), '\n'.repeat(200)).length < 2100)
})

t.test('no client key equals the key of a long text or of an empty one', async t => {
  const long = keys.newCounter('gcra', 'login', 'x'.repeat(201))
  t.not(keys.newCounter('gcra', 'login', hashTag(long)), long)
  t.not(keys.newCounter('gcra', 'login', '%empty'), keys.newCounter('gcra', 'login', ''))
})

t.test('two name spaces share no keys', async t => {
  t.not(new Keys('a:').newCounter('gcra', 'login', 'x'), new Keys('b:').newCounter('gcra', 'login', 'x'))
  t.not(new Keys('a:').value('x'), new Keys('b:').value('x'))
})

const limitOf = (algorithm: Algorithm, name: string) => ({ name, limit: { algorithm } })

t.test('the keys that a client remembers are the keys built from its name', async t => {
  const owner = { clientKey: 'a client', counterKeys: new CounterKeys('a client') }
  const names = Array.from({ length: 10 }, (_, i) => `limit ${i}`)
  for (const round of [1, 2, 3]) {
    for (const algorithm of algorithms) {
      for (const name of names) {
        const key = keys.newCounter(algorithm, name, 'a client')
        t.equal(keys.counter(owner, limitOf(algorithm, name)), key, `${round} ${key}`)
        t.equal(keys.counter(owner, limitOf(algorithm, name)), key, `${round} ${key}, remembered`)
      }
    }
  }
})

t.test('a client remembers the places of its last four counters', async t => {
  const counterKeys = new CounterKeys('client')
  const placeOf = (name: string) => keys.place({ clientKey: 'client', counterKeys }, limitOf('gcra', name))
  const [a, ...others] = ['a', 'b', 'c', 'd', 'e'].map(name => ({ name, place: placeOf(name) }))
  t.equal(counterKeys.find('gcra', a!.name), undefined)
  for (const { name, place } of others) {
    t.equal(place.key, `guard:gcra:{client}:${name}`)
    t.equal(placeOf(name), place, 'the same object')
  }
  t.equal(counterKeys.find('fixed-window', 'e'), undefined)
})

t.test('without such a memory, each place is a new one', async t => {
  const [one, other] = [1, 2].map(() => keys.place({ clientKey: 'client' }, limitOf('gcra', 'login')))
  t.same(one, other)
  t.not(one, other)
})
