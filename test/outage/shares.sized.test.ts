/** onOutage: 'share': all instances together stay within the limit. */
import { connect } from 'node:net'
import fc from 'fast-check'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import redisGuard from '../../lib/index.js'
import { algorithms, ruleOf, type Algorithm } from '../../lib/rules/algorithms.js'
import { type Check, defineLimit } from '../../lib/rules/rate-limit.js'
import type { LimitState } from '../../lib/rules/rule.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryLimits } from '../../lib/store/memory/limits.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import { Shares } from '../../lib/outage/shares.js'
import { outcomeOf, type Taken } from '../../lib/store/limit-store.js'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { madeUpStores } from '../support/made-up-redis.js'
import { size } from '../support/size.js'
import { stateOf } from '../support/states.js'
import { takeOf } from '../support/take.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// The tests with servers wait most of the time.
t.jobs = 3
const aside = { buffered: true }

const keys = new Keys('guard:')

/** An outage here starts with a closed connection, so no timeout has to be short. */
const times = { resetTimeout: 100, commandTimeout: 10_000, connectTimeout: 10_000 }

/** Waits until an instance uses this store; each check also sends a command. */
async function goes (app: FastifyInstance, store: string): Promise<void> {
  await until(async () => {
    await app.redisGuard.get('x')
    return app.redisGuard.status.store === store
  })
}

const metricsOf = async (app: FastifyInstance) => (await app.inject('/metrics')).body

const knowsOfTwo = async (app: FastifyInstance) => /redis_guard_instances 2/.test(await metricsOf(app))

/** Instances with their own clocks, and a Redis between them that keeps one client's counter. */
function setUp (algorithm: Algorithm, max: number, instances: number) {
  let nowMs = 1_700_000_000_000
  let counter: LimitState | undefined
  const check: Check = { name: 'limit', limit: defineLimit(algorithm, max, 60_000), cost: 1 }
  const hit = { clientKey: 'client', checks: [check] }
  const takenBy = (
    source: Taken['source'], { fits, state }: { fits: boolean, state: LimitState }, atMs: number
  ): Taken =>
    ({ kind: 'taken', source, accepted: true, nowMs: atMs, outcomes: [outcomeOf(check, { fits, state }, atMs)] })
  const all = Array.from({ length: instances }, (_, i) => {
    const now = () => nowMs + 7 * i
    const memory = new MemoryStore({ keys, capacity: 100, maxEvents: 1, now })
    const shares = new Shares(new MemoryLimits({ keys, capacity: 100, now }), now)
    return {
      shares,
      now,
      onRedis (): boolean {
        const outcome = ruleOf(check.limit).take(counter, nowMs, check.limit, 1)
        counter = outcome.state
        memory.limits.adopt(hit, { check, state: outcome.state }, nowMs)
        if (outcome.fits) shares.passed(hit, takenBy('redis', outcome, nowMs), instances)
        return outcome.fits
      },
      away (outage: number) {
        return shares.take(hit, [{ check, state: memory.limits.known(hit, check) }], { instances, outage })
      }
    }
  })
  return { all, hit, takenBy, pass: (ms: number) => { nowMs += ms } }
}

for (const algorithm of algorithms) {
  t.test(`${algorithm}: whatever was used before an outage, all instances together let max pass`, async t => {
    fc.assert(fc.property(
      fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 5 }),
      fc.array(fc.nat(4), { maxLength: 40 }), fc.array(fc.nat(4), { minLength: 100, maxLength: 200 }),
      (max, instances, before, during) => {
        const { all } = setUp(algorithm, max, instances)
        // No more than its part through each of them: the others cannot know what an instance let pass beyond that.
        const through = all.map(() => 0)
        let passed = 0
        for (const pick of before) {
          const i = pick % instances
          if (through[i]! >= Math.floor(max / instances)) continue
          if (!all[i]!.onRedis()) continue
          through[i]!++
          passed++
        }
        for (const pick of during) if (all[pick % instances]!.away(1).accepted) passed++
        return passed <= max
      }
    ), { numRuns: size(60, 300) })
    t.pass()
  })

  t.test(`${algorithm}: the rest of a quota is shared when Redis goes away, and retry-after is exact`, async t => {
    const { all, pass } = setUp(algorithm, 20, 2)
    const [a, b] = all as [typeof all[0], typeof all[0]]
    for (let i = 0; i < 4; i++) t.same([a.onRedis(), b.onRedis()], [true, true])
    const known = a.away(1)
    // 12 are left, less the one that b counted last, of which a does not know.
    t.match(known, { accepted: true, parts: [{ explanation: { remaining: 5, retryAfterMs: 0 } }] })
    const passed = [
      ...Array.from({ length: 10 }, () => a.away(1)),
      ...Array.from({ length: 10 }, () => b.away(1))
    ].filter(({ accepted }) => accepted).length
    t.equal(1 + passed, 12)
    const { explanation } = a.away(1).parts[0]!
    t.equal(explanation.remaining, 0)
    pass(explanation.retryAfterMs - 1)
    t.equal(a.away(1).accepted, false)
    pass(1)
    t.equal(a.away(1).accepted, true)
  })
}

