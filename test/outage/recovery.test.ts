/** An outage loses nothing and counts nothing twice: on a real Redis, also if only one instance sees it. */
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { algorithms, type Algorithm } from '../../lib/rules/algorithms.js'
import { guardedApp, logTo } from '../support/app.js'
import { outages } from '../support/outages.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// These tests wait most of the time.
t.jobs = 4

/** ms: short, since each test with an outage waits for it, and long enough for a busy machine */
const commandTimeout = 1000

const cluster = await RedisCluster.start()
t.teardown(async () => await cluster.stop())
const ofCluster = { cluster: cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port })) }

interface Instance {
  readonly app: FastifyInstance
  readonly proxy: TcpProxy
  readonly lines: Record<string, unknown>[]
}

async function startRedis (t: Test, ...args: string[]): Promise<RedisServer> {
  const server = await RedisServer.start(...args)
  t.teardown(async () => await server.stop())
  return server
}

async function instance (
  t: Test,
  server: RedisServer,
  { redis, ...options }: RedisGuardOptions = {}
): Promise<Instance> {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const lines: Record<string, unknown>[] = []
  const times = { timeWindow: '1 hour', syncInterval: 50, commandTimeout, resetTimeout: 100 }
  const app =
    await guardedApp(t, { redis: { port: proxy.port, ...redis as object }, ...times, ...options }, logTo(lines))
  app.get('/', async () => 'ok')
  await goes(app, 'redis')
  lines.length = 0
  return { app, proxy, lines }
}

async function statuses (
  app: FastifyInstance,
  count: number,
  remoteAddress = '192.0.2.1'
): Promise<Record<number, number>> {
  const codes: Record<number, number> = {}
  for (let i = 0; i < count; i++) {
    const { statusCode } = await app.inject({ url: '/', remoteAddress })
    codes[statusCode] = (codes[statusCode] ?? 0) + 1
  }
  return codes
}

async function goes (app: FastifyInstance, store: 'redis' | 'memory'): Promise<void> {
  await until(async () => {
    // A command has to notice the outage.
    if (store === 'memory') await app.redisGuard.get('x')
    return app.redisGuard.status.store === store
  })
}

/** Blocks a last address: an instance that refuses it has followed all earlier changes. */
async function followedBy (apps: readonly FastifyInstance[], from: FastifyInstance, marker: string): Promise<void> {
  await from.redisGuard.blockIP(marker, 600, { reason: 'marker' })
  for (const app of apps) await until(async () => (await statuses(app, 1, marker))[403] === 1)
}

/** All hits in a counter, accepted and refused. */
async function usedInRedis (server: RedisServer, address = '192.0.2.1', nameSpace = 'guard:'): Promise<number> {
  const client = server.client()
  try {
    const [used, refused = 0] =
      (await client.get(`${nameSpace}fixed-window:{${address}}:global`) ?? '0').split(':').map(Number)
    return used! + refused
  } finally {
    client.disconnect()
  }
}

const wholeOutages: Readonly<Record<string, {
  readonly begin: (server: RedisServer, proxy: TcpProxy) => Promise<void> | void
  readonly end: (server: RedisServer, proxy: TcpProxy) => Promise<void> | void
}>> = {
  'is killed and comes back empty': {
    begin: async server => await server.kill(),
    end: async server => await server.restart()
  },
  ...outages
}

for (const [name, { begin, end }] of Object.entries(wholeOutages)) {
  t.test(`a Redis that ${name}: one quota by each algorithm, and Redis has all hits`, { buffered: true }, async t => {
    const server = await startRedis(t)
    const each = async (step: (one: Instance, algorithm: Algorithm) => Promise<void>) =>
      await Promise.all(algorithms.map(async (algorithm, i) => await step(instances[i]!, algorithm)))
    const instances = await Promise.all(algorithms.map(async algorithm =>
      await instance(t, server, { max: 20, algorithm, nameSpace: `${algorithm}:` })))
    await each(async ({ app }) => { t.same(await statuses(app, 8), { 200: 8 }) })
    await Promise.all(instances.map(async ({ proxy }) => await begin(server, proxy)))
    await each(async ({ app }, algorithm) => {
      // At once, so that some are on their way to Redis when the outage is noticed.
      const during = await Promise.all(Array.from({ length: 7 }, async () => await statuses(app, 1)))
      t.same(during, Array(7).fill({ 200: 1 }), algorithm)
      await goes(app, 'memory')
      t.same(await statuses(app, 2), { 200: 2 }, algorithm)
    })
    if (name.startsWith('is killed')) await end(server, instances[0]!.proxy)
    else await Promise.all(instances.map(async ({ proxy }) => await end(server, proxy)))
    await each(async ({ app }, algorithm) => {
      await goes(app, 'redis')
      // 8 + 7 + 2: three are left.
      t.same(await statuses(app, 5), { 200: 3, 429: 2 }, algorithm)
      if (algorithm === 'fixed-window') {
        await until(async () => await usedInRedis(server, '192.0.2.1', 'fixed-window:') === 22)
      }
      await until(async () => /redis_guard_journal_entries 0\n/.test((await app.inject('/metrics')).payload))
    })
  })
}

