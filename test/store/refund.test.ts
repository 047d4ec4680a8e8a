/** Refunded hits, and windows that refusals extend: alike in memory and Redis, and through an outage. */
import t, { type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { GuardedRedis } from '../../lib/redis/breaker.js'
import { Connection } from '../../lib/redis/connection.js'
import { algorithms, ruleOf } from '../../lib/rules/algorithms.js'
import { defineLimit, excesses } from '../../lib/rules/rate-limit.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import { RedisStore } from '../../lib/store/redis/redis-store.js'
import { outcomeOf, type Taken } from '../../lib/store/limit-store.js'
import { type Asked, takeOf } from '../support/take.js'
import { guardedApp } from '../support/app.js'
import { outages } from '../support/outages.js'
import { randomFrom } from '../support/random.js'
import { numbersOf, stateOf } from '../support/states.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// These tests wait most of the time.
t.jobs = 4

/** The server of all tests, except those that stop or empty theirs. */
const shared = await startRedis(t)
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)

async function startRedis (t: Test): Promise<RedisServer> {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  return server
}

t.test(`memory and Redis refund alike (SEED=${seed})`, { buffered: true }, async t => {
  const times = { connectTimeout: 30_000, commandTimeout: 30_000, resetTimeout: 500 }
  const guarded = new GuardedRedis(new Connection({ kind: 'server', options: { port: shared.port } }, times), {
    ...times,
    probeKey: 'probe'
  })
  await guarded.connect(times.connectTimeout)
  t.teardown(() => guarded.close())
  const random = randomFrom(seed)
  const keys = new Keys('refund:')
  const redis = new RedisStore(guarded, { keys, maxEvents: 1, instance: 'test' })
  let clockMs = 0
  const memory = new MemoryStore({ keys, capacity: 1000, maxEvents: 1, now: () => clockMs })
  await redis.instance.fence()
  // Each counter has two limits, as routes of one group do.
  const groups = algorithms.flatMap(algorithm => excesses.map(excess => [1, 2].map(() => ({
    name: `${algorithm}-${excess}`,
    limit: defineLimit(algorithm, random.whole(1, 8), 3_600_000, { excess }),
    cost: random.whole(1, 2)
  }))))
  // An empty counter starts again in memory at another moment than in Redis: each gets its own hit refunded.
  const counted: { hit: Asked, taken: Taken, takenInMemory: Taken }[] = []
  for (let step = 0; step < 500; step++) {
    const checks = groups.map(group => random.pick(group))
    const given = random.chance(0.4)
      ? counted.splice(random.whole(0, Math.max(0, counted.length - 1)), 1)[0]
      : undefined
    if (given !== undefined) {
      await redis.limits.refund(given.hit, given.taken)
      memory.limits.refund(given.hit, given.takenInMemory)
    } else {
      const some = random.chance(0.5) ? [random.pick(checks)] : checks.filter(() => random.chance(0.4))
      if (some.length === 0) continue
      // A limit in shadow accepts hits that it does not count; such a hit must not be refunded to it.
      const hit = {
        clientKey: `client${random.whole(1, 3)}`,
        checks: some.map(check => ({ ...check, shadow: random.chance(0.3) }))
      }
      const taken = await takeOf(redis.limits, hit)
      clockMs = taken.nowMs
      const takenInMemory = memory.limits.take(hit)
      if (taken.accepted) counted.push({ hit, taken, takenInMemory })
    }
    const key = `client${random.whole(1, 3)}`
    const [inMemory, onRedis] = [memory.limits.peek(key, checks), await redis.limits.peek(key, checks)]
    const usedOf = (peeked: typeof inMemory, nowMs: number) => peeked.map(({ check: { name, limit }, state }) => {
      const [used, second] = numbersOf(limit, ruleOf(limit).take(state, nowMs, limit, 0).state)
      return { name, used: limit.algorithm === 'gcra' ? used / limit.windowMs : used, second }
    })
    // All windows are so long that the difference of the two clocks does not matter.
    const [found, expected] = [usedOf(inMemory, clockMs), usedOf(onRedis, clockMs)]
    // A bucket drains between the two peeks.
    const isAlike = found.every(({ used, second }, i) =>
      Math.abs(used - expected[i]!.used) < 0.01 && second === expected[i]!.second)
    if (!isAlike) return t.same(found, expected, `step ${step}`)
  }
  t.pass('500 steps')
})

