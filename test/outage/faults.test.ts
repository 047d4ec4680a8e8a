/** Faults of Redis and its return: requests get prompt and correct answers throughout. */
import { performance } from 'node:perf_hooks'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { guardedApp, logTo } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// These tests wait most of the time.
t.jobs = 4

/** ms: longer than a command takes on a busy machine, so that Redis is given up only if it fails */
const commandTimeout = 1000
/** ms: a request that waited for Redis itself would take longer */
const promptMs = 10 * commandTimeout

interface Setup {
  readonly server: RedisServer
  readonly proxy: TcpProxy
  readonly app: FastifyInstance
  readonly lines: Record<string, unknown>[]
}

async function setUp (t: Test, options: RedisGuardOptions = {}): Promise<Setup> {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const lines: Record<string, unknown>[] = []
  const times = { commandTimeout, resetTimeout: 100 }
  const app = await guardedApp(t, { redis: { port: proxy.port }, max: 1000, ...times, ...options }, logTo(lines))
  app.get('/', async () => 'ok')
  await isUsed(app)
  lines.length = 0
  return { server, proxy, app, lines }
}

async function isUsed (app: FastifyInstance): Promise<void> {
  await until(() => app.redisGuard.status.store === 'redis')
}

/** The value of a metric, with these labels or none. */
async function metric (app: FastifyInstance, name: string): Promise<number> {
  const { body } = await app.inject('/metrics')
  return Number(body.split('\n').find(line => line.startsWith(`${name} `))!.split(' ')[1])
}

/** How often the breaker opened: Redis failed, or a probe did. */
async function timesOpened (app: FastifyInstance): Promise<number> {
  return await metric(app, 'redis_guard_breaker_transitions_total{to="open"}')
}

async function timed (app: FastifyInstance): Promise<{ status: number, tookMs: number }> {
  const startMs = performance.now()
  const { statusCode } = await app.inject('/')
  return { status: statusCode, tookMs: performance.now() - startMs }
}

async function command (server: RedisServer, ...args: string[]): Promise<void> {
  const client = server.client()
  await client.call(args[0]!, ...args.slice(1))
  client.disconnect()
}

interface Fault {
  readonly begin: (setup: Setup) => Promise<void> | void
  readonly end: (setup: Setup) => Promise<void> | void
  /** the reason in the status during the fault */
  readonly reason: RegExp
}

