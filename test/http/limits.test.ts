/** Options of a limit beyond one number per window: several limits, costs, bans, shadow, and refunds. */
import type { FastifyInstance, FastifyServerOptions, InjectOptions } from 'fastify'
import { parseList } from 'structured-headers'
import t, { type Test } from 'tap'
import type { RateLimitOptions, RedisGuardOptions, RouteRateLimitOptions } from '../../lib/settings/options.js'
import { writeIntervalMs } from '../../lib/guard/refusal-cache.js'
import { normalizeIP } from '../../lib/index.js'
import { algorithms } from '../../lib/rules/algorithms.js'
import { isInPart } from '../../lib/rules/sample.js'
import { timers } from '../../lib/runtime/timers.js'
import { MemoryLimits } from '../../lib/store/memory/limits.js'
import { guardedApp, logTo } from '../support/app.js'
import { mockMachinery } from '../support/fake-timers.js'
import { failingAtOnce, failingLater } from '../support/failing.js'
import { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

const ok = async () => 'ok'
let namespaces = 0

/** Long enough for Redis to answer on a busy machine. */
const commandTimeout = 20_000

/** Seconds in a header when a minute, or an hour, began a while ago: tests may be slow. */
const upToAMinute = /^(60|5\d)$/
const upToAnHour = /^(3600|35\d\d)$/
const retryInAMinute = /^Rate limit exceeded, retry in (1 minute|5\d seconds)$/

/** Runs a test in memory and on Redis. */
function onBoth (title: string, run: (
  t: Test, app: (options?: RedisGuardOptions, server?: FastifyServerOptions) => Promise<FastifyInstance>
) => Promise<void>): void {
  for (const [where, redis] of [['in memory', false], ['on Redis', server.url]] as const) {
    t.test(`${title} (${where})`, async t => {
      await run(t, async (options, server) =>
        await guardedApp(t, { redis, nameSpace: `test${++namespaces}:`, commandTimeout, ...options }, server))
    })
  }
}

/** Sets the clock that decides when Redis is asked again about a refused client, for applications made afterwards. */
function steppedClock (t: Test): { nowMs: number } {
  const clock = { nowMs: timers.monotonicMs() }
  t.intercept(timers, 'monotonicMs', { value: () => clock.nowMs })
  return clock
}

/**
 * Waits until Redis has counted the refusals made in the process: refusals of all clients are written together, so the
 * function waits for a later refusal of another client.
 *
 * @param url  a route that counts each hit
 */
async function refusalsAreWritten (app: FastifyInstance, url: string): Promise<void> {
  if (app.redisGuard.status.store === 'memory') return
  const address = `198.51.100.${++otherClients}`
  const refused = (await statuses(app, 12, { url, remoteAddress: address })).filter(status => status !== 401).length
  const client = server.client()
  try {
    await until(async () => {
      const values = await Promise.all((await client.keys(`*{${address}}*`)).map(async key => await client.get(key)))
      return values.some(value => value!.endsWith(`:${refused}`))
    })
  } finally {
    client.disconnect()
  }
}

let otherClients = 0

async function get (app: FastifyInstance, options: InjectOptions | string = '/') {
  return await app.inject(options)
}

async function statuses (
  app: FastifyInstance,
  count: number,
  options: InjectOptions | string = '/'
): Promise<number[]> {
  const all: number[] = []
  for (let i = 0; i < count; i++) all.push((await get(app, options)).statusCode)
  return all
}

const burstAndDaily: RateLimitOptions = {
  limits: [
    { name: 'burst', max: 2, timeWindow: '1 minute' },
    { name: 'daily', max: 5, timeWindow: '1 day', algorithm: 'sliding-window' }
  ]
}

onBoth('several limits are decided together: a hit that one refuses is counted by none', async (t, newApp) => {
  const app = await newApp()
  app.get('/', { config: { rateLimit: burstAndDaily } }, ok)
  t.same(await statuses(app, 2), [200, 200])
  t.same(await statuses(app, 5), [429, 429, 429, 429, 429])
  await app.redisGuard.limits.set('GET:/:burst', { max: 100, timeWindow: '1 minute' })
  // 2 were accepted and 5 refused; the daily limit has counted the 2.
  await until(async () => (await app.redisGuard.limits.peek('127.0.0.1')).some(({ name, max }) => {
    return name === 'GET:/:burst' && max === 100
  }))
  t.equal((await app.redisGuard.limits.peek('127.0.0.1')).find(({ name }) => name === 'GET:/:daily')!.remaining, 3)
})

onBoth('headers show the tightest of several limits, or the one that refuses', async (t, newApp) => {
  const app = await newApp()
  app.get('/', {
    config: {
      rateLimit: {
        limits: [{ name: 'hour', max: 3, timeWindow: '1 hour' }, { name: 'minute', max: 2, timeWindow: '1 minute' }]
      }
    }
  }, ok)
  t.match((await get(app)).headers, {
    'x-ratelimit-limit': '2',
    'x-ratelimit-remaining': '1',
    'x-ratelimit-reset': '60'
  })
  t.equal((await get(app)).statusCode, 200)
  const refused = await get(app)
  t.match(refused.headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': '0', 'retry-after': upToAMinute })
  t.match(refused.json().message, retryInAMinute)
  await app.redisGuard.limits.set('GET:/:minute', { max: 100, timeWindow: '1 minute' })
  await until(async () => (await get(app)).headers['x-ratelimit-limit'] === '3')
  await until(async () => (await get(app)).statusCode === 429)
  t.match((await get(app)).headers['retry-after'], upToAnHour)
})

onBoth('a route has its own list of limits, its own single limit, or the list of the plugin', async (t, newApp) => {
  const app =
    await newApp({ limits: [{ name: 'a', max: 1, timeWindow: 1000 }, { name: 'b', max: 2, timeWindow: 60_000 }] })
  app.get('/plugin', ok)
  app.get('/single', { config: { rateLimit: { max: 3 } } }, ok)
  app.get('/list', { config: { rateLimit: { limits: [{ name: 'c', max: 4, timeWindow: 1000 }] } } }, ok)
  app.get('/hook', { config: { rateLimit: { hook: 'preHandler' } } }, ok)
  t.equal((await get(app, '/plugin')).headers['x-ratelimit-limit'], '1')
  t.equal((await get(app, '/single')).headers['x-ratelimit-limit'], '3')
  t.equal((await get(app, '/list')).headers['x-ratelimit-limit'], '4')
  t.equal((await get(app, '/hook')).headers['x-ratelimit-limit'], '1')
  t.same(app.redisGuard.limits.names, [
    'global:a', 'global:b', 'GET:/single', 'GET:/list:c', 'GET:/hook:a', 'GET:/hook:b'
  ])
})

onBoth('a request counts for as many hits as its cost, and a cheaper one may still fit', async (t, newApp) => {
  const app = await newApp()
  const cost = (request: { query: unknown }) => Number((request.query as { cost: string }).cost)
  app.get('/', { config: { rateLimit: { max: 10, cost } } }, ok)
  app.get('/fixed', { config: { rateLimit: { max: 10, cost: 4, algorithm: 'gcra' } } }, ok)
  t.equal((await get(app, '/?cost=7')).headers['x-ratelimit-remaining'], '3')
  t.equal((await get(app, '/?cost=4')).statusCode, 429)
  t.equal((await get(app, '/?cost=3')).headers['x-ratelimit-remaining'], '0')
  t.same(await statuses(app, 3, '/fixed'), [200, 200, 429])
})

const costOf = (request: { query: unknown }) => JSON.parse((request.query as { cost: string }).cost) as number

t.test('a fixed cost that could never fit, or is 0, stops the start', async t => {
  const app = await guardedApp(t)
  const place = 'GET /never config.rateLimit.cost'
  const adding = (cost: number) => () => app.get('/never', { config: { rateLimit: { max: 10, cost } } }, ok)
  t.throws(adding(11), { message: new RegExp(`${place} must be at most 10, or no request would ever fit, got 11`) })
  t.throws(adding(0), { message: new RegExp(`${place} must be a whole number >= 1, .*got 0`) })
})

onBoth('a request whose cost can never fit gets a 429 without retry-after that says so', async (t, newApp) => {
  const app = await newApp({ cost: costOf })
  const routes: Record<string, RouteRateLimitOptions> = {
    ...Object.fromEntries(algorithms.map(algorithm => [algorithm, { max: 10, algorithm }])),
    burst: { max: 10, burst: 2, algorithm: 'gcra', problemDetails: true },
    computed: { max: () => 4, cost: 5 },
    nobody: { max: 0 }
  }
  for (const [name, rateLimit] of Object.entries(routes)) app.get(`/${name}`, { config: { rateLimit } }, ok)
  for (const algorithm of algorithms) {
    const url = `/${algorithm}`
    for (const cost of ['11', '9007199254740992', '1e300', '1e999']) {
      const refused = await get(app, `${url}?cost=${cost}`)
      const message = 'Rate limit exceeded, the request counts for more than the limit of 10 allows'
      t.match(refused, { statusCode: 429, headers: { 'x-ratelimit-limit': '10', 'x-ratelimit-remaining': '10' } }, cost)
      t.same(refused.json(), { statusCode: 429, code: 'GUARD_LIMITED', error: 'Too Many Requests', message }, cost)
      t.notOk('retry-after' in refused.headers, cost)
    }
    t.equal((await get(app, `${url}?cost=10`)).statusCode, 200, 'no quota was used')
    t.ok(Number((await get(app, `${url}?cost=1`)).headers['retry-after']) > 0)
    t.notOk('retry-after' in (await get(app, `${url}?cost=11`)).headers)
  }
  t.match((await get(app, '/burst?cost=3')).json(), {
    status: 429,
    detail: /counts for more than the limit of 2 allows/
  })
  t.notOk('retry-after' in (await get(app, '/computed')).headers, 'a fixed cost above a computed max')
  t.equal((await get(app, '/nobody?cost=5')).headers['retry-after'], '60', 'a max of 0 has a retry-after for any cost')
})

onBoth('a request that can never fit counts as a refusal, and uses no quota', async (t, newApp) => {
  const app = await newApp({ cost: costOf, max: 10 })
  app.get('/', { config: { rateLimit: { ban: 1 } } }, ok)
  const limits = [{ name: 'a', max: 10, timeWindow: '1 minute' }, { name: 'b', max: 100, timeWindow: '1 hour' }]
  app.get('/several', { config: { rateLimit: { limits } } }, ok)
  const one = { statusCode: 429, headers: { 'x-ratelimit-remaining': '10' } }
  t.match(await get(app, '/?cost=11'), one)
  t.match(await get(app, '/?cost=10'), { statusCode: 200, headers: { 'x-ratelimit-remaining': '0' } })
  t.match(await get(app, '/?cost=11'), { statusCode: 403 })
  t.match(await get(app, '/several?cost=11'), one, 'the limit that it can never fit')
  t.match((await get(app, '/several?cost=1')).headers, { 'x-ratelimit-remaining': '9' })
})

onBoth('the application may answer a request that can never fit with a 413', async (t, newApp) => {
  const app = await newApp({
    cost: costOf,
    errorResponseBuilder: (request, { statusCode, ttl, after }) =>
      Object.assign(new Error(`retry: ${after}`), { statusCode: ttl === Infinity ? 413 : statusCode })
  })
  app.get('/', { config: { rateLimit: { max: 10 } } }, ok)
  t.match(await get(app, '/?cost=11'), { statusCode: 413, body: /retry: never/ })
  t.match(await statuses(app, 2, '/?cost=10'), [200, 429])
})

onBoth('a limiter reports that a request that can never fit is exceeded and never passes', async (t, newApp) => {
  const app = await newApp()
  for (const algorithm of algorithms) {
    const check = app.createRateLimit({ max: 10, algorithm, cost: costOf })
    app.get(`/${algorithm}`, async request => {
      const { increment } = request.query as { increment: string }
      const { isExceeded, ttl, ttlInSeconds } =
        await check(request, { increment: increment === 'true' }) as Record<string, unknown>
      return [isExceeded, String(ttl), String(ttlInSeconds)]
    })
  }
  for (const algorithm of algorithms) {
    for (const increment of [false, true]) {
      const url = `/${algorithm}?increment=${increment}&cost=`
      t.same((await get(app, `${url}11`)).json(), [true, 'Infinity', 'Infinity'], url)
      t.equal((await get(app, `${url}2`)).json()[0], false, url)
    }
  }
})

onBoth('a request of cost 0 is neither counted nor refused, and headers show the quota', async (t, newApp) => {
  const app = await newApp({ cost: costOf, max: 10, countWhen: request => costOf(request) > 0 })
  for (const algorithm of algorithms) app.get(`/${algorithm}`, { config: { rateLimit: { algorithm } } }, ok)
  app.get('/nobody', { config: { rateLimit: { max: 0 } } }, ok)
  app.get('/lowered', { config: { rateLimit: {} } }, ok)
  for (const algorithm of algorithms) {
    const url = `/${algorithm}`
    for (let i = 0; i < 3; i++) {
      const first = await get(app, `${url}?cost=0`)
      t.match(first, { statusCode: 200, headers: { 'x-ratelimit-remaining': '10', 'x-ratelimit-reset': '0' } })
    }
    t.equal((await get(app, `${url}?cost=10`)).statusCode, 200)
    t.equal((await get(app, `${url}?cost=1`)).statusCode, 429)
    t.match(await get(app, `${url}?cost=0`), { statusCode: 200, headers: { 'x-ratelimit-remaining': '0' } })
    t.equal((await get(app, `${url}?cost=1`)).statusCode, 429)
  }
  t.same(await statuses(app, 2, '/nobody?cost=0'), [200, 200])
  await get(app, '/lowered?cost=10')
  await app.redisGuard.limits.set('GET:/lowered', { max: 5, timeWindow: '1 minute' })
  t.match(await get(app, '/lowered?cost=0'), { statusCode: 200, headers: { 'x-ratelimit-remaining': '0' } })
})

t.test('requests of cost 0 do not make a refused client ask Redis again', async t => {
  // The clock stands still: half a second later Redis would be asked, whatever the cost.
  steppedClock(t)
  const nameSpace = `test${++namespaces}:`
  const app = await guardedApp(t, { redis: server.url, nameSpace, commandTimeout, max: 1, cost: costOf })
  app.get('/', ok)
  t.same(await statuses(app, 2, '/?cost=1'), [200, 429])
  for (let i = 0; i < 5; i++) {
    t.same([await statuses(app, 1, '/?cost=0'), await statuses(app, 1, '/?cost=1')], [[200], [429]])
  }
  const { body } = await get(app, '/metrics?cost=0')
  t.match(body, /outcome="limited",source="redis"} 1\n/)
  t.match(body, /outcome="limited",source="local"} 5\n/)
})

