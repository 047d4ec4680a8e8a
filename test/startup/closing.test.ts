/** Closing an application: what is on its way to Redis arrives or its loss is logged, and no work continues. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import { performance } from 'node:perf_hooks'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { sendLast } from '../../lib/startup/closing.js'
import redisGuard from '../../lib/index.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import type { Availability } from '../../lib/outage/availability.js'
import type { RedisParts } from '../../lib/startup/stores.js'
import { Keys } from '../../lib/store/keys.js'
import { logTo } from '../support/app.js'
import { mockMachinery } from '../support/fake-timers.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// These tests wait most of the time.
t.jobs = 4

const keys = new Keys('guard:')

const cluster = await RedisCluster.start()
t.teardown(async () => await cluster.stop())
const nodes = cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port }))

interface Place {
  readonly server: RedisServer
  readonly proxy: TcpProxy
  readonly operator: Redis
}

async function place (t: Test): Promise<Place> {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const operator = server.client()
  operator.on('error', () => {})
  t.teardown(() => operator.disconnect())
  return { server, proxy, operator }
}

/** The test closes it. It uses Redis, unless that cannot be reached. */
async function openApp (
  t: Test,
  options: RedisGuardOptions,
  lines: Record<string, unknown>[] = []
): Promise<FastifyInstance> {
  const app = await startApp(t, options, lines)
  if (options.redis !== false) await until(() => app.redisGuard.status.store === 'redis')
  lines.length = 0
  return app
}

async function startApp (
  t: Test,
  options: RedisGuardOptions,
  lines: Record<string, unknown>[] = []
): Promise<FastifyInstance> {
  const app: FastifyInstance = Fastify(logTo(lines))
  t.teardown(async () => await app.close())
  await app.register(redisGuard, { commandTimeout: 20_000, ...options })
  app.get('/', async () => 'ok')
  return app
}

async function msOf (call: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now()
  await call()
  return performance.now() - startMs
}

// Not in parallel: it would stop the timers of all other tests in this process.
t.test('when the time limit is over, and not before, no further command starts', { buffered: false }, async t => {
  const clock = mockMachinery(t, 'setTimeout')
  const begun: string[] = []
  let drained = () => {}
  const availability = {
    drain: async (tryUntilMs: number) => {
      begun.push(`drain until ${tryUntilMs}`)
      await new Promise<void>(resolve => { drained = resolve })
    },
    close: () => begun.push('close')
  } as unknown as Availability
  const redis = {
    availability,
    guarded: { stop: () => begun.push('stop') },
    journal: { size: 2, sizes: { counters: 2 } }
  } as unknown as RedisParts
  const flushes = [async () => { throw new Error('away') }, async () => { begun.push('flush') }]
  const closing = sendLast({ redis, flushes, limitMs: 250, tryUntilMs: 1000 })
  await until(() => begun.length === 2)
  t.same(begun, ['flush', 'drain until 1000'])
  clock.tick(249)
  t.equal(begun.length, 2)
  clock.tick(1)
  t.same(begun.slice(2), ['stop'])
  drained()
  t.same(await closing, { counters: 2 })
  t.same(begun.slice(3), ['stop', 'close'])
})

t.test('commands under way arrive, even if Redis does not know a script yet', { buffered: true }, async t => {
  const { proxy, operator } = await place(t)
  const app = await openApp(t, { redis: { port: proxy.port }, max: 2, countWhen: ({ url }) => url !== '/free' })
  app.get('/free', async () => 'ok')
  // Two hits and two refusals: the second refusal is made in this process, without Redis.
  for (let i = 0; i < 4; i++) await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
  proxy.delayMs = 50
  await app.inject({ url: '/free', remoteAddress: '192.0.2.2' })
  // These calls are not awaited either.
  const calls = [
    app.redisGuard.set('value', 1),
    app.redisGuard.incr('sum'),
    app.redisGuard.blockIP('192.0.2.3', 60),
    app.redisGuard.logRateLimitEvent({ ip: '192.0.2.4' })
  ]
  await app.close()
  const counterOf = async (address: string) => await operator.get(`guard:fixed-window:{${address}}:global`)
  t.equal(await counterOf('192.0.2.1'), '2:2')
  t.equal(await counterOf('192.0.2.2'), '0', 'the hit was given back')
  t.same(await operator.mget(keys.value('value'), keys.value('sum')), ['1', '1'])
  t.equal(await operator.hexists(keys.blocks, '192.0.2.3'), 1)
  t.match(JSON.stringify(await operator.xrange(keys.events, '-', '+')), /192\.0\.2\.1.*192\.0\.2\.4/)
  await Promise.all(calls)
})