t.test('a refund and a peek leave a value alone that is not a counter', { buffered: true }, async t => {
  const times = { connectTimeout: 30_000, commandTimeout: 30_000, resetTimeout: 500 }
  const guarded = new GuardedRedis(new Connection({ kind: 'server', options: { port: shared.port } }, times), {
    ...times,
    probeKey: 'probe'
  })
  await guarded.connect(times.connectTimeout)
  t.teardown(() => guarded.close())
  const store = new RedisStore(guarded, { keys: new Keys('other:'), maxEvents: 1, instance: 'test' })
  await store.instance.fence()
  const checks = algorithms.map(algorithm => ({ name: 'a', limit: defineLimit(algorithm, 5, 1000), cost: 1 }))
  const outcomes = checks.map(check => outcomeOf(check, { fits: true, state: stateOf(check.limit, 1, 0, 0) }, 0))
  const taken: Taken = { kind: 'taken', source: 'redis', accepted: true, nowMs: 0, outcomes }
  for (const { limit } of checks) {
    await guarded.client.sadd(new Keys('other:').newCounter(limit.algorithm, 'a', 'client'), 'x')
  }
  await store.limits.refund({ clientKey: 'client' }, taken)
  t.same((await store.limits.peek('client', checks)).map(({ state }) => state), checks.map(() => undefined))
  t.equal(await store.limits.forget('client', checks), true)
  t.equal(await store.limits.forget('client', []), false)
})

async function isUsed (app: FastifyInstance): Promise<void> {
  await until(() => app.redisGuard.status.store === 'redis')
}

/** An application behind a proxy that can cut it off from Redis. */
type Behind = { app: FastifyInstance, proxy: TcpProxy, away: (isAway: boolean) => Promise<void> }

async function appBehind (t: Test, options: RedisGuardOptions, server = shared): Promise<Behind> {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const app = await guardedApp(t, {
    redis: { port: proxy.port },
    commandTimeout: 1500,
    resetTimeout: 100,
    timeWindow: '1 hour',
    ...options
  })
  await isUsed(app)
  return {
    app,
    proxy,
    away: async isAway => {
      proxy.blackhole = isAway
      await until(async () => {
        await app.redisGuard.get('x')
        return app.redisGuard.status.store === (isAway ? 'memory' : 'redis')
      })
    }
  }
}

/** Adds a route that answers on request and one that answers 401 at once; tells how much of the limit is left. */
function heldRoutes (app: FastifyInstance): { readonly answer: () => void, readonly left: () => Promise<number> } {
  let resolveRight = (text: string) => {}
  app.get('/right', async () => await new Promise<string>(resolve => { resolveRight = resolve }))
  app.get('/wrong', async (request, reply) => await reply.code(401).send())
  return {
    answer: () => resolveRight('ok'),
    left: async () => (await app.redisGuard.limits.peek('127.0.0.1'))[0]!.remaining
  }
}

for (const algorithm of algorithms) {
  t.test(`${algorithm}: a refund during an outage reaches Redis afterwards`, { buffered: true }, async t => {
    const { app, away } = await appBehind(t, {
      max: 10,
      algorithm,
      nameSpace: `outage-${algorithm}:`,
      countWhen: (request, reply) => reply.statusCode !== 200
    })
    app.get('/right', async () => 'ok')
    app.get('/wrong', async (request, reply) => await reply.code(401).send())
    const left = async () => (await app.redisGuard.limits.peek('127.0.0.1'))[0]!.remaining
    await app.inject('/wrong')
    await app.inject('/wrong')
    await away(true)
    await app.inject('/wrong')
    await app.inject('/right')
    await until(async () => await left() === 7)
    await away(false)
    await until(async () => await left() === 7)
    await app.inject('/right')
    await until(async () => await left() === 7)
    t.equal((await app.inject('/wrong')).headers['x-ratelimit-remaining'], '6')
  })
}