t.test('a cost of 0 leaves no trace during an outage, nor in Redis after it', async t => {
  t.jobs = 2
  for (const onOutage of ['memory', 'share'] as const) {
    t.test(`onOutage: ${onOutage}`, { buffered: true }, async t => {
      const proxy = await TcpProxy.start(server.port)
      t.teardown(async () => await proxy.stop())
      const nameSpace = `test${++namespaces}:`
      const app = await guardedApp(t, {
        redis: { port: proxy.port },
        commandTimeout: 1000,
        resetTimeout: 100,
        nameSpace,
        onOutage
      })
      const limits = [
        { name: 'free', max: 5, timeWindow: '1 hour', cost: () => 0 },
        { name: 'paid', max: 5, timeWindow: '1 hour' }
      ]
      app.get('/', { config: { rateLimit: { limits, countWhen: request => !request.url.includes('back') } } }, ok)
      const goes = async (store: 'memory' | 'redis') => {
        proxy.blackhole = store === 'memory'
        await until(async () => {
          await app.redisGuard.get('x')
          return app.redisGuard.status.store === store
        })
      }
      const left = async () =>
        (await app.redisGuard.limits.peek('127.0.0.1')).slice(1).map(({ remaining }) => remaining)
      await goes('redis')
      t.same([await statuses(app, 1), await statuses(app, 1, '/?back')], [[200], [200]])
      await goes('memory')
      t.same([await statuses(app, 1), await statuses(app, 1, '/?back')], [[200], [200]])
      await until(async () => (await left())[1] === 3)
      t.same(await left(), [5, 3])
      await goes('redis')
      t.same(await left(), [5, 3])
      const client = server.client()
      t.teardown(() => client.disconnect())
      const counters = (await client.keys(`${nameSpace}fixed-window:*`)).map(key => key.slice(nameSpace.length))
      t.same(counters, ['fixed-window:{127.0.0.1}:GET:/:paid'])
    })
  }
})