t.test('hits of an outage whose limit changes count in their own window', { buffered: true }, async t => {
  const server = await startRedis(t)
  const { app } = await instance(t, server, { max: 5, timeWindow: 300, commandTimeout: 100 })
  server.signal('SIGSTOP')
  t.same(await statuses(app, 1), { 200: 1 })
  await app.redisGuard.limits.set('global', { max: 5, timeWindow: '1 hour' })
  await new Promise(resolve => setTimeout(resolve, 400))
  t.same(await statuses(app, 6), { 200: 5, 429: 1 })
  server.signal('SIGCONT')
  await goes(app, 'redis')
  await new Promise(resolve => setTimeout(resolve, 400))
  t.same(await statuses(app, 6), { 429: 6 })
})

t.test('refused requests of an outage count too', { buffered: true }, async t => {
  const server = await startRedis(t)
  const { app, proxy } = await instance(t, server, { max: 3 })
  t.same(await statuses(app, 10), { 200: 3, 429: 7 })
  proxy.blackhole = true
  await goes(app, 'memory')
  t.same(await statuses(app, 10), { 429: 10 })
  proxy.blackhole = false
  await goes(app, 'redis')
  await until(async () => await usedInRedis(server) === 20)
  const { payload } = await app.inject('/metrics')
  const counts = payload.matchAll(/redis_guard_decisions_total\{limit="global",outcome="limited",source="\w+"\} (\d+)/g)
  const limited = [...counts].reduce((sum, [, count]) => sum + Number(count), 0)
  t.equal(limited, 17)
  await until(async () => (await app.redisGuard.getSuspiciousIPs())[0]?.count === 17)
})

t.test('refunds and resets of several instances in an outage add up', { buffered: true }, async t => {
  const server = await startRedis(t)
  // Long enough for Redis to be used between the outages.
  const options = { max: 20, commandTimeout: 1500 }
  const [a, b] = [await instance(t, server, options), await instance(t, server, options)]
  for (const { app } of [a, b]) {
    const countWhen = () => false
    app.get('/held', { config: { rateLimit: { max: 20, groupId: 'held' } } }, async () => 'ok')
    const rateLimit = { max: 20, groupId: 'held', countWhen }
    app.get('/free', { config: { rateLimit }, preHandler: held }, async () => 'ok')
  }
  const used = async () => Number(await client.get('guard:fixed-window:{127.0.0.1}:group:held'))
  const client = server.client()
  t.teardown(() => client.disconnect())
  const waiting: (() => void)[] = []
  async function held (): Promise<void> { await new Promise<void>(resolve => { waiting.push(resolve) }) }
  for (let i = 0; i < 3; i++) for (const { app } of [a, b]) await app.inject('/held')
  const open = [a, b].flatMap(({ app }) => [1, 2, 3].map(async () => await app.inject('/free')))
  await until(() => waiting.length === 6)
  for (const { app } of [a, b]) await app.inject('/held')
  for (const { app } of [a, b]) await goes(app, 'redis')
  await until(async () => await used() === 14)
  for (const { proxy } of [a, b]) proxy.blackhole = true
  for (const { app } of [a, b]) await goes(app, 'memory')
  for (const { app } of [a, b]) await app.inject('/held')
  for (const answer of waiting) answer()
  await Promise.all(open)
  for (const { app, proxy } of [a, b]) {
    proxy.blackhole = false
    await goes(app, 'redis')
  }
  t.equal(await used(), 10, '14 before, 6 of them refunded, and 2 more')
  a.proxy.blackhole = true
  await goes(a.app, 'memory')
  await a.app.inject('/held')
  await goes(b.app, 'redis')
  await b.app.redisGuard.limits.reset('127.0.0.1')
  a.proxy.blackhole = false
  await goes(a.app, 'redis')
  t.equal(await used(), 1, 'a counter that was reset remotely does not come back')
})

