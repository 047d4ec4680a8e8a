/** Functions among the ioredis options that fail. If one of them ends the process, this file fails. */
import t from 'tap'
import { guardedApp } from '../support/app.js'
import { freePort } from '../../tools/program.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { Sentinel, sentinelName } from '../../tools/sentinel.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// Each test has its own servers, and mostly waits for them.
t.jobs = 3

/** Long enough that a busy machine is no outage. */
const patient = { commandTimeout: 10_000, connectTimeout: 10_000 }

/** Ways in which such a function fails, with a count of its calls. */
const failing = {
  throws: () => counted(() => { throw new Error('not today') }),
  'promises, and rejects': () => counted(async () => { throw new Error('not today') })
}

function counted<T> (fail: () => T): { readonly call: () => T, calls: number } {
  const counter = {
    calls: 0,
    call: () => {
      counter.calls++
      return fail()
    }
  }
  return counter
}

function at (port: number) {
  return { host: '127.0.0.1', port }
}

for (const [how, make] of Object.entries(failing)) {
  t.test(`a retryStrategy that ${how} is replaced by the guard's own: the connection comes back`, async t => {
    const server = await RedisServer.start()
    t.teardown(async () => await server.stop())
    const strategy = make()
    const redis = { ...at(server.port), retryStrategy: strategy.call as never }
    const app = await guardedApp(t, { redis, resetTimeout: 50, ...patient })
    await server.kill()
    await until(() => strategy.calls > 0)
    await server.restart()
    await until(() => app.redisGuard.status.store === 'redis')
  })

  t.test(`a reconnectOnError that ${how} is replaced by the guard's own: the connection stays`, async t => {
    const server = await RedisServer.start()
    t.teardown(async () => await server.stop())
    const decide = make()
    const app = await guardedApp(t, {
      redis: { ...at(server.port), reconnectOnError: decide.call as never },
      ...patient
    })
    const calls = decide.calls
    await t.rejects(app.redisGuard.client!.call('NOSUCHCOMMAND'))
    t.ok(decide.calls > calls)
    await app.redisGuard.set('a', 1)
    t.equal(app.redisGuard.status.store, 'redis')
  })

  t.test(`a strategy for Sentinels that ${how} is replaced by the guard's own: they are asked again`, async t => {
    const strategy = make()
    const redis = { sentinels: [at(await freePort())], name: 'main', sentinelRetryStrategy: strategy.call as never }
    const app = await guardedApp(t, { redis, connectTimeout: 100 })
    await until(() => strategy.calls > 2)
    t.equal(app.redisGuard.status.store, 'memory')
  })
}

t.test('a clusterRetryStrategy that fails is replaced by the guard\'s own: the Cluster comes back', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const strategies = Object.values(failing).map(make => make())
  const apps = await Promise.all(strategies.map(async ({ call }) => {
    const redis = { cluster: [at(cluster.servers[0]!.port)], clusterRetryStrategy: call as never }
    return await guardedApp(t, { redis, resetTimeout: 50, ...patient })
  }))
  await Promise.all(cluster.servers.map(async server => await server.kill()))
  await until(() => strategies.every(({ calls }) => calls > 0))
  await Promise.all(cluster.servers.map(async server => await server.restart()))
  await until(() => apps.every(app => app.redisGuard.status.store === 'redis'))
})

t.test('a retryStrategy may set the delay, and may end the attempts to connect', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const strategies = [() => null, null, () => 20]
  const apps = await Promise.all(strategies.map(async retryStrategy => {
    return await guardedApp(t, { redis: { ...at(server.port), retryStrategy }, resetTimeout: 50, ...patient })
  }))
  const states = () => apps.map(app => app.redisGuard.client!.status)
  await server.kill()
  await until(() => states().slice(0, 2).every(state => state === 'end'))
  await until(() => apps.every(app => app.redisGuard.status.store === 'memory'))
  await server.restart()
  await until(() => states()[2] === 'ready')
  t.same(states(), ['end', 'end', 'ready'])
})

t.test('a Sentinel that hangs is skipped: the next one is asked', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const sentinel = await Sentinel.start(server.port, 60_000)
  t.teardown(async () => await sentinel.stop())
  const hung = await TcpProxy.start(sentinel.port)
  t.teardown(async () => await hung.stop())
  hung.blackhole = true
  const redis = { sentinels: [at(hung.port), at(sentinel.port)], name: sentinelName }
  const app = await guardedApp(t, { redis, connectTimeout: 100, commandTimeout: 500 })
  t.match(app.redisGuard.status, {
    store: 'memory',
    reason: 'Redis cannot be used (connection): no answer from the Sentinels yet'
  })
  await until(() => app.redisGuard.status.store === 'redis')
  await app.close()
  // The connections that listen for a failover are closed too.
  await until(() => hung.connected === 0)
})