t.test('continueExceeding and exponentialBackoff last through an outage and beyond', { buffered: true }, async t => {
  const hour = 3600
  const options = [
    ['continueExceeding', [hour, hour, hour, hour]],
    ['exponentialBackoff', [hour, 2 * hour, 4 * hour, 8 * hour]]
  ] as const
  await Promise.all(options.map(async ([option, expected]) => {
    const { app, away } =
      await appBehind(t, { max: 1, timeWindow: '1 hour', nameSpace: `excess-${option}:`, [option]: true })
    app.get('/', async () => 'ok')
    const retryAfter = async () => Number((await app.inject('/')).headers['retry-after'] ?? 0)
    t.equal(await retryAfter(), 0)
    const waits = [await retryAfter()]
    await away(true)
    waits.push(await retryAfter(), await retryAfter())
    await away(false)
    waits.push(await retryAfter())
    // Part of a minute may have passed.
    t.same(waits.map(seconds => Math.ceil(seconds / 60) * 60), expected, option)
  }))
})

t.test('a hit that memory counted is refunded in Redis once that is back', { buffered: true }, async t => {
  const { app, away } = await appBehind(t, { max: 10, nameSpace: 'late:', countWhen: () => false })
  let answer = () => {}
  app.get('/', async () => await new Promise(resolve => { answer = () => resolve('ok') }))
  const left = async () => (await app.redisGuard.limits.peek('127.0.0.1'))[0]!.remaining
  await away(true)
  const late = app.inject('/')
  await until(async () => await left() === 9)
  await away(false)
  t.equal(await left(), 9)
  answer()
  t.equal((await late).statusCode, 200)
  await until(async () => await left() === 10)
})

for (const [name, { begin, end }] of Object.entries(outages)) {
  t.test(`a Redis that ${name}: a refund at that moment is applied once`, { buffered: true }, async t => {
    const server = await startRedis(t)
    const { app, proxy } =
      await appBehind(t, { max: 10, countWhen: (request, reply) => reply.statusCode !== 200 }, server)
    const { answer, left } = heldRoutes(app)
    await app.inject('/wrong')
    await app.inject('/wrong')
    const right = app.inject('/right')
    await until(async () => await left() === 7)
    await isUsed(app)
    begin(server, proxy)
    answer()
    t.equal((await right).statusCode, 200)
    await until(() => app.redisGuard.status.store === 'memory')
    t.equal(await left(), 8)
    end(server, proxy)
    await until(() => app.redisGuard.status.store === 'redis')
    t.equal(await left(), 8)
    await app.inject('/wrong')
    t.equal(await left(), 7)
  })
}

for (const [name, { begin, end }] of Object.entries(outages)) {
  t.test(`a Redis that ${name}: a client reset at that moment gets its quota once`, { buffered: true }, async t => {
    const server = await startRedis(t)
    const { app, proxy } = await appBehind(t, { max: 5 }, server)
    const { left } = heldRoutes(app)
    for (let hit = 0; hit < 5; hit++) await app.inject('/wrong')
    t.equal(await left(), 0)
    await isUsed(app)
    begin(server, proxy)
    t.equal(await app.redisGuard.limits.reset('127.0.0.1'), true)
    t.equal(app.redisGuard.status.store, 'memory')
    for (let hit = 0; hit < 4; hit++) await app.inject('/wrong')
    t.equal(await left(), 1)
    end(server, proxy)
    await until(() => app.redisGuard.status.store === 'redis')
    t.equal(await left(), 1)
  })
}