t.test('two instances add up, whichever sees the outage and is back first', { buffered: true }, async t => {
  const server = await startRedis(t)
  await Promise.all([[0], [1], [0, 1], [1, 0]].map(async seenBy => {
    const nameSpace = `${seenBy.join('-')}:`
    const start = async () => await instance(t, server, { max: 100, nameSpace })
    const instances = await Promise.all([start(), start()])
    for (const { app } of instances) t.same(await statuses(app, 10), { 200: 10 })
    for (const i of seenBy) instances[i]!.proxy.blackhole = true
    for (const i of seenBy) await goes(instances[i]!.app, 'memory')
    for (const { app } of instances) t.same(await statuses(app, 7), { 200: 7 })
    for (const i of seenBy) {
      instances[i]!.proxy.blackhole = false
      await goes(instances[i]!.app, 'redis')
    }
    for (const { app } of instances) t.same(await statuses(app, 3), { 200: 3 })
    await until(async () => await usedInRedis(server, '192.0.2.1', nameSpace) === 40)
    t.equal(await usedInRedis(server, '192.0.2.1', nameSpace), 40, `seen by ${seenBy.join(' and ')}`)
  }))
})

t.test('hits that arrive during a replay are decided, and none is lost', { buffered: true }, async t => {
  const server = await startRedis(t)
  const { app, proxy } = await instance(t, server, { max: 100_000, cache: 10_000, syncInterval: 60_000 })
  const addressOf = (i: number) => `198.51.${i >> 8}.${i & 255}`
  proxy.blackhole = true
  await goes(app, 'memory')
  for (let i = 0; i < 400; i++) await app.inject({ url: '/', remoteAddress: addressOf(i) })
  // Each chunk takes a while, which leaves time in between.
  proxy.delayMs = 10
  proxy.blackhole = false
  let [sent, sentMeanwhile] = [0, 0]
  await until(async () => {
    if (/the journal is replayed/.test(String(app.redisGuard.status.reason))) sentMeanwhile++
    sent++
    await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
    return app.redisGuard.status.store === 'redis'
  })
  t.ok(sentMeanwhile > 0, `${sentMeanwhile}`)
  await statuses(app, 1)
  await until(async () => await usedInRedis(server) === sent + 1)
  for (const i of [0, 200, 399]) t.equal(await usedInRedis(server, addressOf(i)), 1)
})

t.test('a distant Redis is brought up to date with counters, events and blocks', { buffered: true }, async t => {
  const server = await startRedis(t)
  const { app, proxy } = await instance(t, server, { max: 1, commandTimeout: 1000, syncInterval: 60_000 })
  proxy.blackhole = true
  await goes(app, 'memory')
  for (let i = 0; i < 1000; i++) await app.inject({ url: '/', remoteAddress: `10.0.${i >> 8}.${i & 255}` })
  for (let i = 0; i < 100; i++) {
    await app.redisGuard.logRateLimitEvent({ ip: '192.0.2.7', key: `key ${i}` })
    await app.redisGuard.blockIP(`198.51.100.${i}`, 600)
  }
  proxy.delayMs = 40
  proxy.blackhole = false
  await goes(app, 'redis')
  proxy.delayMs = 0
  const keysOf = async () => (await app.redisGuard.getRateLimitEvents(200)).map(({ key }) => key)
  await until(async () => (await keysOf()).length === 100)
  t.same(await keysOf(), Array.from({ length: 100 }, (_, i) => `key ${99 - i}`))
  for (const address of ['10.0.0.0', '10.0.3.231']) await until(async () => await usedInRedis(server, address) === 1)
  const client = server.client()
  t.teardown(() => client.disconnect())
  t.equal(await client.hlen('guard:{blocks}'), 100)
})