t.test('while Redis is away, a request of cost 0 passes even with onOutage: deny', async t => {
  const app = await guardedApp(t, { redis: 'redis://127.0.0.1:1', connectTimeout: 50, onOutage: 'deny', cost: costOf })
  app.get('/', ok)
  t.same([await statuses(app, 1, '/?cost=1'), await statuses(app, 1, '/?cost=0')], [[503], [200]])
})

t.test('a cost that is negative or not a whole number gives a 500 and a log line', async t => {
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, {}, logTo(lines, 'error'))
  app.get('/', { config: { rateLimit: { max: 10, cost: costOf } } }, ok)
  for (const given of ['-1', '"2"', '1.5', 'null', '-1e999']) {
    const refused = await get(app, `/?cost=${encodeURIComponent(given)}`)
    t.match(refused.json(), { statusCode: 500, code: 'GUARD_ERR_LIMIT' })
  }
  t.equal(lines.length, 5)
})

onBoth('ban: further refusals are 403s until the window ends', async (t, newApp) => {
  const calls: string[] = []
  const app = await newApp({
    onExceeding: (request, key) => { calls.push(`exceeding ${key}`) },
    onExceeded: (request, key) => { calls.push(`exceeded ${key}`) },
    onBanReach: (request, key) => { calls.push(`ban ${key}`) }
  })
  app.get('/', { config: { rateLimit: { max: 1, ban: 2 } } }, ok)
  app.get('/at-once', { config: { rateLimit: { max: 0, ban: 0 } } }, ok)
  t.same(await statuses(app, 5), [200, 429, 429, 403, 403])
  const { message, ...body } = (await get(app)).json()
  t.match(message, retryInAMinute)
  t.same(body, { statusCode: 403, code: 'GUARD_BANNED', error: 'Forbidden' })
  t.same(calls.slice(0, 6), [
    'exceeding 127.0.0.1', 'exceeded 127.0.0.1', 'exceeded 127.0.0.1', 'exceeded 127.0.0.1', 'ban 127.0.0.1',
    'exceeded 127.0.0.1'
  ])
  t.equal((await get(app, '/at-once')).statusCode, 403)
})

onBoth('exponentialBackoff locks a client no longer than maxBackoff, a day by default', async (t, newApp) => {
  const app = await newApp({ max: 3, timeWindow: '1 minute', exponentialBackoff: true })
  const { limits } = app.redisGuard
  const ofRoute = (maxBackoff: string) => ({ config: { rateLimit: { max: 3, maxBackoff } } })
  app.get('/', ok)
  app.get('/short', ofRoute('10 minutes'), ok)
  app.get('/computed', { config: { rateLimit: { max: 3, timeWindow: () => 7_200_000, maxBackoff: '1 hour' } } }, ok)
  for (const [url, seconds] of [['/', 86_400], ['/short', 600], ['/computed', 7200]] as const) {
    await statuses(app, 33, url)
    t.match((await get(app, url)).headers, { 'retry-after': `${seconds}`, 'x-ratelimit-reset': `${seconds}` }, url)
  }
  const waits = async () => (await limits.peek('127.0.0.1')).map(({ retryAfterMs }) => Math.ceil(retryAfterMs / 60_000))
  t.same(await waits(), [24 * 60, 10])
  await limits.set('GET:/short', { max: 3, timeWindow: '20 minutes' })
  t.equal((await get(app, '/short')).headers['retry-after'], '1200', 'a longer window is the cap')
  await limits.set('GET:/short', { max: 3, timeWindow: '1 second' })
  t.same(await waits(), [24 * 60, 10])
  t.equal((await get(app, '/short')).headers['retry-after'], '600')
})

t.test('a lock of centuries, stored before there was a cap, is shortened to maxBackoff', async t => {
  const nameSpace = `test${++namespaces}:`
  const backoff = { max: 3, timeWindow: '1 minute', exponentialBackoff: true }
  const app = await guardedApp(t, { redis: server.url, nameSpace, commandTimeout, ...backoff })
  app.get('/', ok)
  const client = server.client()
  t.teardown(() => client.disconnect())
  const key = `${nameSpace}fixed-window:{127.0.0.1}:global`
  await client.set(key, '3:31', 'PX', 64_424_509_440_000)
  t.match(await app.redisGuard.limits.peek('127.0.0.1'), [{
    remaining: 0,
    retryAfterMs: 86_400_000,
    resetMs: 86_400_000
  }])
  t.equal((await get(app)).headers['retry-after'], '86400')
  t.ok(await client.pttl(key) <= 86_400_000)
  // The same for a client that is not over its limit.
  await client.set(key, '1:31', 'PX', 64_424_509_440_000)
  t.match(await get(app), { statusCode: 200, headers: { 'x-ratelimit-reset': '86400' } })
  t.ok(await client.pttl(key) <= 86_400_000)
})

onBoth('in shadow, requests are counted and reported, none is refused, and no headers are sent', async (t, newApp) => {
  const app = await newApp({ max: 1, shadow: true })
  app.get('/', ok)
  app.get('/enforced', { config: { rateLimit: { max: 1, shadow: false } } }, ok)
  const passed = [await get(app), await get(app), await get(app)]
  t.same(passed.map(({ statusCode }) => statusCode), [200, 200, 200])
  t.notOk(passed.some(({ headers }) => Object.keys(headers).some(name => name.includes('ratelimit'))))
  t.same(await statuses(app, 2, '/enforced'), [200, 429])
  const { body } = await get(app, '/metrics')
  t.match(body, /decisions_total\{limit="global",outcome="allowed",source="\w+"\} 1\n/)
  t.match(body, /decisions_total\{limit="global",outcome="shadowed",source="\w+"\} 2\n/)
  await app.redisGuard.blockIP('127.0.0.1', 60)
  t.same(await statuses(app, 1), [200])
  t.match(
    (await get(app, '/metrics')).body,
    /decisions_total\{limit="",outcome="shadowed",source="local"\} 2\n/,
    'one of the two is the request for /metrics'
  )
})

onBoth('one of several limits may be in shadow: the others refuse', async (t, newApp) => {
  const app = await newApp()
  app.get('/', {
    config: {
      rateLimit: {
        limits: [
          { name: 'tight', max: 1, timeWindow: '1 minute', shadow: true },
          { name: 'wide', max: 3, timeWindow: '1 minute' }
        ]
      }
    }
  }, ok)
  const first = await get(app)
  t.match(first.headers, { 'x-ratelimit-limit': '3', 'x-ratelimit-remaining': '2' })
  t.same(await statuses(app, 3), [200, 200, 429])
  t.match(
    (await get(app, '/metrics')).body,
    /decisions_total\{limit="GET:\/:tight",outcome="shadowed",source="\w+"\} [23]\n/
  )
})

onBoth('enforce: always the same part of the clients is refused', async (t, newApp) => {
  const app = await newApp({ max: 0, enforce: 0.3 })
  app.get('/', ok)
  const refused: string[] = []
  for (let i = 0; i < 100; i++) {
    const remoteAddress = `198.51.100.${i}`
    const [first, second] = await statuses(app, 2, { url: '/', remoteAddress })
    t.equal(first, second)
    if (first === 429) refused.push(remoteAddress)
  }
  t.same(refused, Array.from({ length: 100 }, (_, i) => `198.51.100.${i}`).filter(ip => isInPart(`global ${ip}`, 0.3)))
  t.ok(refused.length > 10 && refused.length < 50, `${refused.length} of 100`)
})

