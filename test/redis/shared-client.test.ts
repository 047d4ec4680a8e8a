/** One client of the user, shared by many registrations and the application. */
import { once } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import { Cluster, Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import t, { type Test } from 'tap'
import redisGuard from '../../lib/index.js'
import type { OwnRedisClient } from '../../lib/settings/redis-option.js'
import { guardedApp } from '../support/app.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

type Emitter = Pick<Redis, 'eventNames' | 'listenerCount'>

type Client = OwnRedisClient & Emitter & {
  get (key: string): Promise<string | null>
  set (key: string, value: number): Promise<unknown>
}

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

/** Long enough that no application leaves Redis because the machine is busy. */
const patience = { connectTimeout: 60_000, commandTimeout: 60_000, resetTimeout: 50 }

/** The warnings of Node about too many listeners during a test. */
function leaksOf (t: Test): readonly string[] {
  const leaks: string[] = []
  const listener = (warning: Error) => {
    if (warning.name === 'MaxListenersExceededWarning') leaks.push(warning.message)
  }
  process.on('warning', listener)
  t.teardown(() => process.off('warning', listener))
  return leaks
}

function listenersOf (emitter: Emitter): Record<string, number> {
  return Object.fromEntries(emitter.eventNames().map(name => [String(name), emitter.listenerCount(name)]))
}

/** Registers each in its own scope, with a route whose hits are refunded. */
async function appWith (redis: Client, registrations: number): Promise<FastifyInstance> {
  const app = Fastify()
  for (let i = 0; i < registrations; i++) {
    await app.register(async scope => {
      await scope.register(redisGuard, {
        redis, nameSpace: `n${i}:`, max: 1, metrics: false, countWhen: () => false, ...patience
      })
      scope.get(`/${i}`, async () => 'ok')
    })
  }
  await app.ready()
  return app
}

const clients: readonly (readonly [name: string, make: () => Client])[] = [
  ['a client of ioredis 6', () => new Redis({ port: server.port })],
  ['a client of ioredis 5', () => new Redis5({ port: server.port })]
]

/** Node warns at the eleventh listener. */
const registrations = 50

for (const [name, make] of clients) {
  t.test(`${name} has one listener per event for all registrations, and none after all are closed`, async t => {
    const leaks = leaksOf(t)
    const client = make()
    t.teardown(() => client.disconnect())
    await once(client as unknown as EventTarget, 'ready')
    const before = listenersOf(client)
    const first = await appWith(client, 1)
    const withOne = listenersOf(client)
    const app = await appWith(client, registrations)
    t.same(listenersOf(client), withOne)
    for (const i of [0, registrations - 1]) t.equal((await app.inject(`/${i}`)).statusCode, 200)
    await client.set('of the application', 1)
    await first.close()
    t.same(listenersOf(client), withOne)
    for (const i of [0, registrations - 1]) t.equal((await app.inject(`/${i}`)).statusCode, 200)
    await app.close()
    t.same(listenersOf(client), before)
    t.equal(await client.get('of the application'), '1')
    await new Promise(resolve => setImmediate(resolve))
    t.same(leaks, [])
  })
}

t.test('each registration notices that a shared client goes away and comes back', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const client = new Redis({ port: server.port, enableOfflineQueue: false, retryStrategy: () => 20 })
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  await once(client, 'ready')
  const app = Fastify()
  t.teardown(async () => await app.close())
  const scopes: FastifyInstance[] = []
  for (let i = 0; i < 3; i++) {
    await app.register(async scope => {
      await scope.register(redisGuard, { redis: client, nameSpace: `n${i}:`, ...patience })
      scopes.push(scope)
    })
  }
  await app.ready()
  const allUse = (store: string) => () => scopes.every(({ redisGuard }) => redisGuard.status.store === store)
  t.ok(allUse('redis')())
  await server.kill()
  await until(allUse('memory'))
  await server.restart()
  await until(allUse('redis'))
})

t.test('a shared client whose listeners were removed has them again once another registration listens', async t => {
  const client = new Redis({ port: server.port })
  t.teardown(() => client.disconnect())
  const apps = [await guardedApp(t, { redis: client, ...patience })]
  client.removeAllListeners('ready')
  client.removeAllListeners('close')
  apps.push(await guardedApp(t, { redis: client, nameSpace: 'other:', ...patience }))
  t.match(listenersOf(client), { ready: 1, close: 1 })
  const states: string[] = []
  for (const app of apps) app.redisGuard.on('switch', ({ store }) => states.push(store))
  client.disconnect(true)
  await until(() => states.length >= 4)
  t.same(states, ['memory', 'memory', 'redis', 'redis'])
})

t.test('the nodes of a shared Cluster have one listener per event, and none after all are closed', async t => {
  const leaks = leaksOf(t)
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const client = new Cluster(cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port })))
  t.teardown(() => client.disconnect())
  await once(client, 'ready')
  // Wait until all nodes are known and connected.
  await until(() => client.nodes().length === 3)
  await Promise.all(client.nodes().map(async node => await node.ping()))
  const all = () => [client, ...client.nodes()].map(listenersOf)
  const before = all()
  const first = await appWith(client, 1)
  const withOne = all()
  const app = await appWith(client, 20)
  t.same(all(), withOne)
  await Promise.all([first.close(), app.close()])
  t.same(all(), before)
  await new Promise(resolve => setImmediate(resolve))
  t.same(leaks, [])
})

t.test('a reply that many registrations wait for has one listener of the guard', async t => {
  const leaks = leaksOf(t)
  const app = Fastify()
  t.teardown(async () => await app.close())
  const seen: number[] = []
  for (let i = 0; i < 15; i++) {
    const countWhen = () => {
      seen.push(i)
      return false
    }
    await app.register(redisGuard, { redis: false, metrics: false, max: 1, countWhen })
  }
  app.get('/', async () => 'ok')
  for (let i = 0; i < 2; i++) t.equal((await app.inject('/')).statusCode, 200)
  const all = Array.from({ length: 15 }, (_, i) => i)
  await until(() => seen.length === 30)
  t.same(seen, [...all, ...all])
  await new Promise(resolve => setImmediate(resolve))
  t.same(leaks, [])
})