t.test('blocks, unblocks and events of an outage soon reach Redis and all instances', { buffered: true }, async t => {
  const server = await startRedis(t)
  const [away, other] = [await instance(t, server, { max: 1 }), await instance(t, server, { max: 1 })]
  await away.app.redisGuard.blockIP('198.51.100.1', 600)
  await until(async () => (await other.app.inject({ url: '/', remoteAddress: '198.51.100.1' })).statusCode === 403)
  away.proxy.blackhole = true
  // The first one is on its way when the outage is noticed.
  const block = await away.app.redisGuard.blockIP('198.51.100.2', 600, { reason: 'meanwhile', origin: 'test' })
  t.equal(away.app.redisGuard.status.store, 'memory')
  await away.app.redisGuard.blockIP('198.51.100.3', Infinity)
  await away.app.redisGuard.blockIP('198.51.100.4', 600)
  t.equal(await away.app.redisGuard.unblockIP('198.51.100.4'), true)
  t.equal(await away.app.redisGuard.unblockIP('198.51.100.1'), true)
  // The other instance, which sees no outage, changes this one later.
  await away.app.redisGuard.blockIP('198.51.100.5', 600)
  // Later by more than the error of two clocks compared over a network.
  await new Promise(resolve => setTimeout(resolve, 50))
  await other.app.redisGuard.blockIP('198.51.100.5', 600)
  await other.app.redisGuard.unblockIP('198.51.100.5')
  t.same(await statuses(away.app, 5, '192.0.2.7'), { 200: 1, 429: 4 })
  await away.app.redisGuard.logRateLimitEvent({ ip: '192.0.2.8', count: 5 })

  away.proxy.blackhole = false
  await goes(away.app, 'redis')
  // Instances look for changes every 50 ms.
  const request = { url: '/', remoteAddress: '198.51.100.2' }
  await until(async () => (await other.app.inject(request)).statusCode === 403, 10_000)
  const blocked = await other.app.redisGuard.getBlockedIPs()
  t.same(blocked.map(({ ip }) => ip), ['198.51.100.2', '198.51.100.3'])
  t.match(blocked[0], { reason: 'meanwhile', origin: 'test' })
  t.ok(Math.abs(blocked[0]!.expiresAtMs - block.expiresAtMs) < 5000)
  for (const { app } of [away, other]) {
    await until(async () => (await statuses(app, 1, '198.51.100.3'))[403] === 1)
    for (const lifted of ['198.51.100.1', '198.51.100.5']) {
      await until(async () => (await statuses(app, 1, lifted))[403] === undefined)
    }
  }
  const suspects = async () =>
    (await other.app.redisGuard.getSuspiciousIPs()).filter(({ ip }) => ip.startsWith('192.0.2'))
  // Refusals are written behind.
  await until(async () => (await suspects()).find(({ ip }) => ip === '192.0.2.7')?.count === 4)
  t.same(await suspects(), [{ ip: '192.0.2.8', count: 5 }, { ip: '192.0.2.7', count: 4 }])
})

t.test('a Redis that loses its data gets it back before a client gets a second quota', { buffered: true }, async t => {
  for (const how of ['FLUSHALL', 'a restart']) {
    const server = await startRedis(t)
    const { app } = await instance(t, server, { max: 10 })
    t.same(await statuses(app, 10), { 200: 10 })
    t.same(await statuses(app, 6, '192.0.2.2'), { 200: 6 })
    await app.redisGuard.blockIP('198.51.100.1', 600)
    if (how === 'FLUSHALL') {
      const client = server.client()
      await client.flushall()
      client.disconnect()
      t.same(await statuses(app, 2), { 429: 2 })
      t.same(
        await statuses(app, 6, '192.0.2.2'),
        { 200: 4, 429: 2 },
        'noticed by the first hit whose number does not follow'
      )
    } else {
      await server.kill()
      await goes(app, 'memory')
      await server.restart()
      await goes(app, 'redis')
      t.same(await statuses(app, 6, '192.0.2.2'), { 200: 4, 429: 2 })
      t.same(await statuses(app, 2), { 429: 2 })
    }
    await until(() => app.redisGuard.status.store === 'redis')
    t.same(await statuses(app, 1, '198.51.100.1'), { 403: 1 })
    const observer = server.client()
    t.teardown(() => observer.disconnect())
    await until(async () => await observer.hexists('guard:{blocks}', '198.51.100.1') === 1)
  }
})

for (const order of [[0, 1], [1, 0]]) {
  const title = `a lost counter is exact again, with instance ${order[0]} back first, and hits taken before it`
  t.test(title, { buffered: true }, async t => {
    const server = await startRedis(t)
    const instances = [await instance(t, server, { max: 100 }), await instance(t, server, { max: 100 })]
    const third = await instance(t, server, { max: 100 })
    // The first knows of 3, the second of 7.
    for (const [i, { app }] of instances.entries()) t.same(await statuses(app, 3 + i), { 200: 3 + i })
    for (const { proxy } of instances) proxy.blackhole = true
    for (const { app } of instances) await goes(app, 'memory')
    const observer = server.client()
    t.teardown(() => observer.disconnect())
    await observer.flushall()
    t.same(await statuses(third.app, 2), { 200: 2 })
    await goes(third.app, 'redis')
    t.same(await statuses(third.app, 1), { 200: 1 })
    for (const { app } of instances) t.same(await statuses(app, 5), { 200: 5 })
    for (const i of order) {
      instances[i]!.proxy.blackhole = false
      await goes(instances[i]!.app, 'redis')
      t.same(await statuses(instances[i]!.app, 1), { 200: 1 })
    }
    await until(async () => await usedInRedis(server) >= 22)
    t.equal(await usedInRedis(server), 7 + 3 + 2 * (5 + 1))
  })
}