t.test('a sample of consecutive texts has the requested size', async t => {
  const texts = Array.from({ length: 65_536 }, (_, i) => `global 10.0.${i >> 8}.${i & 255}`)
  const inPart = texts.filter(text => isInPart(text, 0.1)).length
  t.ok(Math.abs(inPart / 65_536 - 0.1) < 0.01, `${inPart}`)
  t.same([isInPart('x', 0), isInPart('x', 1)], [false, true])
})

onBoth('countWhen: only requests that it accepts count, such as failed logins', async (t, newApp) => {
  for (const algorithm of ['fixed-window', 'sliding-window', 'gcra'] as const) {
    const app = await newApp()
    const rateLimit: RouteRateLimitOptions = {
      max: 2,
      algorithm,
      timeWindow: '1 hour',
      countWhen: (request, reply) => reply.statusCode === 401
    }
    app.post('/login', { config: { rateLimit } }, async (request, reply) => {
      await reply.code((request.body as { right: boolean }).right ? 200 : 401).send()
    })
    const login = async (right: boolean) =>
      (await app.inject({ method: 'POST', url: '/login', payload: { right } })).statusCode
    const isGivenBack = async (left: number) => await until(async () => {
      const limits = await app.redisGuard.limits.peek('127.0.0.1')
      return limits.find(({ name }) => name === 'POST:/login')!.remaining === left
    })
    for (let i = 0; i < 5; i++) {
      t.equal(await login(true), 200)
      await isGivenBack(2)
    }
    t.equal(await login(false), 401)
    t.equal(await login(true), 200)
    await isGivenBack(1)
    t.equal(await login(false), 401)
    t.same([await login(true), await login(false)], [429, 429])
  }
})

t.test('countWhen is not called for a request that was not counted', async t => {
  let asked = 0
  const countWhen = () => {
    asked++
    return true
  }
  const away = { redis: 'redis://127.0.0.1:1', connectTimeout: 50, onOutage: 'allow', countWhen } as const
  const app = await guardedApp(t, { ...away, shadow: true })
  app.get('/', ok)
  app.get('/enforced', { config: { rateLimit: { shadow: false } } }, ok)
  for (const url of ['/', '/enforced']) t.equal((await app.inject(url)).statusCode, 200)
  t.equal(asked, 0)
})

t.test('a countWhen that fails or does not return a boolean is logged, and the request counts', async t => {
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, {}, logTo(lines, 'error'))
  const answers = [() => { throw new Error('broken') }, () => 'no', async () => { throw new Error('later') }]
  for (const [i, answer] of answers.entries()) {
    const countWhen = answer as unknown as NonNullable<RateLimitOptions['countWhen']>
    app.get(`/${i}`, { config: { rateLimit: { max: 1, countWhen } } }, ok)
  }
  for (let i = 0; i < 3; i++) {
    t.same(await statuses(app, 2, `/${i}`), [200, 429])
    t.equal(lines.length, i + 1)
    t.equal(lines[i]!['msg'], 'countWhen failed, the request counts')
  }
  t.throws(() => app.createRateLimit({ countWhen: () => true } as RateLimitOptions), /countWhen must be left out/)
})

t.test('a limiter that is made for each request is warned of', async t => {
  const app = await guardedApp(t)
  const made = Array.from({ length: 20 }, () => app.createRateLimit({ max: 1 }))
  app.get('/made', async request => (await made[0]!(request)).isAllowed)
  app.get('/', async request => (await app.createRateLimit({ max: 1 })(request)).isAllowed)
  const warned = () => app.redisGuard.warnings.filter(({ code }) => code === 'GUARD_WARN_LATE_LIMITER').length
  await app.inject('/made')
  for (let i = 0; i < 10; i++) await app.inject('/')
  t.equal(warned(), 0, 'an application may make a few when it first needs them')
  for (let i = 0; i < 3; i++) await app.inject('/')
  t.equal(warned(), 1)
})

t.test('a request whose refund fails is logged', async t => {
  // No answer of Redis can make it fail: this stands for a defect in the guard.
  t.intercept(MemoryLimits.prototype, 'refund', { value: () => { throw new Error('a mistake') } })
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, {}, logTo(lines, 'error'))
  app.get('/', { config: { rateLimit: { max: 1, countWhen: () => false } } }, ok)
  t.equal((await app.inject('/')).statusCode, 200)
  await until(() => lines.length > 0)
  const msg = 'countWhen answered false, but the hit could not be given back; it stays counted'
  t.match(lines, [{ msg, err: { message: 'a mistake' } }])
})

onBoth('standard headers are structured fields, and name each limit', async (t, newApp) => {
  const app = await newApp({ standardHeaders: true, addHeadersOnExceeding: { 'x-ratelimit-limit': false } })
  app.get('/', { config: { rateLimit: burstAndDaily } }, ok)
  app.get('/für/"\\:id', { config: { rateLimit: { max: 2 ** 53 - 1, timeWindow: 1500 } } }, ok)
  app.get('/none', { config: { rateLimit: { standardHeaders: false } } }, ok)
  const fieldsOf = (value: unknown) =>
    parseList(value as string).map(([name, parameters]) => [name, Object.fromEntries(parameters)])
  const { headers } = await get(app)
  t.notOk('x-ratelimit-limit' in headers)
  t.same(fieldsOf(headers['ratelimit-policy']), [
    ['GET:/:burst', { q: 2, w: 60 }],
    ['GET:/:daily', { q: 5, w: 86_400 }]
  ])
  t.same(fieldsOf(headers['ratelimit']), [['GET:/:burst', { r: 1, t: 60 }], ['GET:/:daily', { r: 4, t: 172_800 }]])
  await get(app)
  const refused = await get(app)
  t.equal(refused.statusCode, 429)
  t.match(fieldsOf(refused.headers['ratelimit'])[0], ['GET:/:burst', { r: 0, t: upToAMinute }])
  const odd = await get(app, `/${encodeURIComponent('für')}/%22%5Cx`)
  t.equal(odd.statusCode, 200)
  t.same(fieldsOf(odd.headers['ratelimit-policy']), [['GET:/f%C3%BCr/"\\:id', { q: 999_999_999_999_999, w: 2 }]])
  t.notOk('ratelimit' in (await get(app, '/none')).headers)
  t.notOk(JSON.stringify(headers).includes('127.0.0.1'))
})

t.test('problemDetails: refusals are problems of RFC 9457', async t => {
  const app = await guardedApp(t, { max: 1, ban: 1, problemDetails: true })
  app.get('/', ok)
  app.get('/hook', { config: { rateLimit: false }, preHandler: app.rateLimit({ max: 0 }) }, async () => {
    throw new Error('a refused request goes no further')
  })
  await get(app)
  const refused = await get(app)
  t.equal(refused.statusCode, 429)
  t.match(refused.headers, {
    'content-type': 'application/problem+json', 'retry-after': upToAMinute, 'x-ratelimit-remaining': '0'
  })
  const { detail, ...problem } = refused.json()
  t.match(detail, retryInAMinute)
  t.same(problem, {
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    title: 'Quota Exceeded',
    status: 429,
    'violated-policies': ['global']
  })
  const banned = await get(app)
  t.same([banned.statusCode, banned.json().type], [
    403,
    'https://iana.org/assignments/http-problem-types#abnormal-usage-detected'
  ])
  t.equal((await get(app, '/hook')).json().status, 429)
  await app.redisGuard.blockIP('192.0.2.9', 60)
  const blocked = await get(app, { url: '/', remoteAddress: '192.0.2.9' })
  t.same([blocked.statusCode, blocked.headers['content-type'], blocked.json().detail], [
    403, 'application/problem+json; charset=utf-8', 'Address is blocked'
  ])
  await t.rejects(guardedApp(t, { problemDetails: true, errorResponseBuilder: () => ({}) }), {
    code: 'GUARD_ERR_OPTIONS'
  })
})

