/** Scripts in a Cluster: which node gets a call, and what its refusal means. */
import type { Cluster, Redis } from 'ioredis'
import t from 'tap'
import { type RedisClient, Script } from '../../lib/redis/script.js'
import { guardedApp } from '../support/app.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { scripts } from '../../lib/redis/lua/scripts.js'

const script = new Script(scripts.probe)
const call = { keys: ['probe'], args: [] }

/** A Cluster as ioredis shows it before it knows all nodes and slots. */
function clusterOf (nodes: readonly Partial<Redis>[], slots: string[][] = []): RedisClient {
  return { isCluster: true, options: {}, nodes: () => nodes, slots } as unknown as Cluster
}

t.test('a Cluster without nodes fails, and one without known slots asks any node', async t => {
  await t.rejects(script.runAll(clusterOf([]), [call]), { message: /no node is known/ })
  const replies = ['done', 'done, too'].map(reply => [null, reply])
  const pipeline = () => ({ evalsha () {}, exec: async () => replies })
  const node = { options: { host: 'h', port: 1 }, pipeline } as unknown as Redis
  t.same(await script.runAll(clusterOf([node]), [call]), ['done'])
  t.same(
    await script.runAll(clusterOf([node]), [call, call]),
    ['done', 'done, too'],
    'calls of one node share a pipeline'
  )
  t.same(await script.runAll(clusterOf([node], Array(16384).fill(['other:1'])), [call]), ['done'])
})

t.test('a node that refuses for a reason other than the slot fails the call', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const nodes = cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port }))
  const app = await guardedApp(t, { redis: { cluster: nodes }, connectTimeout: 60_000, commandTimeout: 10_000 })
  app.get('/', async () => 'ok')
  await app.inject('/')
  t.equal(app.redisGuard.status.store, 'redis')
  for (const server of cluster.servers) {
    const client = server.client()
    await client.config('SET', 'maxmemory', '1')
    client.disconnect()
  }
  t.equal((await app.inject('/')).statusCode, 200)
  t.match(app.redisGuard.status, { store: 'memory', reason: /\(oom\)/ })
})