t.test('a Redis that comes back with an older snapshot is brought up to date', { buffered: true }, async t => {
  const server = await startRedis(t)
  const [first, second] = [await instance(t, server, { max: 100 }), await instance(t, server, { max: 100 })]
  await statuses(first.app, 10)
  await statuses(second.app, 5)
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  observer.on('error', () => {})
  await observer.save()
  await statuses(second.app, 4)
  await statuses(first.app, 3)
  await first.app.redisGuard.blockIP('198.51.100.1', 600)
  await server.kill()
  for (const { app } of [first, second]) await goes(app, 'memory')
  await statuses(first.app, 2)
  await statuses(second.app, 6)
  await server.restart()
  for (const { app } of [first, second]) await goes(app, 'redis')
  // The instances knew of 19 and 22 of 22 hits, with 6 and 2 on top; the larger baseline may hide two.
  await until(async () => await usedInRedis(server) >= 27)
  t.ok(await usedInRedis(server) <= 30)
  t.equal(await observer.hexists('guard:{blocks}', '198.51.100.1'), 1)
  await until(async () => (await statuses(second.app, 1, '198.51.100.1'))[403] === 1)
})

for (const syncInterval of [50, 60_000]) {
  t.test(`blocks and unblocks outlive an older snapshot (sync: ${syncInterval} ms)`, { buffered: true }, async t => {
    const server = await startRedis(t)
    // There is a list before the two start.
    const { app: before } = await instance(t, server)
    await before.redisGuard.blockIP('198.51.100.9', 600)
    const [first, second] = [await instance(t, server, { syncInterval }), await instance(t, server, { syncInterval })]
    const observer = server.client()
    t.teardown(() => observer.disconnect())
    observer.on('error', () => {})
    await first.app.redisGuard.blockIP('198.51.100.1', 600)
    await observer.save()
    t.equal(await first.app.redisGuard.unblockIP('198.51.100.1'), true)
    await first.app.redisGuard.blockIP('198.51.100.2', 600)
    if (syncInterval < 1000) await until(async () => (await statuses(second.app, 1, '198.51.100.2'))[403] === 1)
    await server.kill()
    for (const { app } of [first, second]) await goes(app, 'memory')
    await server.restart()
    for (const { app } of [first, second]) await goes(app, 'redis')
    t.same((await first.app.redisGuard.getBlockedIPs()).map(({ ip }) => ip), ['198.51.100.2', '198.51.100.9'])
    if (syncInterval < 1000) await followedBy([first.app, second.app], before, '198.51.100.200')
    t.same([
      await statuses(first.app, 1, '198.51.100.1'),
      await statuses(first.app, 1, '198.51.100.2')
    ], [{ 200: 1 }, { 403: 1 }])
    if (syncInterval > 1000) return
    t.same([
      await statuses(second.app, 1, '198.51.100.1'),
      await statuses(second.app, 1, '198.51.100.2')
    ], [{ 200: 1 }, { 403: 1 }])
  })
}

t.test('blocks that are shorter or longer in an older snapshot end as they were set', { buffered: true }, async t => {
  const server = await startRedis(t)
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  observer.on('error', () => {})
  // There is a list before the two start.
  await (await instance(t, server)).app.redisGuard.blockIP('198.51.100.9', 600, { reason: 'before' })
  const [first, second] = [await instance(t, server), await instance(t, server)]
  const block = async (ip: string, seconds: number, reason: string, replace = false) =>
    await first.app.redisGuard.blockIP(ip, seconds, { reason, replace })
  await block('198.51.100.1', 60, 'short')
  for (const ip of ['198.51.100.2', '198.51.100.3', '198.51.100.4']) await block(ip, Infinity, 'for good')
  await until(async () => (await statuses(second.app, 1, '198.51.100.4'))[403] === 1)
  await observer.save()
  await block('198.51.100.1', Infinity, 'longer')
  await block('198.51.100.2', 600, 'replaced', true)
  await first.app.redisGuard.unblockIP('198.51.100.3')
  await block('198.51.100.3', 600, 'again')
  // The other instance has followed, so it makes no difference which of the two comes back.
  await followedBy([second.app], first.app, '198.51.100.200')
  await server.kill()
  for (const { app } of [first, second]) await goes(app, 'memory')
  await first.app.close()
  await server.restart()
  await goes(second.app, 'redis')
  const reasons = (await second.app.redisGuard.getBlockedIPs()).map(({ reason }) => reason)
  t.same(reasons, ['longer', 'replaced', 'marker', 'again', 'for good', 'before'])
})