const faults: Record<string, Fault> = {
  'is killed': {
    begin: async ({ server }) => await server.kill(),
    end: async ({ server }) => await server.restart(),
    reason: /\(connection\)/
  },
  'is stopped with SIGSTOP': {
    begin: ({ server }) => server.signal('SIGSTOP'),
    end: ({ server }) => server.signal('SIGCONT'),
    reason: /\(timeout\)/
  },
  'swallows all commands': {
    begin: ({ proxy }) => { proxy.blackhole = true },
    end: ({ proxy }) => { proxy.blackhole = false },
    reason: /\(timeout\)/
  },
  'takes too long for an answer': {
    begin: ({ proxy }) => { proxy.delayMs = commandTimeout },
    end: ({ proxy }) => { proxy.delayMs = 0 },
    reason: /\(timeout\)/
  },
  'is out of memory': {
    begin: async ({ server }) => await command(server, 'CONFIG', 'SET', 'maxmemory', '1'),
    end: async ({ server }) => await command(server, 'CONFIG', 'SET', 'maxmemory', '0'),
    reason: /\(oom\): OOM/
  },
  'became a replica': {
    begin: async ({ server }) => await command(server, 'REPLICAOF', '127.0.0.1', '1'),
    end: async ({ server }) => await command(server, 'REPLICAOF', 'NO', 'ONE'),
    reason: /\(readonly\): READONLY/
  },
  'loads its data': {
    begin: async ({ server }) => {
      const client = server.client()
      await client.call('DEBUG', 'POPULATE', '20000')
      await client.call('CONFIG', 'SET', 'key-load-delay', '2000', 'loading-process-events-interval-bytes', '1024')
      client.call('DEBUG', 'RELOAD').then(() => client.disconnect(), () => {})
      const observer = server.client({ enableReadyCheck: false })
      await until(async () => {
        return await observer.get('x').then(() => false, (error: Error) => /^LOADING/.test(error.message))
      })
      observer.disconnect()
    },
    end: async ({ server }) => {
      // ioredis would wait until all data is loaded.
      const client = server.client({ enableReadyCheck: false })
      await client.call('CONFIG', 'SET', 'key-load-delay', '0')
      client.disconnect()
    },
    reason: /\(loading\)/
  },
  'wants a password from now on': {
    begin: async ({ server }) => {
      const client = server.client()
      await client.call('CONFIG', 'SET', 'requirepass', 'secret')
      await client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
      client.disconnect()
    },
    end: async ({ server }) => {
      const client = server.client({ password: 'secret' })
      await client.call('CONFIG', 'SET', 'requirepass', '')
      client.disconnect()
    },
    reason: /\(auth\): NOAUTH|\(connection\)/
  },
  'has too few replicas': {
    begin: async ({ server }) => {
      const client = server.client()
      await client.call('CONFIG', 'SET', 'min-replicas-to-write', '1')
      client.disconnect()
    },
    end: async ({ server }) => await command(server, 'CONFIG', 'SET', 'min-replicas-to-write', '0'),
    reason: /\(readonly\): NOREPLICAS/
  }
}
for (const [name, fault] of Object.entries(faults)) {
  t.test(`a Redis that ${name}: one command of waiting at most, no 500, used again`, { buffered: true }, async t => {
    const setup = await setUp(t)
    const { app, lines } = setup
    for (let i = 0; i < 5; i++) await timed(app)

    await fault.begin(setup)
    const first = await Promise.all(Array.from({ length: 10 }, async () => await timed(app)))
    await until(() => app.redisGuard.status.store === 'memory')
    const asked = await metric(app, 'redis_guard_redis_duration_seconds_count')
    const later: Awaited<ReturnType<typeof timed>>[] = []
    for (let i = 0; i < 100; i++) later.push(await timed(app))

    t.same([...first, ...later].filter(({ status }) => status !== 200), [])
    const slowest = Math.max(...[...first, ...later].map(({ tookMs }) => tookMs))
    t.ok(slowest < promptMs, `${slowest} ms while Redis did not answer`)
    t.equal(await metric(app, 'redis_guard_redis_duration_seconds_count'), asked, 'no later request asked Redis')
    // At first the reason may be that of a lost connection.
    await until(() => fault.reason.test(String(app.redisGuard.status.reason)))
    const opened = await timesOpened(app)
    await until(async () => await timesOpened(app) > opened + 1)
    t.equal(app.redisGuard.status.store, 'memory', 'it stays away as long as Redis does')
    t.equal((await timed(app)).status, 200)
    const toMemory = lines.filter(({ msg }) => String(msg).startsWith('Redis is away, memory answers'))
    t.equal(toMemory.length, 1, 'one log line for the switch, not one for each request')

    await fault.end(setup)
    await until(() => app.redisGuard.status.store === 'redis', 15_000)
    t.match(app.redisGuard.status, { breaker: 'closed', reason: undefined })
    t.equal((await timed(app)).status, 200)
  })
}

t.test('reset connections cost no request its answer', { buffered: true }, async t => {
  const { app, proxy } = await setUp(t)
  for (let round = 0; round < 5; round++) {
    const requests = Array.from({ length: 20 }, async () => await timed(app))
    // Wait until the commands are on their way.
    await new Promise(resolve => setImmediate(resolve))
    proxy.cut()
    t.same((await Promise.all(requests)).filter(({ status }) => status !== 200), [])
    await isUsed(app)
  }
})

t.test('limits and blocks hold while Redis is away', { buffered: true }, async t => {
  const { app, server } = await setUp(t, { max: 3 })
  await app.redisGuard.blockIP('192.0.2.1', 60)
  await server.kill()
  await until(() => app.redisGuard.status.store === 'memory')
  const statuses: number[] = []
  for (let i = 0; i < 5; i++) statuses.push((await timed(app)).status)
  t.same(statuses, [200, 200, 200, 429, 429])
  t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.1' })).statusCode, 403)
  t.equal(await app.redisGuard.isIPBlocked('192.0.2.1'), true)
  await app.redisGuard.blockIP('192.0.2.2', 60)
  t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.2' })).statusCode, 403)
  await app.redisGuard.set('key', 'value')
  t.equal(await app.redisGuard.get('key'), 'value')
  t.match(await app.redisGuard.getSuspiciousIPs(), [{ ip: '127.0.0.1', count: 2 }])
})

