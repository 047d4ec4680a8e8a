/** With `hashKeys`, Redis, events, log lines and diagnostics do not contain the API key of a client. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { keyHash } from '../../lib/guard/key-hash.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { guardedApp, logTo } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const server = await RedisServer.start()
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await server.stop()
})
t.beforeEach(async () => { await observer.flushall() })

const apiKey = 'sk-1234567890-an-api-key'

interface Running {
  readonly app: FastifyInstance
  readonly lines: Record<string, unknown>[]
  readonly called: string[]
  readonly get: (key?: string, url?: string) => Promise<number>
}

async function start (t: Test, options: RedisGuardOptions): Promise<Running> {
  const [lines, called]: [Record<string, unknown>[], string[]] = [[], []]
  const app = await guardedApp(t, {
    redis: server.url,
    commandTimeout: 20_000,
    max: (_, key) => { called.push(`max ${key}`); return 2 },
    timeWindow: '1 hour',
    keyGenerator: request => request.headers['x-api-key'] as string,
    onExceeding: (_, key) => { called.push(`exceeding ${key}`) },
    onExceeded: (_, key) => { called.push(`exceeded ${key}`) },
    ...options
  }, logTo(lines, 'debug'))
  app.get('/', async () => 'ok')
  app.get('/fixed', { config: { rateLimit: { max: 2 } } }, async () => 'ok')
  app.get('/listed', { config: { rateLimit: { allowList: [apiKey] } } }, async () => 'ok')
  app.get('/asked', {
    config: {
      rateLimit: {
        allowList: (_, key) => {
          called.push(`allowList ${key}`)
          return true
        }
      }
    }
  }, async () => 'ok')
  const limiter = app.createRateLimit({ max: 5 })
  app.get('/function', { config: { rateLimit: false } }, async request => {
    return [await limiter(request), await limiter(request, { increment: false })]
  })
  await app.ready()
  const get = async (key?: string, url = '/') =>
    (await app.inject({
      url,
      remoteAddress: '192.0.2.1',
      headers: key === undefined ? {} : { 'x-api-key': key }
    })).statusCode
  return { app, lines, called, get }
}

/** All names and values in Redis. */
async function everythingInRedis (): Promise<string> {
  const names = await observer.keys('*')
  const values = await Promise.all(names.map(async name => {
    switch (await observer.type(name)) {
      case 'string': return await observer.get(name)
      case 'stream': return await observer.xrange(name, '-', '+')
      case 'zset': return await observer.zrange(name, '0', '-1')
      default: return await observer.hgetall(name)
    }
  }))
  return JSON.stringify([names, values])
}

const secret = 'a secret of the shop'

for (const hashKeys of [true, secret]) {
  const how = hashKeys === true ? 'true' : 'with a secret'
  t.test(`hashKeys ${how}: callbacks get the key, and no place that others read contains it`, async t => {
    const { app, lines, called, get } = await start(t, { hashKeys })
    const published: unknown[] = []
    const listener = (message: unknown) => { published.push(message) }
    for (const name of ['allowed', 'limited']) {
      subscribe(`fastify-redis-guard:${name}`, listener)
      t.teardown(() => unsubscribe(`fastify-redis-guard:${name}`, listener))
    }
    for (const url of ['/', '/fixed']) {
      t.same([await get(apiKey, url), await get(apiKey, url), await get(apiKey, url)], [200, 200, 429])
    }
    t.same([await get(apiKey, '/listed'), await get(apiKey, '/asked')], [200, 200])
    const answer = await app.inject({ url: '/function', headers: { 'x-api-key': apiKey } })
    t.same(answer.json().map(({ key }: { key: string }) => key), [apiKey, apiKey], 'createRateLimit')
    await until(async () => (await app.redisGuard.getRateLimitEvents()).length === 2)

    const hash = keyHash(hashKeys === true ? 'guard:' : secret)(apiKey)
    t.match(hash, /^hmac:[\w-]{22}$/)
    const seen = {
      redis: await everythingInRedis(),
      lines: JSON.stringify(lines),
      published: JSON.stringify(published),
      events: JSON.stringify(await app.redisGuard.getRateLimitEvents())
    }
    for (const [place, text] of Object.entries(seen)) {
      t.notMatch(text, apiKey, place)
      t.ok(text.includes(hash), place)
    }
    t.same(called, [
      `max ${apiKey}`, `exceeding ${apiKey}`, `max ${apiKey}`, `exceeding ${apiKey}`, `max ${apiKey}`,
      `exceeded ${apiKey}`,
      `exceeding ${apiKey}`, `exceeding ${apiKey}`, `exceeded ${apiKey}`, `allowList ${apiKey}`
    ])
  })
}

t.test('a client is shown and reset by its key, and by the hash that an event shows', async t => {
  const { app, get } = await start(t, { hashKeys: true })
  const [other] = [await start(t, { hashKeys: true })]
  for (const name of [apiKey, keyHash('guard:')(apiKey)]) {
    t.same(
      [await get(apiKey, '/fixed'), await other.get(apiKey, '/fixed'), await get(apiKey, '/fixed')],
      [200, 200, 429],
      'the hash is the same on all instances'
    )
    const peeked = await app.redisGuard.limits.peek(name)
    t.match(peeked.find(limit => limit.name === 'GET:/fixed'), { remaining: 0 })
    t.equal(await app.redisGuard.limits.reset({ key: name }), true)
  }
  t.equal(await get(apiKey, '/fixed'), 200)
})

t.test('addresses are not hashed, and a client without a key is counted by its address', async t => {
  const { app, get } = await start(t, { hashKeys: true })
  t.same([
    await get(undefined, '/fixed'),
    await get(undefined, '/fixed'),
    await get(undefined, '/fixed')
  ], [200, 200, 429])
  t.match(
    (await app.redisGuard.limits.peek('192.0.2.1')).find(({ name }) => name === 'GET:/fixed@address'),
    { remaining: 0 }
  )
  t.equal(await get('192.0.2.1', '/fixed'), 200, 'a client that sends an address as its key is counted separately')
  t.match(await everythingInRedis(), /guard:fixed-window:\{192\.0\.2\.1\}/)
})

t.test('a client that sends the hash of a key is counted separately from the client with that key', async t => {
  const { get } = await start(t, { hashKeys: true })
  t.same([await get(apiKey, '/fixed'), await get(apiKey, '/fixed')], [200, 200])
  t.equal(await get(keyHash('guard:')(apiKey), '/fixed'), 200)
})

t.test('without hashKeys, keys are stored and shown unchanged', async t => {
  const { get } = await start(t, {})
  await get(apiKey, '/fixed')
  t.match(await everythingInRedis(), apiKey)
})

t.test('a secret that is too short stops the start, and is not shown', async t => {
  for (const hashKeys of ['too short', 12345, null]) {
    const error: unknown = await guardedApp(t, { hashKeys: hashKeys as string }).catch((thrown: unknown) => thrown)
    t.match(error, {
      code: 'GUARD_ERR_OPTIONS',
      message: /hashKeys must be true, false, or a secret of at least 16 characters, got a value of type/
    })
    t.notMatch((error as Error).message, /too short|12345/)
  }
})

t.test('different keys have different hashes, even if they contain lone surrogates', async t => {
  const hash = keyHash('guard:')
  const keys = ['a', 'A', 'a ', '', '\ud800', '\ud801', '\ufffd', 'a'.repeat(1000), 'a'.repeat(1001)]
  t.equal(new Set(keys.map(hash)).size, keys.length)
  t.not(hash('a'), keyHash('other:')('a'))
})