t.test('blocks lost under a live connection are restored before the list is loaded', { buffered: true }, async t => {
  const server = await startRedis(t)
  const options = { commandTimeout: 5000 }
  const [{ app, lines }, other] = [await instance(t, server, options), await instance(t, server, options)]
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  await app.redisGuard.blockIP('198.51.100.9', 600)
  await until(async () => (await statuses(other.app, 1, '198.51.100.9'))[403] === 1)
  await other.app.redisGuard.blockIP('198.51.100.1', 600)
  await until(async () => (await statuses(app, 1, '198.51.100.1'))[403] === 1)
  await observer.save()
  await other.app.redisGuard.unblockIP('198.51.100.1')
  await other.app.redisGuard.blockIP('198.51.100.2', 600)
  await until(async () => (await statuses(app, 1, '198.51.100.2'))[403] === 1)
  await observer.call('DEBUG', 'RELOAD', 'NOSAVE')
  await until(async () => (await observer.hkeys('guard:{blocks}')).sort().join() === '198.51.100.2,198.51.100.9')
  await until(() => lines.length > 0 && app.redisGuard.status.store === 'redis')
  t.match(lines[0], { level: 40, reason: 'Redis has lost its block list' })
  t.same([await statuses(app, 1, '198.51.100.1'), await statuses(app, 1, '198.51.100.2')], [{ 200: 1 }, { 403: 1 }])
})

t.test('an instance notices a lost block list without its heartbeat', { buffered: true }, async t => {
  const server = await startRedis(t, '--requirepass', 'secret')
  const admin = server.client({ password: 'secret' })
  t.teardown(() => admin.disconnect())
  await admin.call('ACL', 'SETUSER', 'guard', 'on', '>secret', '~*', '&*', '+@all')
  const redis = { username: 'guard', password: 'secret' }
  const { app, lines } = await instance(t, server, { redis, syncInterval: 20, commandTimeout: 5000 })
  // From now on no heartbeat succeeds.
  await admin.call('ACL', 'SETUSER', 'guard', '-zadd')
  await admin.flushall()
  await until(() => lines.some(({ msg }) => String(msg).startsWith('Redis is away, memory answers')))
  t.match(lines.find(({ msg }) => String(msg).startsWith('Redis is away, memory answers')), {
    level: 40,
    reason: 'Redis has lost its block list'
  })
  await goes(app, 'redis')
})

t.test('an idle instance notices by itself that Redis lost its data', { buffered: true }, async t => {
  const server = await startRedis(t)
  const { app, lines } = await instance(t, server, { syncInterval: 60_000, commandTimeout: 5000 })
  await app.redisGuard.blockIP('198.51.100.1', 600)
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  await observer.flushall()
  await until(async () => await observer.hexists('guard:{blocks}', '198.51.100.1') === 1)
  t.match(lines, [{ level: 40, reason: 'Redis has lost its data' }])
})

t.test('entries that Redis rejects are counted and logged, and delay no others', { buffered: true }, async t => {
  const server = await startRedis(t, '--requirepass', 'secret')
  const admin = server.client({ password: 'secret' })
  t.teardown(() => admin.disconnect())
  await admin.call('ACL', 'SETUSER', 'guard', 'on', '>secret', '~*', '&*', '+@all')
  const { app, proxy, lines } = await instance(t, server, {
    redis: { username: 'guard', password: 'secret' },
    max: 100
  })
  await statuses(app, 3)
  proxy.blackhole = true
  await goes(app, 'memory')
  await statuses(app, 4)
  await app.redisGuard.blockIP('198.51.100.1', 600)
  await admin.call('ACL', 'SETUSER', 'guard', '-hset')
  proxy.blackhole = false
  await goes(app, 'redis')
  t.match(lines.filter(({ level }) => level === 50), [{
    kind: 'blocks',
    count: 1,
    msg: 'Redis rejected journal entries during replay; they are lost'
  }])
  t.match((await app.inject('/metrics')).payload, /redis_guard_journal_dropped_total\{kind="blocks"\} 1\n/)
  t.equal(await admin.get('guard:fixed-window:{192.0.2.1}:global'), '7')
})

t.test('a full journal drops the oldest with most quota left, and logs that once', { buffered: true }, async t => {
  const server = await startRedis(t)
  const { app, proxy, lines } = await instance(t, server, { max: 100, maxJournal: 2 })
  proxy.blackhole = true
  await goes(app, 'memory')
  for (const address of ['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4']) await statuses(app, 1, address)
  t.match((await app.inject('/metrics')).payload, /redis_guard_journal_dropped_total\{kind="counters"\} 2\n/)
  t.equal(lines.filter(({ msg }) => /the journal is full/.test(String(msg))).length, 1)
  proxy.blackhole = false
  await goes(app, 'redis')
  t.same(await Promise.all([1, 2, 3, 4].map(async i => await usedInRedis(server, `192.0.2.${i}`))), [0, 0, 1, 1])
})