t.test('memory answers a method that finds Redis gone, within the timeout', { buffered: true }, async t => {
  const { app, server } = await setUp(t)
  server.signal('SIGSTOP')
  const startMs = performance.now()
  await Promise.all([app.redisGuard.set('key', 'value'), app.redisGuard.blockIP('192.0.2.1', 60)])
  t.ok(performance.now() - startMs < promptMs)
  t.equal(await app.redisGuard.get('key'), 'value')
  t.match(await app.redisGuard.getBlockedIPs(), [{ ip: '192.0.2.1' }])
})

t.test('skipOnError while Redis is away: true allows uncounted, false fails', { buffered: true }, async t => {
  const { app, server } = await setUp(t, { max: 2 })
  app.get('/skip', { config: { rateLimit: { skipOnError: true, timeWindow: '1 minute' } } }, async () => 'ok')
  app.get('/fail', { config: { rateLimit: { skipOnError: false } } }, async () => 'ok')
  server.signal('SIGSTOP')
  for (let i = 0; i < 4; i++) {
    const skipped = await app.inject('/skip')
    t.equal(skipped.statusCode, 200)
    t.match(skipped.headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': '2', 'x-ratelimit-reset': '0' })
    t.same((await app.inject('/fail')).json(), {
      statusCode: 500,
      code: 'GUARD_ERR_STORE_UNAVAILABLE',
      error: 'Internal Server Error',
      message: 'The rate limit store is unavailable'
    })
  }
})

t.test('onOutage: allow passes uncounted and deny answers 503, until Redis is back', { buffered: true }, async t => {
  const { app, server } = await setUp(t, { max: 2 })
  const finished: string[] = []
  app.addHook('onResponse', async ({ url }) => { finished.push(url) })
  app.get('/allow', { config: { rateLimit: { onOutage: 'allow', timeWindow: '1 minute' } } }, async () => 'ok')
  app.get(
    '/deny',
    { config: { rateLimit: { onOutage: 'deny' } }, schema: { response: { 503: { type: 'object', properties: {} } } } },
    async () => 'ok'
  )
  t.equal((await app.inject('/deny')).statusCode, 200)
  server.signal('SIGSTOP')
  for (let i = 0; i < 4; i++) {
    t.match((await app.inject('/allow')).headers, { 'x-ratelimit-remaining': '2' })
    // The key of an IPv6 client is shown otherwise than it is counted.
    const denied = await app.inject({ url: '/deny', ...(i === 0 ? { remoteAddress: '2001:db8::1' } : {}) })
    t.match(denied.headers, {
      'content-type': 'application/problem+json',
      'retry-after': '1',
      'cache-control': 'no-store'
    })
    t.equal(denied.statusCode, 503)
    t.match(denied.json(), {
      type: 'https://iana.org/assignments/http-problem-types#temporary-reduced-capacity',
      status: 503
    })
  }
  server.signal('SIGCONT')
  await until(() => app.redisGuard.status.store === 'redis')
  t.equal((await app.inject('/deny')).statusCode, 200)
  t.equal(finished.length, 10)
  t.match(
    (await app.inject('/metrics')).body,
    /redis_guard_decisions_total\{limit="GET:\/deny",outcome="denied",source="local"\} 4/
  )
})

t.test('skipOnError and onOutage change nothing if memory is the chosen store', { buffered: true }, async t => {
  for (const option of [
    { skipOnError: true }, { skipOnError: false }, { onOutage: 'allow' }, { onOutage: 'deny' }, { onOutage: 'share' }
  ] as const) {
    const app = await guardedApp(t, { ...option, max: 1 })
    app.get('/', async () => 'ok')
    t.same([(await timed(app)).status, (await timed(app)).status], [200, 429])
  }
})

t.test('each switch is one event', { buffered: true }, async t => {
  const { app, server } = await setUp(t)
  const heard: string[] = []
  const startMs = Date.now()
  app.redisGuard.on('switch', ({ store, breaker, reason, since }) => {
    const sinceMs = since.getTime()
    heard.push(`${store} ${breaker} ${reason === undefined} ${sinceMs >= startMs && sinceMs <= Date.now()}`)
  })
  await server.kill()
  await until(() => heard.length === 1)
  const opened = await timesOpened(app)
  await until(async () => await timesOpened(app) > opened + 1)
  await server.restart()
  await until(() => heard.length === 2)
  t.same(heard, ['memory open false true', 'redis closed true true'])
})

t.test('an unreadable reply refuses no client: memory answers and counts', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const own = server.client()
  t.teardown(() => own.disconnect())
  const app = await guardedApp(t, { redis: own, max: 1, syncInterval: 60_000, commandTimeout: 5000 })
  app.get('/', async () => 'ok')
  await isUsed(app)
  const replies = [
    async () => [], async () => ['x', 1, 1, 1], async () => [1, 1, 1, 1, 1, 1], async () => 'OK', async () => null
  ]
  for (const [i, reply] of replies.entries()) {
    Object.assign(own, { evalsha: reply })
    const statusOf = async () => (await app.inject({ url: '/', remoteAddress: `192.0.2.${i}` })).statusCode
    t.same([await statusOf(), await statusOf()], [200, 429])
    t.equal(app.redisGuard.status.store, 'redis')
  }
  // A heartbeat may be among them.
  const [, errors] = /redis_guard_errors_total\{kind="reply"\} (\d+)/.exec((await app.inject('/metrics')).payload)!
  t.ok(Number(errors) >= 10, `${errors} errors`)
})