onBoth('refused requests leave nothing behind when earlier hits are refunded', async (t, open) => {
  const app = await open({ max: 5, timeWindow: '10 minutes', countWhen: (request, reply) => reply.statusCode === 401 })
  app.get('/', ok)
  app.get('/wrong', async (request, reply) => await reply.code(401).send())
  const all = await Promise.all(Array.from({ length: 10 }, async () => await get(app)))
  t.equal(all.filter(({ statusCode }) => statusCode === 200).length, 5)
  await until(async () => (await app.redisGuard.limits.peek('127.0.0.1'))[0]!.remaining === 5)
  await refusalsAreWritten(app, '/wrong')
  t.equal((await app.redisGuard.limits.peek('127.0.0.1'))[0]!.remaining, 5)
  t.same(await statuses(app, 1), [200])
})

onBoth('refusals count for ban despite refunds, and lock a window that they extend', async (t, open) => {
  for (const [penalty, expected] of [
    [{ ban: 3 }, [429, 429, 429, 403, 403, 403]],
    [{ exponentialBackoff: true }, [429, 429, 429, 429, 429, 429]]
  ] as const) {
    const app =
      await open({ max: 3, timeWindow: '1 hour', ...penalty, countWhen: (request, reply) => reply.statusCode === 401 })
    const answers: (() => void)[] = []
    app.get('/held', async () => await new Promise(resolve => answers.push(() => resolve('ok'))))
    app.get('/wrong', async (request, reply) => await reply.code(401).send())
    const left = async () => (await app.redisGuard.limits.peek('127.0.0.1'))[0]!.remaining
    const held = [get(app, '/held'), get(app, '/held')]
    await until(() => answers.length === 2)
    t.equal((await get(app, '/wrong')).statusCode, 401)
    const refused = await statuses(app, 3, '/wrong')
    for (const answer of answers) answer()
    await Promise.all(held)
    if ('ban' in penalty) {
      await until(async () => await left() === 2)
      await refusalsAreWritten(app, '/wrong')
      t.same(await statuses(app, 2, '/wrong'), [401, 401])
    }
    t.same([...refused, ...await statuses(app, 3, '/wrong')], expected)
  }
})

onBoth('routes of a group with different max: none lets more pass than its own', async (t, newApp) => {
  const clock = steppedClock(t)
  // Refusals made in the process are written at once.
  const { setTimeout } = timers
  const value = (run: () => void, ms: number) => setTimeout(run, ms === writeIntervalMs ? 0 : ms)
  t.intercept(timers, 'setTimeout', { value: value as typeof setTimeout })
  for (const algorithm of algorithms) {
    const app = await newApp({ algorithm, timeWindow: '10 minutes', syncInterval: 60_000 })
    app.get('/login', { config: { rateLimit: { groupId: 'site', max: 5 } } }, ok)
    app.get('/search', { config: { rateLimit: { groupId: 'site', max: 1000 } } }, ok)
    app.get('/page', { config: { rateLimit: { groupId: 'site', max: async () => 300 } } }, ok)
    const logins: number[] = []
    // Two seconds: Redis is asked again four times.
    for (let i = 0; i < 20; i++) {
      logins.push((await get(app, '/login')).statusCode)
      await get(app, i % 2 === 0 ? '/search' : '/page')
      clock.nowMs += 100
    }
    const passed = logins.filter(status => status === 200).length
    t.ok(passed >= 3 && passed <= 5, `${algorithm}: ${passed} logins passed`)
  }
})

onBoth('hits that a larger max allowed stay counted when a hit of a smaller max is refunded', async (t, newApp) => {
  for (const max of [3, () => 3]) {
    const app = await newApp({ timeWindow: '10 minutes' })
    const answers: (() => void)[] = []
    const countWhen = () => false
    app.get('/search', { config: { rateLimit: { groupId: 'site', max: 10 } } }, ok)
    app.get('/held', { config: { rateLimit: { groupId: 'site', max, countWhen } } }, async () => {
      await new Promise<void>(resolve => answers.push(resolve))
    })
    const held = [get(app, '/held'), get(app, '/held')]
    await until(() => answers.length === 2)
    t.same(await statuses(app, 6, '/search'), Array(6).fill(200))
    for (const answer of answers) answer()
    await Promise.all(held)
    const peeked = async () => await app.redisGuard.limits.peek('127.0.0.1')
    await until(async () => (await peeked()).some(({ name, remaining }) => name === 'group:site' && remaining === 4))
    t.same(await statuses(app, 6, '/search'), [200, 200, 200, 200, 429, 429])
    t.equal((await get(app, '/held')).statusCode, 429)
  }
})

onBoth('a lowered limit bans no client for accepted hits, and a raised one frees its clients', async (t, newApp) => {
  const app = await newApp({ max: 10, timeWindow: '10 minutes', ban: 2 })
  app.get('/', ok)
  t.same(await statuses(app, 8), Array(8).fill(200))
  await app.redisGuard.limits.set('global', { max: 3, timeWindow: '10 minutes' })
  t.same(await statuses(app, 4), [429, 429, 403, 403])
  await app.redisGuard.limits.set('global', { max: 10, timeWindow: '10 minutes' })
  t.same(await statuses(app, 2), [200, 200])
})

onBoth('a refused request counts as one refusal at any cost, and leaves room for cheaper ones', async (t, open) => {
  const app = await open({
    max: 5,
    timeWindow: '1 hour',
    ban: 2,
    cost: request => (request.query as { cost?: string }).cost === '1' ? 1 : 2
  })
  app.get('/', ok)
  t.same(await statuses(app, 6), [200, 200, 429, 429, 403, 403])
  t.equal((await get(app, '/?cost=1')).statusCode, 200)
})

t.test('routes of a group with different windows count separately, so that none frees another', async t => {
  const app = await guardedApp(t, { max: 3 })
  app.get('/strict', { config: { rateLimit: { groupId: 'g', timeWindow: '10 minutes' } } }, ok)
  app.get('/alike', { config: { rateLimit: { groupId: 'g', timeWindow: 600_000, max: 4 } } }, ok)
  app.get('/loose', { config: { rateLimit: { groupId: 'g', timeWindow: 1 } } }, ok)
  app.get('/longer', { config: { rateLimit: { groupId: 'g', timeWindow: 1, continueExceeding: true } } }, ok)
  app.get('/computed', { config: { rateLimit: { groupId: 'g', timeWindow: () => 1 } } }, ok)
  app.get('/slow', { config: { rateLimit: { groupId: 'g', timeWindow: () => 600_000 } } }, ok)
  const backoff = { groupId: 'g', timeWindow: 1, exponentialBackoff: true }
  app.get('/backoff', { config: { rateLimit: backoff } }, ok)
  app.get('/backoff-alike', { config: { rateLimit: backoff } }, ok)
  app.get('/backoff-by-default', { config: { rateLimit: { ...backoff, maxBackoff: '1 day' } } }, ok)
  const computed = { ...backoff, timeWindow: () => 1 }
  app.get('/backoff-computed', { config: { rateLimit: computed } }, ok)
  app.get('/backoff-computed-alike', { config: { rateLimit: { ...computed, maxBackoff: 86_400_000 } } }, ok)
  app.get('/backoff-short', { config: { rateLimit: { ...backoff, maxBackoff: 1000 } } }, ok)
  const names = [
    'global', 'group:g', 'group:g@1ms', 'group:g@1ms,restart', 'group:g@computed', 'group:g@computed-2',
    'group:g@1ms,backoff', 'group:g@computed,backoff', 'group:g@1ms,backoff-2'
  ]
  t.same(app.redisGuard.limits.names, names)
  for (const url of ['/strict', '/slow']) t.same(await statuses(app, 3, url), [200, 200, 200])
  for (const url of ['/loose', '/longer', '/computed']) await get(app, url)
  t.same([await statuses(app, 1, '/strict'), await statuses(app, 2, '/alike')], [[429], [200, 429]])
  t.same(await statuses(app, 1, '/slow'), [429])
})

