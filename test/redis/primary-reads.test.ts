/** A Cluster client that may read from replicas: the guard still reads only from primaries, so it sees no lag. */
import type { FastifyInstance } from 'fastify'
import { Cluster } from 'ioredis'
import { Cluster as Cluster5 } from 'ioredis5'
import t from 'tap'
import type { RedisOption } from '../../lib/settings/redis-option.js'
import { guardedApp, logTo } from '../support/app.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { until } from '../../tools/until.js'

const password = 'secret'
const cluster = await RedisCluster.start({
  withReplicas: true, args: ['--requirepass', password, '--masterauth', password], client: { password }
})
t.teardown(async () => await cluster.stop())
const nodes = cluster.servers.slice(0, 3).map(({ port }) => ({ host: '127.0.0.1', port }))
const operators = cluster.servers.map(server => server.client({ password }))
t.teardown(() => operators.forEach(operator => operator.disconnect()))
// Long enough that no node is declared gone because it is slow.
for (const operator of operators) await operator.config('SET', 'cluster-node-timeout', 60_000)

/** After this, the replicas answer with their old data, and get no updates. */
async function cutReplicas (): Promise<void> {
  for (const replica of operators.slice(3)) await replica.config('SET', 'masterauth', 'wrong')
  for (const primary of operators.slice(0, 3)) await primary.call('CLIENT', 'KILL', 'TYPE', 'replica')
  for (const replica of operators.slice(3)) {
    await until(async () => /master_link_status:down/.test(await replica.info('replication')))
  }
}

interface Watched {
  readonly app: FastifyInstance
  readonly lines: Record<string, unknown>[]
  readonly switches: unknown[]
}

async function watchedApp (redis: RedisOption, nameSpace: string): Promise<Watched> {
  const lines: Record<string, unknown>[] = []
  const switches: unknown[] = []
  // Long enough that a busy machine is no outage.
  const options = { syncInterval: 50, commandTimeout: 10_000, connectTimeout: 10_000 }
  const app = await guardedApp(t, { redis, nameSpace, max: 5, ...options }, logTo(lines))
  app.redisGuard.on('switch', status => switches.push(status))
  app.get('/', async () => 'ok')
  await app.ready()
  return { app, lines, switches }
}

async function own (Client: typeof Cluster, scaleReads: 'slave' | 'all'): Promise<RedisOption> {
  const client = new Client(nodes, { scaleReads, enableOfflineQueue: false, redisOptions: { password } })
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  await until(() => client.status === 'ready')
  return client as unknown as RedisOption
}

const ours = (scaleReads: unknown) => async () =>
  ({ cluster: nodes, scaleReads, redisOptions: { password } }) as RedisOption

const clients: readonly (readonly [name: string, make: () => Promise<RedisOption>])[] = [
  ["a connection of ours with scaleReads: 'slave'", ours('slave')],
  ["a connection of ours with scaleReads: 'all'", ours('all')],
  ['a connection of ours whose scaleReads is a function', ours((nodes: readonly unknown[]) => nodes.at(-1))],
  ["a client of the user's with scaleReads: 'slave'", async () => await own(Cluster, 'slave')],
  ["a client of ioredis 5 with scaleReads: 'all'", async () => await own(Cluster5 as unknown as typeof Cluster, 'all')]
]

const pairs = await Promise.all(clients.map(async ([name, make], i) => {
  const [a, b] = await Promise.all([watchedApp(await make(), `n${i}:`), watchedApp(await make(), `n${i}:`)])
  return { name, a, b }
}))

for (const { name, a, b } of pairs) {
  t.test(`${name} starts without an outage`, async t => {
    for (const { app, lines, switches } of [a, b]) {
      t.equal(app.redisGuard.status.store, 'redis')
      t.same([lines, switches], [[], []])
    }
    const { redisGuard } = a.app
    await redisGuard.set('old', 1)
    await redisGuard.blockIP('192.0.2.1', 60)
    await redisGuard.limits.set('global', { max: 7, timeWindow: 60_000 })
  })
}

t.test('redisGuard.client itself still reads from replicas, from the start', async t => {
  const client = pairs[0]!.a.app.redisGuard.client as Cluster
  t.equal(client.options.scaleReads, 'slave')
  await until(() => client.nodes('slave').filter(({ status }) => status === 'ready').length === 3)
  await client.set('app', 1)
  await until(async () => await client.get('app') === '1')
  await cutReplicas()
  await client.set('app', 2)
  t.equal(await client.get('app'), '1', 'the replicas lag from here on')
})

for (const { name, a, b } of pairs) {
  t.test(`${name} shows nothing of lagging replicas`, async t => {
    const [first, second] = [a.app, b.app]
    for (let i = 0; i < 12; i++) {
      await first.redisGuard.set(`key${i}`, i)
      t.equal(await first.redisGuard.get(`key${i}`), String(i))
      t.equal(await second.redisGuard.get(`key${i}`), String(i))
    }
    await first.redisGuard.set('old', 2)
    t.equal(await second.redisGuard.get('old'), '2')
    await first.redisGuard.unblockIP('192.0.2.1')
    await first.redisGuard.blockIP('192.0.2.2', 60)
    t.same((await second.redisGuard.getBlockedIPs()).map(({ ip }) => ip), ['192.0.2.2'])
    t.equal(await second.redisGuard.isIPBlocked('192.0.2.1'), false)
    t.equal(await second.redisGuard.isIPBlocked('192.0.2.2'), true)
    const statusOf = async (remoteAddress: string) => (await second.inject({ url: '/', remoteAddress })).statusCode
    await until(async () => await statusOf('192.0.2.2') === 403)
    t.equal(await statusOf('192.0.2.1'), 200)
    await first.redisGuard.limits.set('global', { max: 9, timeWindow: 60_000 })
    const peeked = async () => (await second.redisGuard.limits.peek('192.0.2.3'))[0]!
    await until(async () => (await peeked()).max === 9)
    await first.inject({ url: '/', remoteAddress: '192.0.2.3' })
    t.equal((await peeked()).remaining, 8)
    await first.redisGuard.logRateLimitEvent({ ip: '192.0.2.9' })
    t.ok((await second.redisGuard.getRateLimitEvents()).some(({ ip }) => ip === '192.0.2.9'))
    // Refused requests of the blocked address may be among them.
    const suspects = await second.redisGuard.getSuspiciousIPs(100)
    t.same(suspects.filter(({ ip }) => ip === '192.0.2.9'), [{ ip: '192.0.2.9', count: 1 }])
  })
}

t.test('no application had an outage or an error of Redis', async t => {
  // By then, heartbeats have counted two instances, and the block list was checked many times.
  for (const { app } of pairs.flatMap(({ a, b }) => [a, b])) {
    await until(async () => {
      const { body } = await app.inject('/metrics')
      const [, trips] = /^redis_guard_redis_duration_seconds_count (\d+)/m.exec(body)!
      return /^redis_guard_instances 2$/m.test(body) && Number(trips) > 50
    })
  }
  for (const { a, b } of pairs) {
    t.same([...a.switches, ...b.switches, ...a.lines, ...b.lines], [])
    const { body } = await a.app.inject('/metrics')
    t.same([...body.matchAll(/^redis_guard_errors_total\{.*\} [1-9].*$/gm)].map(String), [])
  }
})