t.test('with unreadable replies, instances that share keep to their parts', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const clients = [server.client(), server.client()]
  t.teardown(() => { for (const client of clients) client.disconnect() })
  const apps = await Promise.all(clients.map(async own => {
    const app =
      await guardedApp(t, { redis: own, max: 10, onOutage: 'share', syncInterval: 60_000, commandTimeout: 5000 })
    app.get('/', async () => 'ok')
    await isUsed(app)
    return app
  }))
  for (const app of apps) {
    await until(async () => /redis_guard_instances 2\n/.test((await app.inject('/metrics')).payload))
  }
  for (const own of clients) Object.assign(own, { evalsha: async () => [] })
  const codes: number[] = []
  for (const app of apps) for (let i = 0; i < 12; i++) codes.push((await app.inject('/')).statusCode)
  t.equal(codes.filter(code => code === 200).length, 10)
  t.same(apps.map(app => app.redisGuard.status.store), ['redis', 'redis'])
})

t.test('a foreign value in place of the last batch number is lost data, and replaced', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const client = server.client()
  t.teardown(() => client.disconnect())
  const app = await guardedApp(t, { redis: server.url, max: 2, syncInterval: 60_000, commandTimeout: 5000 })
  app.get('/', async () => 'ok')
  await isUsed(app)
  t.equal((await app.inject('/')).statusCode, 200)
  const switched: string[] = []
  app.redisGuard.on('switch', ({ store }) => switched.push(store))
  const [key] = (await client.keys('guard:batch:*')).filter(name => !name.endsWith(':fence'))
  await client.del(key!)
  await client.lpush(key!, 'x')
  t.equal((await app.inject('/')).statusCode, 200)
  t.equal(switched[0], 'memory')
  await isUsed(app)
  t.equal((await app.inject('/')).statusCode, 429, 'both hits were counted')
  t.equal(await client.type(key!), 'string')
})

t.test('a client with an offline queue delays no request and counts none twice', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const own = server.client()
  t.teardown(() => own.disconnect())
  const app = await guardedApp(t, { redis: own, max: 1000, commandTimeout, resetTimeout: 100 })
  app.get('/', async () => 'ok')
  await isUsed(app)
  await timed(app)
  await server.kill()
  await until(() => app.redisGuard.status.store === 'memory')
  // Redis starts again only after these, so none waits for it in the queue.
  for (let i = 0; i < 20; i++) t.equal((await timed(app)).status, 200)
  await server.restart()
  await isUsed(app)
  await timed(app)
  // One before, 20 during the outage, one after: the lost count was restored.
  t.equal(await own.get('guard:fixed-window:{127.0.0.1}:global'), '22')
})

t.test('a counter and a value with the same name both reach a Redis that is back', { buffered: true }, async t => {
  const { server, proxy, app } = await setUp(t)
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  proxy.blackhole = true
  await until(async () => { await app.redisGuard.get('x'); return app.redisGuard.status.store === 'memory' })
  await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
  await app.redisGuard.incr('192.0.2.1')
  proxy.blackhole = false
  await until(() => app.redisGuard.status.store === 'redis')
  const counter = await observer.get('guard:fixed-window:{192.0.2.1}:global')
  t.same([counter, await observer.get('guard:value:{192.0.2.1}')], ['1', '1'])
})