t.test('the rest of an outage is sent during a recovery and right after it', { buffered: true }, async t => {
  await Promise.all([false, true].map(async waitsForRecovery => {
    const { server, proxy, operator } = await place(t)
    const app = await openApp(t, { redis: { port: proxy.port }, resetTimeout: 50 })
    await server.kill()
    await until(() => app.redisGuard.status.store === 'memory')
    const names = Array.from({ length: 300 }, (_, i) => `n${i}`)
    for (const name of names) await app.redisGuard.set(name, name)
    await server.restart()
    proxy.delayMs = 20
    const isBack = () =>
      waitsForRecovery ? app.redisGuard.status.store === 'redis' : app.redisGuard.status.breaker === 'closed'
    await until(isBack)
    await app.close()
    t.equal((await operator.mget(names.map(name => keys.value(name)))).filter(text => text !== null).length, 300)
  }))
})

t.test('closing replays to a Redis that is back, even before the guard noticed', { buffered: true }, async t => {
  const never = { resetTimeout: 60_000 }
  t.jobs = 3
  t.test('a Redis that was gone', { buffered: true }, async t => {
    const { server, operator } = await place(t)
    const lines: Record<string, unknown>[] = []
    const app = await openApp(t, { redis: { port: server.port, retryStrategy: () => 60_000 }, ...never }, lines)
    await server.kill()
    await until(() => app.redisGuard.status.store === 'memory')
    await app.redisGuard.set('value', 1)
    await server.restart()
    t.equal(app.redisGuard.status.store, 'memory')
    await app.close()
    t.equal(await operator.get(keys.value('value')), '1')
    t.same(lines.filter(({ lost }) => lost !== undefined), [])
  })

  t.test('a Redis that hung', { buffered: true }, async t => {
    const { server, operator } = await place(t)
    const app = await openApp(t, { redis: { port: server.port }, ...never, commandTimeout: 1000 })
    server.signal('SIGSTOP')
    await app.redisGuard.set('value', 1)
    t.equal(app.redisGuard.status.store, 'memory')
    server.signal('SIGCONT')
    await app.close()
    t.equal(await operator.get(keys.value('value')), '1')
  })

  t.test('a Cluster that was gone', { buffered: true }, async t => {
    const app = await openApp(t, { redis: { cluster: nodes, clusterRetryStrategy: () => 60_000 }, ...never })
    await Promise.all(cluster.servers.map(async server => await server.kill()))
    await until(() => app.redisGuard.client!.status === 'reconnecting')
    await app.redisGuard.blockIP('192.0.2.1', 60)
    await Promise.all(cluster.servers.map(async server => await server.restart()))
    const operators = cluster.servers.map(server => server.client())
    t.teardown(() => operators.forEach(operator => operator.disconnect()))
    for (const operator of operators) {
      await until(async () => /cluster_state:ok/.test(String(await operator.call('CLUSTER', 'INFO'))))
    }
    await app.close()
    // The other nodes answer that they do not have the slot.
    const found = await Promise.all(operators.map(async operator => {
      return await operator.hexists(keys.blocks, '192.0.2.1').catch(() => 0)
    }))
    t.same(found.sort(), [0, 0, 1])
  })
})

t.test('a loss is logged in one line, by kind', { buffered: true }, async t => {
  const { server } = await place(t)
  const lines: Record<string, unknown>[] = []
  const app = await openApp(t, { redis: server.url, max: 1, resetTimeout: 60_000 }, lines)
  await server.kill()
  await until(() => app.redisGuard.status.store === 'memory')
  for (let i = 0; i < 3; i++) await app.inject({ url: '/', remoteAddress: `192.0.2.${i}` })
  await app.redisGuard.blockIP('192.0.2.9', 60)
  await app.redisGuard.set('a', 1)
  await app.redisGuard.set('b', 1)
  await app.redisGuard.logRateLimitEvent({ ip: '192.0.2.1' })
  await app.close()
  const logged = lines.filter(({ msg }) => /closes/.test(String(msg)))
  t.match(logged, [{ level: 40, lost: { counters: 3, blocks: 1, events: 1, values: 2 }, msg: /Redis/ }])
  t.equal(logged.length, 1)
})

