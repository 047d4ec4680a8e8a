/** The answers that a `keyGenerator` may give, and those that make the address the key. */
import { randomUUID } from 'node:crypto'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { readClientId } from '../../lib/http/client-id.js'
import type { RateLimitOptions } from '../../lib/settings/options.js'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'

/** Like the ObjectId of BSON. */
class ObjectId {
  readonly #hex: string

  constructor (hex: string) {
    this.#hex = hex
  }

  toString (): string {
    return this.#hex
  }
}

class Inherits extends ObjectId {}

class WithoutText {}

const uuid = randomUUID()

const ids: [what: string, id: unknown, key: string][] = [
  ['a text', 'partner', 'partner'],
  ['a number', 7, '7'],
  ['a negative number', -1.5, '-1.5'],
  ['a BigInt', 2n ** 70n, '1180591620717411303424'],
  ['an object of a class with a toString', new ObjectId('507f1f77bcf86cd799439011'), '507f1f77bcf86cd799439011'],
  ['an object of a class that inherits one', new Inherits(uuid), uuid],
  ['an object with a toString of its own', { toString: () => 'own' }, 'own'],
  ['a URL', new URL('https://user.example/7'), 'https://user.example/7'],
  ['a Buffer', Buffer.from([0, 255, 254]), '00fffe'],
  ['a part of a Buffer', Buffer.from('abcdef').subarray(1, 3), '6263'],
  ['bytes', new Uint8Array([1, 2, 3]), '010203'],
  ['bytes of another context', runInNewContext('new Uint8Array([4, 5])'), '0405']
]

const none: [what: string, answer: unknown][] = [['undefined', undefined], ['null', null], ['an empty text', '']]

const wrong: [what: string, answer: unknown, shown: string][] = [
  ['true', true, 'true'],
  ['false', false, 'false'],
  ['NaN', NaN, 'NaN'],
  ['Infinity', -Infinity, '-Infinity'],
  ['a symbol', Symbol('id'), 'a symbol'],
  ['a function', () => 'id', 'a function'],
  ['an array', ['a', 'b'], 'an array of 2'],
  ['an object', { id: 7 }, 'an object'],
  ['an object of another context', runInNewContext('({ id: 7 })'), 'an object'],
  ['an object of a class without a toString', new WithoutText(), 'an object'],
  ['an object without a prototype', Object.create(null), 'an object'],
  ['an object whose toString is none', { toString: 'id' }, 'an object'],
  ['an object whose toString throws', { toString () { throw new Error('no id') } }, 'an object'],
  ['an object whose toString answers no text', { toString: () => 7 }, 'an object'],
  ['an object whose toString answers an empty text', new URLSearchParams(), 'an object'],
  ['a Map', new Map([['id', 7]]), 'an object'],
  ['a Date, whose text lacks the ms', new Date(), 'an object'],
  ['numbers that are no bytes', new Uint16Array([1, 2]), 'an object'],
  ['no bytes', new Uint8Array(), 'an object']
]

t.test('counts a client by the text of its id', async t => {
  for (const [what, id, key] of ids) t.equal(readClientId(id), key, what)
})

t.test('only undefined, null and an empty string stand for the address', async t => {
  for (const [what, answer] of none) t.equal(readClientId(answer), undefined, what)
})

t.test('an answer that is not an id is an error that names keyGenerator and the answer', async t => {
  for (const [what, answer, shown] of wrong) {
    const rule = 'a string, a finite number, a BigInt, bytes or an object with a toString of its own'
    const message = `keyGenerator must answer ${rule}, got ${shown}`
    t.throws(() => readClientId(answer), { code: 'GUARD_ERR_LIMIT', message }, what)
  }
})

t.test('every way to limit reads the answer of keyGenerator alike, in memory and on Redis', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  for (const redis of [false, server.url] as const) {
    let answer: unknown
    const rateLimit: RateLimitOptions = { max: 1, keyGenerator: async () => answer as string }
    const app = await guardedApp(t, { redis, commandTimeout: 20_000, ...rateLimit })
    const limiter = app.createRateLimit(rateLimit)
    app.get('/plugin', async () => 'ok')
    app.get('/route', { config: { rateLimit } }, async () => 'ok')
    app.get('/hook', { config: { rateLimit: false }, preHandler: app.rateLimit(rateLimit) }, async () => 'ok')
    app.get('/function', { config: { rateLimit: false } }, async (request, reply) => {
      const { isExceeded } = await limiter(request) as { isExceeded: boolean }
      await reply.code(isExceeded ? 429 : 200).send()
    })
    const get = async (url: string, remoteAddress: string) => await app.inject({ url, remoteAddress })
    for (const url of ['/plugin', '/route', '/hook', '/function']) {
      for (const [what, id] of ids) {
        answer = id
        const statuses = [(await get(url, '192.0.2.1')).statusCode, (await get(url, '192.0.2.2')).statusCode]
        t.same(statuses, [200, 429], `${url}: ${what}: one id at two addresses has one quota`)
      }
      for (const [i, [what, nothing]] of none.entries()) {
        answer = nothing
        const address = `198.51.100.${i}`
        const statuses = [(await get(url, address)).statusCode, (await get(url, address)).statusCode]
        t.same(statuses, [200, 429], `${url}: ${what}: an address has one quota`)
      }
      answer = ['a', 'b']
      const failed = { statusCode: 500, code: 'GUARD_ERR_LIMIT', message: 'The request cannot be rate limited' }
      t.match((await get(url, '192.0.2.9')).json(), failed, url)
    }
  }
})

t.test('functions get the exact value that keyGenerator returns, or an address if it returns none', async t => {
  for (const hashKeys of [false, true]) {
    let answer: unknown
    const heard: unknown[] = []
    const hear = (request: unknown, key: unknown) => { heard.push(key) }
    const app = await guardedApp(t, {
      hashKeys,
      keyGenerator: () => answer as string,
      max: (request, key) => { hear(request, key); return 1 },
      allowList: (request, key) => { hear(request, key); return false },
      onExceeding: hear,
      onExceeded: hear
    })
    const check = app.createRateLimit({ max: 1 })
    app.get('/', async () => 'ok')
    app.get('/function', { config: { rateLimit: false } }, async request => {
      for (const increment of [true, false]) heard.push((await check(request, { increment })).key)
    })
    for (const [what, id] of [...ids, ...none.map(([what, nothing]) => [what, nothing] as const)]) {
      answer = id
      heard.length = 0
      await app.inject('/')
      await app.inject('/')
      await app.inject('/function')
      const expected = none.some(([, nothing]) => nothing === id) ? '127.0.0.1' : id
      // The 2 keys of the function follow 2 calls of allowList.
      t.equal(heard.length, 10, what)
      t.ok(heard.every(key => Object.is(key, expected)), `${what}: ${String(heard)}`)
    }
  }
})
