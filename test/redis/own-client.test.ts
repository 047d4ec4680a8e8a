/** A client that the user provides, of either supported version of ioredis. */
import { once } from 'node:events'
import { performance } from 'node:perf_hooks'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import Fastify from 'fastify'
import { Redis as Redis6 } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import t from 'tap'
import redisGuard from '../../lib/index.js'
import type { NamedLimitOptions } from '../../lib/settings/options.js'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const options = { enableOfflineQueue: false, autoResendUnfulfilledCommands: false, retryStrategy: () => 50 }
const versions = {
  5: (port: number) => new Redis5({ port, ...options }),
  6: (port: number) => new Redis6({ port, ...options })
}

for (const [version, connect] of Object.entries(versions)) {
  t.test(`a client of ioredis ${version} serves limits, blocks, events and values, and comes back`, async t => {
    const server = await RedisServer.start()
    t.teardown(async () => await server.stop())
    const redis = connect(server.port)
    redis.on('error', () => {})
    t.teardown(() => redis.disconnect())
    await once(redis, 'ready')
    const options = { max: 2, timeWindow: '1 hour', connectTimeout: 60_000, commandTimeout: 60_000, resetTimeout: 100 }
    const apps = [
      await guardedApp(t, { redis, ...options }),
      await guardedApp(t, { redis: server.url, ...options })
    ] as const
    const limits: NamedLimitOptions[] = [
      { name: 'a', max: 1, timeWindow: '1 hour', algorithm: 'sliding-window' },
      { name: 'b', max: 2, timeWindow: '1 hour', algorithm: 'gcra' }
    ]
    for (const app of apps) {
      app.get('/', async () => 'ok')
      app.get('/many', { config: { rateLimit: { limits } } }, async () => 'ok')
    }
    const [own, other] = apps
    const statusOf = async (app: typeof own, url = '/', remoteAddress = '192.0.2.1') =>
      (await app.inject({ url, remoteAddress })).statusCode
    t.equal(own.redisGuard.status.store, 'redis')
    const answers = [await statusOf(own), await statusOf(other), await statusOf(own), await statusOf(other)]
    t.same(answers, [200, 200, 429, 429])
    t.same([await statusOf(own, '/many'), await statusOf(own, '/many')], [200, 429])
    await own.redisGuard.blockIP('192.0.2.7', 3600)
    await until(async () => await statusOf(other, '/', '192.0.2.7') === 403)
    await own.redisGuard.set('a', 1, { ttlSeconds: 3600 })
    t.same([await other.redisGuard.incr('a'), await own.redisGuard.get('a')], [2, '2'])
    await until(async () => (await other.redisGuard.getRateLimitEvents()).length > 0)
    t.equal((await own.redisGuard.limits.peek('192.0.2.1'))[0]!.remaining, 0)
    await server.kill()
    const inOutage = [undefined, '192.0.2.7', '192.0.2.3'].map(async address => await statusOf(own, '/', address))
    t.same(await Promise.all(inOutage), [429, 403, 200])
    await server.restart()
    await until(() => own.redisGuard.status.store === 'redis')
    t.equal(await statusOf(own, '/', '192.0.2.7'), 403)
  })
}

t.test('a client that has ended is not waited for, and is given as the reason', async t => {
  const redis = new Redis6({ lazyConnect: true, enableOfflineQueue: false })
  redis.disconnect()
  t.equal(redis.status, 'end')
  const startMs = performance.now()
  const app = await guardedApp(t, { redis, connectTimeout: 600_000 })
  t.match(app.redisGuard.status, { store: 'memory', reason: /the client was ended before/ })
  const starting = guardedApp(t, { redis: { client: redis, required: true }, connectTimeout: 600_000 })
  await t.rejects(starting, { code: 'GUARD_ERR_REDIS_REQUIRED', message: /the client was ended before/ })
  const tookMs = performance.now() - startMs
  t.ok(tookMs < 30_000, `${tookMs} ms`)
})

/** Never finishes connecting. */
class EndlessConnector {
  async connect () { return await new Promise<never>(() => {}) }
  disconnect () {}
}

t.test('a client that is not connected yet is given as the reason', async t => {
  const redis = new Redis6({ Connector: EndlessConnector as never, enableOfflineQueue: false })
  t.teardown(() => redis.disconnect())
  const app = await guardedApp(t, { redis, connectTimeout: 50 })
  t.match(app.redisGuard.status, { store: 'memory', reason: /the client is not connected yet \(connecting\)/ })
})

t.test('a closed application leaves memory at once, however long connectTimeout is', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const closed: WeakRef<object>[] = []
  for (let i = 0; i < 5; i++) {
    const app = Fastify()
    await app.register(redisGuard, { redis: server.url, metrics: false, connectTimeout: 600_000 })
    await app.close()
    closed.push(new WeakRef(app))
  }
  await until(() => {
    collect()
    return closed.filter(app => app.deref() !== undefined).length <= 1
  })
})