t.test('rejects limits of different routes that would have the same name', async t => {
  const app = await guardedApp(t)
  const limits = [{ name: 'id', max: 1, timeWindow: 1000 }]
  app.get('/files/', { config: { rateLimit: { limits } } }, ok)
  t.throws(() => app.get('/files/:id', { config: { rateLimit: { max: 1 } } }, ok), {
    code: 'GUARD_ERR_OPTIONS',
    message: /the limit GET:\/files\/:id must be one whose name is not already used by another route or group, got/
  })
})

t.test('HEAD shares the quota of GET under a prefix, and also if it is added first', async t => {
  const app = await guardedApp(t)
  const config = { rateLimit: { max: 3 } }
  await app.register(async child => { child.get('/', { config }, ok) }, { prefix: '/p' })
  app.head('/h', { config }, ok)
  app.get('/h', { config, exposeHeadRoute: false }, ok)
  for (const url of ['/p', '/h']) {
    t.same(await statuses(app, 2, url), [200, 200])
    t.same(await statuses(app, 2, { url: url === '/p' ? '/p/' : url, method: 'HEAD' }), [200, 429], url)
  }
})

t.test('a route that calls callNotFound is limited once, as the route', async t => {
  const app = await guardedApp(t, { max: 10, hook: 'preHandler' })
  app.get('/', async (request, reply) => reply.callNotFound())
  t.match((await get(app)).headers, { 'x-ratelimit-remaining': '9' })
  t.match((await get(app)).headers, { 'x-ratelimit-remaining': '8' })
})

t.test('all clients without a valid address are one client, whatever ipv6Subnet is', async t => {
  const app = await guardedApp(t, { max: 2 })
  app.get('/', { config: { rateLimit: { ipv6Subnet: 32 } } }, ok)
  const from = async (remoteAddress: string) => await statuses(app, 1, { url: '/', remoteAddress })
  t.same([
    await from('no address'), await from('another'), await from('a third'), await from('2001:db8::1')
  ], [[200], [200], [429], [200]])
})

t.test('a later route that the changed limit of its group does not fit keeps its configured limit', async t => {
  const app = await guardedApp(t)
  app.get('/first', { config: { rateLimit: { max: 3, groupId: 'a' } } }, ok)
  await app.redisGuard.limits.set('group:a', { max: 5, timeWindow: '1 minute' })
  app.get('/dear', { config: { rateLimit: { max: 30, cost: 10, groupId: 'a' } } }, ok)
  t.match((await get(app, '/dear')).headers, { 'x-ratelimit-limit': '30', 'x-ratelimit-remaining': '20' })
  t.equal((await get(app, '/first')).headers['x-ratelimit-limit'], '5')
})

t.test('a peek leaves out limits in shadow', async t => {
  const app = await guardedApp(t)
  const shadow = app.createRateLimit({ max: 0, shadow: true })
  const mixed = app.createRateLimit({
    limits: [{ name: 'a', max: 5, timeWindow: 1000 }, { name: 'b', max: 0, timeWindow: 1000, shadow: true }]
  })
  app.get('/', { config: { rateLimit: false } }, async request => {
    return [await shadow(request, { increment: false }), await mixed(request, { increment: false })]
  })
  t.match((await get(app)).json(), [{ isAllowed: true, key: '127.0.0.1' }, { isExceeded: false, max: 5, remaining: 5 }])
})

t.test('in memory, a flood of fresh names does not evict a client that has used much of its quota', async t => {
  const app = await guardedApp(t, { cache: 100, keyGenerator: request => request.headers['x-name'] as string })
  app.get('/', ok)
  app.get('/login', { config: { rateLimit: { max: 2, keyGenerator: request => request.ip } } }, ok)
  const answers: number[] = []
  for (let i = 0; i < 4; i++) {
    answers.push((await get(app, '/login')).statusCode)
    for (let j = 0; j < 110; j++) await get(app, { url: '/', headers: { 'x-name': `name ${i} ${j}` } })
  }
  t.same(answers, [200, 200, 429, 429])
})

t.test('rejects options that exclude each other at registration', async t => {
  const wrong: [RedisGuardOptions, string[]][] = [
    [{ limits: [] }, ['limits']],
    [{ limits: [{ name: 'a', max: 1, timeWindow: 1 }, { name: 'a', max: 1, timeWindow: 1 }] }, ['limits[1].name']],
    [{ limits: [{ max: 1, timeWindow: 1 }] as never }, ['limits[0].name']],
    [{ limits: [{ name: 'a' }] as never }, ['limits[0].max', 'limits[0].timeWindow']],
    [{ limits: [{ name: 'a b', max: -1, timeWindow: 'soon', typo: 1 }] as never },
      ['limits[0].max', 'limits[0].timeWindow', 'limits[0].typo', 'limits[0].name']],
    [{ max: 1, timeWindow: 5, limits: [{ name: 'a', max: 1, timeWindow: 1 }] }, ['max', 'timeWindow']],
    [{ limits: [{ name: 'a', max: 1, timeWindow: 1, cost: 2 }] }, ['limits[0].cost']],
    [{ algorithm: 'gcra', ban: 1 }, ['ban']],
    [{ algorithm: 'sliding-window', continueExceeding: true }, ['continueExceeding']],
    [{ algorithm: 'sliding-window', exponentialBackoff: true }, ['exponentialBackoff']],
    [{ shadow: true, enforce: 0.5 }, ['shadow']],
    [{ algorithm: 'gcra', burst: 2, cost: 3 }, ['cost']],
    [{ algorithm: 'gcra', maxBackoff: '1 hour' }, ['maxBackoff']],
    [{ continueExceeding: true, maxBackoff: '1 hour' }, ['maxBackoff']],
    [{ limits: [{ name: 'a', max: 1, timeWindow: 1, algorithm: 'gcra', maxBackoff: 1 }] }, ['limits[0].maxBackoff']]
  ]
  for (const [options, names] of wrong) {
    const error =
      await guardedApp(t, options).then(() => undefined, (error: { problems: { option: string }[] }) => error)
    t.same(error?.problems.map(({ option }) => option), names, JSON.stringify(options))
  }
  const fine: RedisGuardOptions[] = [
    { algorithm: 'gcra', max: Infinity, burst: 3, cost: 5 },
    { algorithm: 'fixed-window', maxBackoff: '1 hour' },
    { continueExceeding: true, exponentialBackoff: true },
    { continueExceeding: false, exponentialBackoff: true, maxBackoff: '1 hour' }
  ]
  for (const options of fine) await t.resolves(guardedApp(t, options), JSON.stringify(options))
  const mixed = await guardedApp(t, { maxBackoff: '1 hour' })
  for (const [i, rateLimit] of [{ algorithm: 'gcra' }, { continueExceeding: true }].entries()) {
    mixed.get(`/${i}`, { config: { rateLimit: rateLimit as RouteRateLimitOptions } }, ok)
  }
  t.same(await statuses(mixed, 2, '/0'), [200, 200], 'an option of the plugin applies to the routes that it fits')
})