t.test('a hit answered after Redis lost its data is refunded in memory and in Redis', { buffered: true }, async t => {
  const server = await startRedis(t)
  const { app } =
    await appBehind(t, { max: 10, nameSpace: 'lost:', countWhen: (request, reply) => reply.statusCode !== 200 }, server)
  const { answer, left } = heldRoutes(app)
  await app.inject('/wrong')
  const right = app.inject('/right')
  await until(async () => await left() === 8)
  const client = server.client()
  t.teardown(() => client.disconnect())
  await client.flushall()
  answer()
  t.equal((await right).statusCode, 200)
  await until(async () => {
    return app.redisGuard.status.store === 'redis' && await client.get('lost:fixed-window:{127.0.0.1}:global') === '1'
  })
  t.equal(await left(), 9)
})

t.test('a client reset after Redis lost its data has its whole quota everywhere', { buffered: true }, async t => {
  const server = await startRedis(t)
  const { app } = await appBehind(t, { max: 5 }, server)
  const { left } = heldRoutes(app)
  for (let hit = 0; hit < 5; hit++) await app.inject('/wrong')
  t.equal(await left(), 0)
  const client = server.client()
  t.teardown(() => client.disconnect())
  await client.flushall()
  t.equal(await app.redisGuard.limits.reset('127.0.0.1'), true)
  t.equal(await left(), 5)
  await until(() => app.redisGuard.status.store === 'redis')
  t.equal(await left(), 5)
  for (let hit = 0; hit < 2; hit++) await app.inject('/wrong')
  t.equal(await left(), 3)
})

const cluster = await RedisCluster.start()
t.teardown(async () => await cluster.stop())
const ofCluster = { cluster: cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port })) }

t.test('in a Cluster that hangs, a request that is refunded at that moment is refunded once', async t => {
  const app = await guardedApp(t, {
    redis: ofCluster,
    commandTimeout: 1000,
    resetTimeout: 100,
    timeWindow: '1 hour',
    max: 10,
    countWhen: (request, reply) => reply.statusCode !== 200
  })
  await isUsed(app)
  const { answer, left } = heldRoutes(app)
  await app.inject('/wrong')
  await app.inject('/wrong')
  const right = app.inject('/right')
  await until(async () => await left() === 7)
  for (const server of cluster.servers) server.signal('SIGSTOP')
  answer()
  t.equal((await right).statusCode, 200)
  await until(() => app.redisGuard.status.store === 'memory')
  t.equal(await left(), 8)
  for (const server of cluster.servers) server.signal('SIGCONT')
  await until(() => app.redisGuard.status.store === 'redis')
  t.equal(await left(), 8)

  // A reset at that moment is never lost, but may be done twice.
  for (const server of cluster.servers) server.signal('SIGSTOP')
  t.equal(await app.redisGuard.limits.reset('127.0.0.1'), true)
  await app.inject('/wrong')
  for (const server of cluster.servers) server.signal('SIGCONT')
  await until(() => app.redisGuard.status.store === 'redis')
  t.ok(await left() >= 9)
})

t.test('in a Cluster, a refund reaches each of several limits that counted the hit', async t => {
  const limits = [
    ...algorithms.map(algorithm => ({ name: algorithm, algorithm, max: 5, timeWindow: '1 hour' })),
    { name: 'shadow', max: 0, timeWindow: '1 hour', shadow: true }
  ]
  const app = await guardedApp(t, {
    redis: ofCluster,
    nameSpace: 'limits:',
    commandTimeout: 10_000,
    limits,
    countWhen: (request, reply) => reply.statusCode !== 200
  })
  app.get('/:status', async (request, reply) => {
    return await reply.code(Number((request.params as { status: string }).status)).send()
  })
  await isUsed(app)
  const leftOf = (remaining: number) => [...algorithms.map(() => remaining), 0].join()
  for (let i = 0; i < 8; i++) {
    const remoteAddress = `192.0.2.${i}`
    const left = async () => (await app.redisGuard.limits.peek(remoteAddress)).map(({ remaining }) => remaining)
    await app.inject({ url: '/401', remoteAddress })
    await app.inject({ url: '/200', remoteAddress })
    await until(async () => (await left()).join() === leftOf(4))
    t.equal(await app.redisGuard.limits.reset(remoteAddress), true)
    t.equal((await left()).join(), leftOf(5))
  }
})