t.test('nothing is logged if nothing is lost', { buffered: true }, async t => {
  const { server } = await place(t)
  for (const [redis, open] of [[server.url, openApp], [false, openApp], ['redis://127.0.0.1:1', startApp]] as const) {
    const lines: Record<string, unknown>[] = []
    // Closing ends soon even if each command may take a minute.
    const app = await open(t, { redis, commandTimeout: 60_000 }, lines)
    const before = lines.length
    t.ok(await msOf(async () => await app.close()) < 30_000)
    t.equal(lines.length, before)
  }
})

t.test('a call after closing is an error with its own code', { buffered: true }, async t => {
  const { server } = await place(t)
  for (const redis of [server.url, false] as const) {
    const app = await openApp(t, { redis })
    const limiter = app.createRateLimit()
    let request: Parameters<typeof limiter>[0] | undefined
    app.addHook('onRequest', async given => { request = given })
    await app.inject('/')
    const guard = app.redisGuard
    await app.close()
    const calls: Record<string, () => Promise<unknown>> = {
      get: async () => await guard.get('a'),
      set: async () => await guard.set('a', 1),
      incr: async () => await guard.incr('a'),
      expire: async () => await guard.expire('a', 1),
      del: async () => await guard.del('a'),
      logRateLimitEvent: async () => await guard.logRateLimitEvent({}),
      getRateLimitEvents: async () => await guard.getRateLimitEvents(),
      clearOldRateLimitEvents: async () => await guard.clearOldRateLimitEvents(0),
      blockIP: async () => await guard.blockIP('192.0.2.1', 1),
      isIPBlocked: async () => await guard.isIPBlocked('192.0.2.1'),
      unblockIP: async () => await guard.unblockIP('192.0.2.1'),
      getBlockedIPs: async () => await guard.getBlockedIPs(),
      getSuspiciousIPs: async () => await guard.getSuspiciousIPs(),
      rotate: async () => await guard.rotate(),
      'limits.set': async () => await guard.limits.set('global', { max: 1, timeWindow: 1000 }),
      'limits.reset': async () => await guard.limits.reset('global'),
      'limits.peek': async () => await guard.limits.peek('192.0.2.1'),
      limiter: async () => await limiter(request!),
      'limiter that only looks': async () => await limiter(request!, { increment: false })
    }
    for (const [name, call] of Object.entries(calls)) {
      await t.rejects(call(), { name: 'ClosedError', code: 'GUARD_ERR_CLOSED', message: /closed/ }, name)
    }
    t.equal(guard.status.store, 'memory')
  }
})

t.test('the application may still use the guard in its own onClose hook', { buffered: true }, async t => {
  const { server, operator } = await place(t)
  const app = Fastify()
  await app.register(redisGuard, { redis: server.url, commandTimeout: 20_000 })
  app.addHook('onClose', async () => await app.redisGuard.set('last', 1))
  await app.ready()
  await until(() => app.redisGuard.status.store === 'redis')
  await app.close()
  t.equal(await operator.get(keys.value('last')), '1')
})