/** Functions with an invalid result, and the message that is logged. */
const unusable: readonly (readonly [name: string, options: RouteRateLimitOptions, message: string])[] = [
  ['max', { max: () => NaN }, 'max must be a whole number >= 0, or Infinity, got NaN'],
  ['negative', { max: async () => -1 }, 'max must be a whole number >= 0, or Infinity, got -1'],
  ['minus-infinity', { max: () => -Infinity }, 'max must be a whole number >= 0, or Infinity, got -Infinity'],
  ['fraction', { max: () => 1.5 }, 'max must be a whole number >= 0, or Infinity, got 1.5'],
  ['text', { max: () => '5' as never }, 'max must be a whole number >= 0, or Infinity, got "5"'],
  ['nothing', { max: () => undefined as never }, 'max must be a whole number >= 0, or Infinity, got undefined'],
  ['window', { timeWindow: () => Infinity },
    'timeWindow must be a whole number of ms from 1 to 316224000000, got Infinity'],
  ['large', { max: () => 1e9, timeWindow: 1e9, algorithm: 'gcra' },
    'max times timeWindow must stay below 2^51 for gcra, got 1000000000 per 1000000000 ms; ' +
    'use fixed-window or a shorter window'],
  ['large-burst', { max: () => 1, burst: 1e9, timeWindow: 1e9, algorithm: 'gcra' },
    'burst times timeWindow must stay below 2^51 for gcra, got 1000000000 per 1000000000 ms; ' +
    'use fixed-window or a shorter window'],
  ['cost', { cost: () => -1 }, 'cost must be a whole number >= 0, got -1'],
  ['key', { keyGenerator: () => ['a'] as never },
    'keyGenerator must answer a string, a finite number, a BigInt, bytes or an object with a toString of its own, ' +
    'got an array of 1'],
  ['throws', { allowList: failingAtOnce['throws nothing']! }, 'allowList failed without an error'],
  ['rejects', { cost: failingLater['rejects with nothing'] as () => never }, 'cost failed without an error']
]

onBoth('functions with an invalid result give a bare 500; the log names limit, place and value', async (t, newApp) => {
  const lines: { err: { message: string, stack: string } }[] = []
  const app = await newApp({}, logTo(lines as never[], 'error'))
  for (const [name, rateLimit] of unusable) app.get(`/${name}/:id`, { config: { rateLimit } }, ok)
  const limits = [{ name: 'a', max: 1, timeWindow: 1000 }, { name: 'b', max: () => NaN, timeWindow: 1000 }]
  app.get('/several', { config: { rateLimit: { limits } } }, ok)
  app.get('/group', { config: { rateLimit: { groupId: 'g', max: () => NaN } } }, ok)
  const check = app.createRateLimit({ max: () => NaN })
  app.get('/limiter', { config: { rateLimit: false } }, async request => await check(request, { increment: false }))
  const shown = {
    statusCode: 500,
    code: 'GUARD_ERR_LIMIT',
    error: 'Internal Server Error',
    message: 'The request cannot be rate limited'
  }
  for (const [name, , message] of unusable) {
    lines.length = 0
    t.same((await get(app, `/${name}/7`)).json(), shown, name)
    const place = `in the limit GET:/${name}/:id at GET /${name}/:id`
    t.match(lines, [{ err: { type: 'LimitError', message: `${shown.message}: ${message}, ${place}` } }], name)
  }
  const isNaN = 'max must be a whole number >= 0, or Infinity, got NaN'
  for (const [url, limit] of [
    ['/several', 'GET:/several:b'],
    ['/group', 'group:g'],
    ['/limiter', 'limiter:1']
  ] as const) {
    lines.length = 0
    t.same((await get(app, url)).json(), shown, url)
    t.match(lines, [{ err: { message: `${shown.message}: ${isNaN}, in the limit ${limit} at GET ${url}` } }], url)
  }
})

t.test('the log of a 404 that cannot be limited says that it has no route', async t => {
  const lines: { err: { message: string } }[] = []
  const app = await guardedApp(t, { max: () => NaN }, logTo(lines as never[], 'error'))
  t.equal((await get(app, '/secret')).statusCode, 500)
  t.match(lines, [{ err: { message: /got NaN, in the limit global at a GET without a route$/ } }])
})

t.test('an error that a function of the options throws is the answer, unchanged', async t => {
  const app = await guardedApp(t)
  const fail = () => { throw Object.assign(new Error('who?'), { statusCode: 401 }) }
  for (const option of ['max', 'timeWindow', 'cost', 'keyGenerator', 'allowList']) {
    app.get(`/${option}`, { config: { rateLimit: { [option]: fail } } }, ok)
  }
  for (const option of ['max', 'timeWindow', 'cost', 'keyGenerator', 'allowList']) {
    t.match(await get(app, `/${option}`), { statusCode: 401, body: /who\?/ }, option)
  }
})

onBoth('a max of Infinity is no limit: requests pass uncounted, without headers', async (t, newApp) => {
  const calls: string[] = []
  const nameSpace = `test${++namespaces}:`
  const app = await newApp({
    max: Infinity,
    nameSpace,
    onExceeding: request => { calls.push(request.url) },
    standardHeaders: true
  })
  const routes: Record<string, RouteRateLimitOptions> = {
    '/route': { max: Infinity },
    '/function': { max: () => Infinity },
    '/async': { max: async () => Infinity, cost: () => 1000 },
    '/dear': { cost: 10 },
    '/sliding-window': { algorithm: 'sliding-window' },
    '/gcra': { algorithm: 'gcra', burst: 5 },
    '/list': {
      limits: [{ name: 'a', max: Infinity, timeWindow: 1000 }, { name: 'b', max: () => Infinity, timeWindow: 1000 }]
    },
    '/shadow': { shadow: true }
  }
  app.get('/', ok)
  for (const [url, rateLimit] of Object.entries(routes)) app.get(url, { config: { rateLimit } }, ok)
  const urls = ['/', '/not-there', ...Object.keys(routes)]
  for (const url of urls) {
    for (let i = 0; i < 3; i++) {
      const { statusCode, headers } = await get(app, url)
      t.equal(statusCode, url === '/not-there' ? 404 : 200, url)
      t.notOk(Object.keys(headers).some(name => name.includes('ratelimit') || name === 'retry-after'), url)
    }
  }
  t.same(calls, urls.flatMap(url => [url, url, url]))
  const { body } = await get(app, '/metrics')
  // The requests to / and to the 404.
  t.match(body, /decisions_total\{limit="global",outcome="unlimited",source="local"\} 6\n/)
  t.match(body, /decisions_total\{limit="GET:\/function",outcome="unlimited",source="local"\} 3\n/)
  t.match(body, /^redis_guard_memory_keys 0$/m)
  const client = server.client()
  t.teardown(() => client.disconnect())
  t.same((await client.keys(`${nameSpace}*127.0.0.1*`)), [])
})