t.test('a refund of a hit from an expired window does not apply to the next one', async t => {
  for (const [algorithm, passes] of [['fixed-window', 5], ['sliding-window', 6]] as const) {
    const { all: [a], pass, hit, takenBy } = setUp(algorithm, 20, 2)
    const first = a!.away(1)
    const taken = takenBy('memory', { fits: true, state: stateOf({ algorithm }, 1, 0, first.nowMs) }, first.nowMs)
    pass(algorithm === 'fixed-window' ? 60_000 : 60_001)
    for (let i = 0; i < 5; i++) t.equal(a!.away(1).accepted, true)
    a!.shares.refund(hit, taken, { instances: 2, outage: 1 })
    let more = 0
    while (a!.away(1).accepted) more++
    t.ok(more <= passes, `${more} of ${algorithm}`)
    t.ok(more >= 4)
  }
})

t.test('the rest of a quota is computed again in each outage, and forgotten after it', async t => {
  const { all: [a], pass } = setUp('fixed-window', 20, 2)
  for (let i = 0; i < 10; i++) a!.away(1)
  t.equal(a!.away(1).accepted, false)
  pass(60_000)
  a!.shares.sweep()
  t.equal(a!.away(1).accepted, true)
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: a hit that costs more than a part, and fits the whole, may pass later`, async t => {
    const { breaker, redis, stores } = madeUpStores(t)
    redis.instances = 2
    const isUp = async () => {
      breaker.up()
      await stores.availability.settle()
      t.equal(stores.availability.instances, 2)
    }
    const limit = defineLimit(algorithm, 10, 60_000)
    const refusedForMs = async (cost: number) => {
      const checks = [{ name: 'limit', limit, cost }]
      const { accepted, outcomes } = await takeOf(stores.limits, { clientKey: 'client', checks, onOutage: 'share' })
      t.equal(accepted, false)
      return outcomes[0]!.explanation.retryAfterMs
    }
    await isUp()
    breaker.down()
    for (const when of ['in an outage', 'back before the others']) {
      const laterMs = await refusedForMs(6)
      t.ok(laterMs > 0 && laterMs <= 2 * 60_000, `${when}: ${laterMs}`)
      t.equal(await refusedForMs(11), Infinity, `${when}: a hit beyond the whole never passes`)
      await isUp()
      t.equal(stores.availability.isWaiting, true)
    }
  })
}

t.test('a max below the number of instances lets no request pass: all parts never exceed the whole', async t => {
  const { all } = setUp('fixed-window', 2, 3)
  t.same(all.map(instance => instance.away(1).accepted), [false, false, false])
})

t.test('two instances share a limit while Redis is away, and Redis has all hits afterwards', aside, async t => {
  const server = await RedisServer.start('--appendonly', 'yes')
  t.teardown(async () => await server.stop())
  const start = async (t: Test) => {
    const redis = { port: server.port }
    const app = await guardedApp(t, { redis, max: 20, timeWindow: '1 hour', onOutage: 'share', ...times })
    app.get('/', async () => 'ok')
    return app
  }
  const apps = [await start(t), await start(t)]
  await until(async () => await knowsOfTwo(apps[0]!) && await knowsOfTwo(apps[1]!))
  const passing = async (count: number) => {
    let passed = 0
    for (let i = 0; i < count; i++) for (const app of apps) if ((await app.inject('/')).statusCode === 200) passed++
    return passed
  }
  t.equal(await passing(3), 6)
  await server.kill()
  for (const app of apps) await goes(app, 'memory')
  const during = await passing(20)
  t.ok(during >= 13 && during <= 14, `${during} of the 14 that were left`)
  const refused = await apps[0]!.inject('/')
  t.match(refused.headers, { 'x-ratelimit-limit': '20', 'x-ratelimit-remaining': '0' })
  t.ok(Number(refused.headers['retry-after']) > 3000)
  await server.restart()
  for (const app of apps) await goes(app, 'redis')
  const client = server.client()
  t.equal(Number(await client.get('guard:fixed-window:{127.0.0.1}:global')), 6 + during)
  client.disconnect()
  t.equal(await passing(20), 14 - during)
})

t.test('refunds before and during an outage go to the part of their instance', aside, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const start = async () => {
    const app = await guardedApp(t, {
      redis: server.url, onOutage: 'share', countWhen: (request, reply) => reply.statusCode !== 200, ...times
    })
    for (const algorithm of algorithms) {
      const config = { rateLimit: { algorithm, max: 10, timeWindow: '1 hour' } }
      app.get(`/${algorithm}/:code`, { config }, async (request, reply) =>
        await reply.code(Number((request.params as { code: string }).code)).send())
    }
    await app.ready()
    return app
  }
  const [app, other] = [await start(), await start()]
  await until(async () => await knowsOfTwo(app))
  const left = async (algorithm: Algorithm) => {
    const limits = await app.redisGuard.limits.peek('127.0.0.1')
    return limits.find(({ name }) => name === `GET:/${algorithm}/:code`)!.remaining
  }
  const right = async (algorithm: Algorithm, count: number) => {
    for (let i = 0; i < count; i++) t.equal((await app.inject(`/${algorithm}/200`)).statusCode, 200)
    await until(async () => await left(algorithm) === 10)
  }
  for (const algorithm of algorithms) await right(algorithm, 8)
  await server.kill()
  for (const instance of [app, other]) await goes(instance, 'memory')
  for (const algorithm of algorithms) {
    await right(algorithm, 8)
    const passed = []
    for (let i = 0; i < 8; i++) passed.push((await app.inject(`/${algorithm}/401`)).statusCode)
    t.same(passed, [401, 401, 401, 401, 401, 429, 429, 429], algorithm)
  }
})

/** Resolves when each of these connections has sent Redis two heartbeats. */
async function heartbeatsOf (server: RedisServer, connections: number): Promise<void> {
  // MONITOR of ioredis fails if a command arrives in the same packet as the answer to MONITOR.
  const monitor = connect(server.port, '127.0.0.1')
  let seen = ''
  monitor.setEncoding('utf8').on('data', (text: string) => { seen += text })
  monitor.write('MONITOR\r\n')
  const enough = () => {
    const heartbeats = new Map<string, number>()
    for (const [, source] of seen.matchAll(/ ([\d.]+:\d+)\] "eval[^\n]*guard:\{blocks\}:instances/gi)) {
      heartbeats.set(source!, (heartbeats.get(source!) ?? 0) + 1)
    }
    return [...heartbeats.values()].filter(count => count >= 2).length === connections
  }
  await until(enough)
  monitor.destroy()
}

t.test('registrations of one application are one instance: each has its whole limit', aside, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const options = { redis: server.url, max: 4, onOutage: 'share', timeWindow: '1 hour', ...times } as const
  const app = await guardedApp(t, options)
  await app.register(redisGuard, { ...options, metrics: false })
  app.get('/', async () => 'ok')
  await app.ready()
  await heartbeatsOf(server, 2)
  t.match(await metricsOf(app), /redis_guard_instances 1\n/)
  await server.kill()
  await goes(app, 'memory')
  const passed = []
  for (let i = 0; i < 5; i++) passed.push((await app.inject('/')).statusCode)
  t.same(passed, [200, 200, 200, 200, 429])
})

t.test('of several limits, only the one that refuses counts a refusal', aside, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const limits = [
    { name: 'few', max: 2, timeWindow: '1 hour' },
    { name: 'many', max: 9, timeWindow: '1 hour' },
    { name: 'shadow', max: 1, timeWindow: '1 hour', shadow: true }
  ]
  const app = await guardedApp(t, { redis: server.url, limits, onOutage: 'share', ...times })
  app.get('/', async () => 'ok')
  await app.ready()
  await server.kill()
  await goes(app, 'memory')
  const answers = []
  for (let i = 0; i < 4; i++) answers.push(await app.inject('/'))
  t.same(answers.map(({ statusCode }) => statusCode), [200, 200, 429, 429])
  const left = async () =>
    (await app.redisGuard.limits.peek('127.0.0.1')).map(({ name, remaining }) => [name, remaining])
  const expected = [['global:few', 0], ['global:many', 7], ['global:shadow', 0]]
  t.same(await left(), expected)
  await server.restart()
  await until(() => app.redisGuard.status.store === 'redis')
  t.same(await left(), expected)
})

t.test('an instance that is back keeps to its part until the others are back or given up', aside, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const apps: FastifyInstance[] = []
  const proxies: TcpProxy[] = []
  for (let i = 0; i < 2; i++) {
    const proxy = await TcpProxy.start(server.port)
    t.teardown(async () => await proxy.stop())
    const options = { redis: { port: proxy.port }, max: 20, timeWindow: '1 hour', onOutage: 'share' } as const
    // One hit below waits for its timeout.
    const app = await guardedApp(t, { ...options, ...times, commandTimeout: 1000 })
    app.get('/', async () => 'ok')
    proxies.push(proxy)
    apps.push(app)
  }
  const [first, second] = apps as [FastifyInstance, FastifyInstance]
  const cutOff = async () => {
    for (const proxy of proxies) {
      proxy.blackhole = true
      proxy.cut()
    }
    for (const app of apps) await goes(app, 'memory')
  }
  const reconnect = async (i: number) => {
    proxies[i]!.blackhole = false
    // Do not wait for a connection that lost packets.
    proxies[i]!.cut()
    await goes(apps[i]!, 'redis')
  }
  const passes = async (app: FastifyInstance, remoteAddress: string) =>
    (await app.inject({ url: '/', remoteAddress })).statusCode === 200
  const passing = async (app: FastifyInstance, client: string, hits = 30) => {
    let passed = 0
    for (let i = 0; i < hits; i++) if (await passes(app, client)) passed++
    return passed
  }
  let number = 0
  const freshClient = () => `2001:db8:0:${(++number).toString(16)}::1`
  /** Waits until the first instance lets a client pass that has used its part. */
  const untilAllPass = async () => {
    const client = freshClient()
    t.equal(await passing(first, client, 10), 10)
    await until(async () => await passes(first, client))
  }
  await until(async () => await knowsOfTwo(first) && await knowsOfTwo(second))
  await cutOff()
  t.equal(await passing(second, '192.0.2.1'), 10)
  await reconnect(0)
  t.ok(await knowsOfTwo(first))
  t.equal(await passing(first, '192.0.2.1'), 10, 'Redis does not know of the other ten')
  const client = server.client()
  const counted = Number(await client.get('guard:fixed-window:{192.0.2.1}:global'))
  t.equal(counted, 10, 'refusals by a part do not count in Redis')
  client.disconnect()
  await reconnect(1)
  t.equal(await passing(first, '192.0.2.1'), 0)
  // Both are back, so Redis alone decides.
  await untilAllPass()
  t.equal(await passing(first, freshClient()), 20)

  await cutOff()
  await reconnect(0)
  t.equal(await passing(first, freshClient()), 10)
  // Redis goes away again under a hit that its part already allowed.
  proxies[0]!.blackhole = true
  t.equal(await passing(first, freshClient()), 10)
  await reconnect(0)
  // The other instance counts as gone.
  await untilAllPass()
  t.equal(await passing(first, freshClient()), 20)
  t.equal(first.redisGuard.status.store, 'redis')
})

t.test('a host that floods an outage with names gets no other client refused', async t => {
  const now = () => 1_700_000_000_000
  const shares = new Shares(new MemoryLimits({ keys, capacity: 320, now }), now)
  const check: Check = { name: 'login', limit: defineLimit('fixed-window', 2, 60_000), cost: 1 }
  const sharing = { instances: 2, outage: 1 }
  const takes = (key: string, from: string) =>
    shares.take({ clientKey: key, fromAddress: from }, [{ check, state: undefined }], sharing).accepted
  for (let i = 0; i < 8000; i++) takes(`name ${Math.floor(i / 2)}`, '198.51.100.1')
  t.same(Array.from({ length: 40 }, (_, i) => takes(`user ${i}`, `192.0.2.${i}`)).filter(accepted => !accepted), [])
  t.same(Array.from({ length: 40 }, (_, i) => takes(`user ${i}`, `192.0.2.${i}`)).filter(accepted => accepted), [])
})