t.test('closing ends in time', { buffered: true }, async t => {
  t.jobs = 4
  const options = { commandTimeout: 500, connectTimeout: 500, resetTimeout: 100 }
  /** ms: ten times as long as closing takes on an idle machine. Anything that it must not wait for takes longer. */
  const longestMs = 10 * 2 * options.commandTimeout
  const closedInTime = async (t: Test, app: FastifyInstance, lines: readonly Record<string, unknown>[]) => {
    const tookMs = await msOf(async () => await app.close())
    t.ok(tookMs < longestMs, `${tookMs} ms`)
    const [line, ...others] =
      lines.filter(({ lost }) => lost !== undefined) as { lost: Record<string, number>, msg: string }[]
    t.match(line, { msg: 'the application closes before Redis has everything: the rest is lost' })
    t.same(others, [])
    return line!.lost
  }

  t.test('while Redis hangs, with commands under way, and during a known outage', { buffered: true }, async t => {
    await Promise.all([false, true].map(async isKnown => {
      const { server } = await place(t)
      const lines: Record<string, unknown>[] = []
      const app = await openApp(t, { redis: server.url, ...options, countWhen: () => false }, lines)
      server.signal('SIGSTOP')
      const setting = app.redisGuard.set('value', 1)
      if (isKnown) await setting
      t.match(await closedInTime(t, app, lines), { counters: 0, blocks: 0, events: 0, values: 1 })
      await setting
    }))
  })

  const slow = { commandTimeout: 1000, resetTimeout: 100 }

  // The time is enough for two round trips; the recovery needs more.
  t.test('during the recovery of a slow Redis', { buffered: true }, async t => {
    const { server, proxy, operator } = await place(t)
    const lines: Record<string, unknown>[] = []
    const app = await openApp(t, { redis: { port: proxy.port }, ...slow }, lines)
    await server.kill()
    await until(() => app.redisGuard.status.store === 'memory')
    for (let i = 0; i < 3000; i++) await app.redisGuard.set(`n${i}`, i)
    proxy.delayMs = 200
    await server.restart()
    await until(() => app.redisGuard.status.breaker === 'closed')
    const { values } = await closedInTime(t, app, lines)
    const arrived = (await operator.keys(keys.value('n*'))).length
    t.ok(values! > 0 && values! + arrived >= 3000, `${values} lost, ${arrived} arrived`)
  })

  t.test('while many addresses are blocked in a slow Redis', { buffered: true }, async t => {
    const { proxy, operator } = await place(t)
    const lines: Record<string, unknown>[] = []
    const app = await openApp(t, { redis: { port: proxy.port }, ...slow, syncInterval: 60_000 }, lines)
    proxy.delayMs = 150
    const blocking = Array.from({ length: 4000 }, async (_, i) => {
      return await app.redisGuard.blockIP(`10.0.${i >> 8}.${i & 255}`, 60)
    })
    const { blocks } = await closedInTime(t, app, lines)
    t.ok(blocks! > 0)
    // Up to eight calls of fifty blocks may be in doubt.
    const all = blocks! + await operator.hlen(keys.blocks)
    t.ok(all >= 4000 && all <= 4400, `${all} lost or in Redis`)
    t.equal((await Promise.all(blocking)).length, 4000)
  })

  t.test('with many registrations, which Fastify closes one after the other', { buffered: true }, async t => {
    const { server } = await place(t)
    const lines: Record<string, unknown>[] = []
    const app = Fastify(logTo(lines))
    t.teardown(async () => await app.close())
    const scopes: FastifyInstance[] = []
    for (let i = 0; i < 24; i++) {
      await app.register(async scope => {
        await scope.register(redisGuard, { redis: server.url, metrics: false, nameSpace: `n${i}:`, ...options })
        scopes.push(scope)
      })
    }
    await app.ready()
    server.signal('SIGSTOP')
    await Promise.all(scopes.map(async ({ redisGuard }) => await redisGuard.set('value', 1)))
    const tookMs = await msOf(async () => await app.close())
    // One after the other, each registration would try Redis for a whole commandTimeout.
    t.ok(tookMs < scopes.length * options.commandTimeout / 2, `${tookMs} ms`)
    t.equal(lines.filter(({ lost }) => lost !== undefined).length, 24)
  })

  t.test('while it connects, before the application is ready, and when closed twice', { buffered: true }, async t => {
    const silent = createServer(socket => socket.on('error', () => {})).listen(0, '127.0.0.1')
    t.teardown(() => silent.close())
    await once(silent, 'listening')
    const { port } = silent.address() as { port: number }
    const connecting = await startApp(t, { redis: { port }, ...options })
    await connecting.redisGuard.set('value', 1)
    t.ok(await msOf(async () => await connecting.close()) < longestMs)

    const early = Fastify()
    early.register(redisGuard, { redis: { port }, ...options })
    t.ok(await msOf(async () => await early.close()) < longestMs)

    const { server } = await place(t)
    const twice = await openApp(t, { redis: server.url, ...options })
    await Promise.all([twice.close(), twice.close()])
    await twice.close()
  })
})