onBoth('among several limits, one with max Infinity does not weaken the others', async (t, newApp) => {
  const app = await newApp()
  const wide = { name: 'wide', timeWindow: '1 minute' } as const
  const tight = { name: 'tight', max: 2, timeWindow: '1 minute' } as const
  app.get('/fixed', { config: { rateLimit: { limits: [{ ...wide, max: Infinity }, tight] } } }, ok)
  app.get('/computed', { config: { rateLimit: { limits: [{ ...wide, max: () => Infinity }, tight] } } }, ok)
  for (const url of ['/fixed', '/computed']) {
    t.match((await get(app, url)).headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': '1' })
    t.same(await statuses(app, 2, url), [200, 429])
  }
})

onBoth('a limiter whose max is Infinity allows every request', async (t, newApp) => {
  const app = await newApp()
  const checks = [app.createRateLimit({ max: Infinity }), app.createRateLimit({ max: () => Infinity })]
  app.get('/:check/:increment', async request => {
    const { check, increment } = request.params as Record<string, string>
    return await checks[Number(check)]!(request, { increment: increment === 'true' })
  })
  for (const url of ['/0/true', '/0/false', '/1/true', '/1/false']) {
    t.same((await get(app, url)).json(), { isAllowed: true, key: '127.0.0.1' }, url)
  }
})

t.test('a function of the options that never answers is given up after 5 seconds', async t => {
  const lines: { err: { message: string } }[] = []
  const app = await guardedApp(t, {}, logTo(lines as never[], 'error'))
  const never = async () => await new Promise<never>(() => {})
  app.get('/', { config: { rateLimit: { max: never } } }, ok)
  const clock = mockMachinery(t, 'setTimeout')
  const answer = app.inject('/')
  const isWaiting = async () =>
    await Promise.race([answer.then(() => false), new Promise<boolean>(resolve => setImmediate(resolve, true))])
  let passedMs = 0
  while (await isWaiting()) clock.tick(passedMs += 100)
  t.ok(passedMs >= 400, `${passedMs}`)
  t.match((await answer).json(), { statusCode: 500, message: 'The request cannot be rate limited' })
  t.match(lines[0]!.err.message, /: max must answer within 5000 ms, got nothing, in the limit GET:\/ at GET \/$/)
})

t.test('a cached refusal of several limits shows the one that lasts longest', async t => {
  // The clock stands still: half a second later Redis would be asked again.
  steppedClock(t)
  const app = await guardedApp(t, { redis: server.url, nameSpace: `test${++namespaces}:`, commandTimeout })
  const limits = [
    { name: 'minute', max: 1, timeWindow: '1 minute' }, { name: 'hour', max: 1, timeWindow: '1 hour' },
    { name: 'shadow', max: 0, timeWindow: '1 day', shadow: true }
  ]
  app.get('/', { config: { rateLimit: { limits } } }, ok)
  await statuses(app, 1)
  for (let i = 0; i < 4; i++) t.match((await get(app)).headers['retry-after'], upToAnHour)
  const { body } = await get(app, '/metrics')
  t.match(body, /decisions_total\{limit="GET:\/:hour",outcome="limited",source="local"\} 3\n/)
})

t.test('limits that are all in shadow let requests pass, and each that would refuse is reported', async t => {
  const app = await guardedApp(t)
  const limits = [{ name: 'a', max: 1, timeWindow: '1 minute' }, { name: 'b', max: 1, timeWindow: '1 minute' }]
  app.get('/', { config: { rateLimit: { limits, shadow: true } } }, ok)
  t.same(await statuses(app, 2), [200, 200])
  const { body } = await get(app, '/metrics')
  t.match(body, /limit="GET:\/:a",outcome="allowed",source="memory"\} 1\n/)
  t.match(body, /limit="GET:\/:a",outcome="shadowed",source="memory"\} 1\n/)
  t.match(body, /limit="GET:\/:b",outcome="shadowed",source="memory"\} 1\n/)
})

t.test('among limits with equally much left, headers show the one with the longest reset', async t => {
  const app = await guardedApp(t)
  app.get('/', {
    config: {
      rateLimit: {
        limits: [
          { name: 'a', max: 2, timeWindow: 1000 },
          { name: 'b', max: 2, timeWindow: 9000 },
          { name: 'c', max: 2, timeWindow: 3000 }
        ]
      }
    }
  }, ok)
  t.equal((await get(app)).headers['x-ratelimit-reset'], '9')
})

t.test('while Redis is away, onOutage applies only to limits in force', async t => {
  const gone = await RedisServer.start()
  const apps: FastifyInstance[] = []
  for (const onOutage of ['allow', 'deny'] as const) {
    const app = await guardedApp(t, { redis: gone.url, max: 3, onOutage })
    app.get('/', ok)
    app.get('/shadow', { config: { rateLimit: { max: 0, shadow: true } } }, ok)
    const limiter = app.createRateLimit()
    app.get('/function', { config: { rateLimit: false } }, async request => await limiter(request))
    app.get('/hook', { config: { rateLimit: false }, preHandler: app.rateLimit() }, ok)
    apps.push(app)
    await app.ready()
  }
  await gone.stop()
  const [allow, deny] = apps as [FastifyInstance, FastifyInstance]
  await until(() => apps.every(({ redisGuard }) => redisGuard.status.store === 'memory'))
  t.same([await statuses(allow, 1), await statuses(deny, 1)], [[200], [503]])
  t.same([await statuses(allow, 1, '/shadow'), await statuses(deny, 1, '/shadow')], [[200], [200]])
  t.match((await get(allow, '/function')).json(), { isExceeded: false, remaining: 3, ttl: 0 })
  t.match((await get(deny, '/function')).json(), {
    statusCode: 503,
    message: 'Requests cannot be counted at the moment'
  })
  t.same([await statuses(allow, 1, '/hook'), await statuses(deny, 1, '/hook')], [[200], [503]])
  const fails = await guardedApp(t, { redis: gone.url, connectTimeout: 100, skipOnError: false })
  const limiters = [
    fails.createRateLimit(),
    fails.createRateLimit({ max: () => { throw Object.assign(new Error('broken'), { statusCode: 418 }) } })
  ]
  for (const [i, limiter] of limiters.entries()) {
    fails.get(`/${i}`, { config: { rateLimit: false } }, async request => await limiter(request))
  }
  t.match((await get(fails, '/0')).json(), { statusCode: 500, code: 'GUARD_ERR_STORE_UNAVAILABLE' })
  t.equal((await get(fails, '/1')).statusCode, 418)
})

t.test('limiters, hooks and routes with the same groupId count together', async t => {
  const app = await guardedApp(t)
  const inGroup = { groupId: 'login', max: 5 }
  const limiter = app.createRateLimit(inGroup)
  app.get('/function', { config: { rateLimit: false } }, async request => await limiter(request))
  app.get('/hook', { config: { rateLimit: false }, preHandler: app.rateLimit(inGroup) }, ok)
  app.get('/route', { config: { rateLimit: inGroup } }, ok)
  t.equal((await get(app, '/function')).json().remaining, 4)
  t.equal((await get(app, '/hook')).headers['x-ratelimit-remaining'], '3')
  t.equal((await get(app, '/route')).headers['x-ratelimit-remaining'], '2')
  t.equal((await get(app, '/function')).json().remaining, 1)
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: a limiter that peeks says whether the limit is exceeded, and counts nothing`, async t => {
    const app = await guardedApp(t, { max: 2, timeWindow: '1 hour', algorithm })
    const limiter = app.createRateLimit()
    app.get('/look', { config: { rateLimit: false } }, async request => await limiter(request, { increment: false }))
    app.get('/', ok)
    const look = async () => {
      const { remaining, isExceeded } = (await get(app, '/look')).json()
      return [remaining, isExceeded]
    }
    t.same([await look(), await look()], [[2, false], [2, false]])
    await get(app)
    t.same(await look(), [1, false])
    t.same(await statuses(app, 2), [200, 429])
    t.same([await look(), await look()], [[0, true], [0, true]])
  })
}

t.test('clients without a key are limited by their address, also by computed limits', async t => {
  const app =
    await guardedApp(t, { max: async () => 1, keyGenerator: request => request.headers['x-api-key'] as string, ban: 0 })
  app.get('/', ok)
  t.same(await statuses(app, 2), [200, 403])
  t.same(await statuses(app, 2, { url: '/', headers: { 'x-api-key': '127.0.0.1' } }), [200, 403])
})

t.test('normalizeIP returns the key that separates clients by address', async t => {
  for (const [ip, bits, key] of [
    ['198.51.100.1', undefined, '198.51.100.1'], ['::ffff:198.51.100.1', undefined, '198.51.100.1'],
    ['64:ff9b::198.51.100.1', undefined, '198.51.100.1'],
    ['2001:DB8:1:2:3::4', undefined, '2001:db8:1:2::'], ['2001:db8:1:2:3::4', 48, '2001:db8:1::'],
    ['2001:db8::4', 128, '2001:db8::4'], ['No-Address', undefined, 'no-address']
  ] as const) t.equal(normalizeIP(ip, bits), key)
  t.throws(() => normalizeIP(5 as never), { code: 'GUARD_ERR_ARGUMENT' })
  t.throws(() => normalizeIP('::1', 129), { code: 'GUARD_ERR_ARGUMENT' })
})

t.test('a changed limit also applies to routes that are added later', async t => {
  const app = await guardedApp(t)
  const inGroup = { config: { rateLimit: { max: 3, groupId: 'a' } } }
  app.get('/first', inGroup, ok)
  await app.redisGuard.limits.set('group:a', { max: 9, timeWindow: 1000 })
  app.get('/second', inGroup, ok)
  t.equal((await get(app, '/second')).headers['x-ratelimit-limit'], '9')
  t.equal((await app.redisGuard.limits.peek('some key')).find(({ name }) => name === 'group:a')!.remaining, 9)
})