t.test('a Redis that works but fails the replay gets another one', { buffered: true }, async t => {
  const server = await startRedis(t, '--requirepass', 'secret')
  const admin = server.client({ password: 'secret' })
  t.teardown(() => admin.disconnect())
  await admin.call('ACL', 'SETUSER', 'guard', 'on', '>secret', '~*', '&*', '+@all', '-zremrangebyscore')
  const app = await guardedApp(t, {
    redis: { port: server.port, username: 'guard', password: 'secret' },
    max: 100,
    commandTimeout: 5000
  })
  app.get('/', async () => 'ok')
  await until(() => /can't run this command|no permissions/.test(String(app.redisGuard.status.reason)))
  t.equal(app.redisGuard.status.store, 'memory')
  t.same(await statuses(app, 3), { 200: 3 })
  await admin.call('ACL', 'SETUSER', 'guard', '+zremrangebyscore')
  await goes(app, 'redis')
  t.equal(await usedInRedisWith(admin), 3)
})

async function usedInRedisWith (client: ReturnType<RedisServer['client']>): Promise<number> {
  return Number(await client.get('guard:fixed-window:{192.0.2.1}:global'))
}

t.test('a heartbeat that Redis rejects does not end the use of Redis', { buffered: true }, async t => {
  const server = await startRedis(t, '--requirepass', 'secret')
  const admin = server.client({ password: 'secret' })
  t.teardown(() => admin.disconnect())
  await admin.call('ACL', 'SETUSER', 'guard', 'on', '>secret', '~*', '&*', '+@all')
  const { app } = await instance(t, server, { redis: { username: 'guard', password: 'secret' }, commandTimeout: 5000 })
  await admin.call('ACL', 'SETUSER', 'guard', '-zadd')
  const errors = async () =>
    Number(/redis_guard_errors_total\{kind="reply"\} (\d+)/.exec((await app.inject('/metrics')).payload)![1])
  await until(async () => await errors() >= 2)
  t.equal(app.redisGuard.status.store, 'redis')
})

t.test('a change that Redis rejects holds in the process, and fails no caller', { buffered: true }, async t => {
  const server = await startRedis(t, '--requirepass', 'secret')
  const admin = server.client({ password: 'secret' })
  t.teardown(() => admin.disconnect())
  await admin.call('ACL', 'SETUSER', 'guard', 'on', '>secret', '~*', '&*', '+@all')
  // No look at the list in Redis, which does not have the block.
  const { app, lines } = await instance(t, server, {
    redis: { username: 'guard', password: 'secret' },
    syncInterval: 60_000,
    commandTimeout: 5000
  })
  await admin.call('ACL', 'SETUSER', 'guard', '-hset', '-xadd', '-hdel', '-zadd')
  t.match(await app.redisGuard.blockIP('198.51.100.1', 600), { ip: '198.51.100.1' })
  t.same(await statuses(app, 1, '198.51.100.1'), { 403: 1 })
  t.equal(await app.redisGuard.unblockIP('198.51.100.1'), true)
  t.same(await statuses(app, 1, '198.51.100.1'), { 200: 1 })
  await app.redisGuard.logRateLimitEvent({ ip: '192.0.2.8' })
  t.equal(app.redisGuard.status.store, 'redis')
  t.match(lines, [{
    level: 40,
    msg: 'Redis rejected a command, memory answers for it',
    err: { message: /\(reply\): .*(can't run this command|NOPERM)/ }
  }], 'one line for all of them')
  t.equal(lines.length, 1)
})

t.test('refusals and events whose write times out are replayed later', { buffered: true }, async t => {
  const server = await startRedis(t)
  const { app, proxy } = await instance(t, server, { max: 1 })
  t.same(await statuses(app, 1), { 200: 1 })
  // All but the first of these are refused in the process, and written behind.
  t.same(await statuses(app, 5), { 429: 5 })
  proxy.blackhole = true
  await until(() => app.redisGuard.status.store === 'memory')
  proxy.blackhole = false
  await goes(app, 'redis')
  await until(async () => await usedInRedis(server) === 6)
  await until(async () => (await app.redisGuard.getSuspiciousIPs())[0]?.count === 5)
})

t.test('Cluster: an outage loses nothing, though hits under way may count twice', async t => {
  const app = await guardedApp(t, {
    redis: ofCluster, timeWindow: '1 hour', max: 10, commandTimeout: 1000, resetTimeout: 100, nameSpace: 'outage:'
  })
  app.get('/', async () => 'ok')
  await goes(app, 'redis')
  await app.redisGuard.blockIP('198.51.100.1', 600)
  for (const address of ['192.0.2.1', '192.0.2.2', '192.0.2.3']) t.same(await statuses(app, 4, address), { 200: 4 })
  for (const server of cluster.servers) server.signal('SIGSTOP')
  await goes(app, 'memory')
  for (const address of ['192.0.2.1', '192.0.2.2', '192.0.2.3']) t.same(await statuses(app, 4, address), { 200: 4 })
  await app.redisGuard.unblockIP('198.51.100.1')
  await app.redisGuard.blockIP('198.51.100.2', 600)
  for (const server of cluster.servers) server.signal('SIGCONT')
  await goes(app, 'redis')
  for (const address of ['192.0.2.1', '192.0.2.2', '192.0.2.3']) {
    t.same(await statuses(app, 4, address), { 200: 2, 429: 2 })
  }
  t.same((await app.redisGuard.getBlockedIPs()).map(({ ip }) => ip), ['198.51.100.2'])
})

for (const isLost of [false, true]) {
  t.test(`each block of an outage is sent once${isLost ? ', also after a loss' : ''}`, { buffered: true }, async t => {
    const server = await startRedis(t)
    const observer = server.client()
    t.teardown(() => observer.disconnect())
    const { app, proxy } = await instance(t, server)
    const guard = app.redisGuard
    for (let i = 0; i < 4; i++) await guard.blockIP(`198.51.100.${i}`, 600, { reason: 'before' })
    proxy.blackhole = true
    await goes(app, 'memory')
    const ips = Array.from({ length: 300 }, (_, i) => `10.0.${i >> 8}.${i & 255}`)
    for (const ip of ips) await guard.blockIP(ip, 600, { reason: 'meanwhile' })
    // If Redis lost the longer block, it must get that as well.
    await guard.blockIP('198.51.100.1', 60, { reason: 'shorter' })
    await guard.unblockIP('198.51.100.2')
    await guard.blockIP('198.51.100.3', 60, { reason: 'shorter', replace: true })
    if (isLost) await observer.flushall()
    const before = await observer.xlen('guard:{blocks}:changes')
    proxy.blackhole = false
    await goes(app, 'redis')
    const reasons = (await guard.getBlockedIPs()).map(({ ip, reason }) => `${ip} ${reason}`)
    const known = ['198.51.100.0 before', '198.51.100.1 before', '198.51.100.3 shorter']
    t.same(reasons.sort(), [...ips.map(ip => `${ip} meanwhile`), ...known].sort())
    // One for each change in the outage, and for each older block that was lost.
    t.equal(await observer.xlen('guard:{blocks}:changes') - before, 303 + (isLost ? 2 : 0))
  })
}

t.test('Cluster: blocks and unblocks since an older snapshot hold', async t => {
  const start = async () => {
    const options = {
      redis: ofCluster,
      nameSpace: 'snapshot:',
      syncInterval: 50,
      commandTimeout: 1000,
      resetTimeout: 100
    }
    const app = await guardedApp(t, options)
    app.get('/', async () => 'ok')
    await goes(app, 'redis')
    return app
  }
  const [app, other] = [await start(), await start()]
  await other.redisGuard.blockIP('198.51.100.1', 600)
  await until(async () => (await statuses(app, 1, '198.51.100.1'))[403] === 1)
  for (const server of cluster.servers) {
    const client = server.client()
    await client.save()
    client.disconnect()
  }
  await other.redisGuard.unblockIP('198.51.100.1')
  await other.redisGuard.blockIP('198.51.100.2', 600)
  await until(async () => (await statuses(app, 1, '198.51.100.2'))[403] === 1)
  // The other instance is gone, with what it knew.
  await other.close()
  await Promise.all(cluster.servers.map(async server => await server.kill()))
  await goes(app, 'memory')
  await Promise.all(cluster.servers.map(async server => await server.restart()))
  await until(() => app.redisGuard.status.store === 'redis')
  t.same((await app.redisGuard.getBlockedIPs()).map(({ ip }) => ip), ['198.51.100.2'])
  await followedBy([app], await start(), '198.51.100.200')
  t.same([await statuses(app, 1, '198.51.100.1'), await statuses(app, 1, '198.51.100.2')], [{ 200: 1 }, { 403: 1 }])
})

t.test('a process that was itself delayed does not take Redis for gone', async t => {
  const server = await startRedis(t)
  // Without a proxy, which would run in this process, and be delayed too.
  const commandTimeout = 1500
  const { app } =
    await instance(t, server, { redis: { port: server.port }, max: 100, syncInterval: 60_000, commandTimeout })
  await statuses(app, 1)
  const heard: unknown[] = []
  app.redisGuard.on('switch', status => heard.push(status))
  server.signal('SIGSTOP')
  const answer = app.inject({ url: '/', remoteAddress: '192.0.2.1' })
  // The hit is sent; then the event loop stands still for longer than commandTimeout, while Redis answers.
  await new Promise(resolve => setImmediate(() => setImmediate(resolve)))
  server.signal('SIGCONT')
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, commandTimeout + 500)
  t.equal((await answer).statusCode, 200)
  // The timeout of that command is over by now, and Redis answers the next one.
  t.same(await statuses(app, 1), { 200: 1 })
  t.same(heard, [])
  t.equal(await usedInRedis(server), 3)
})
