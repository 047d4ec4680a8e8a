/** A Redis that is required at the start, one that is configured but not used, and commands that may run late. */
import { createServer, type Socket } from 'node:net'
import { once } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import { Cluster, Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import t, { type Test } from 'tap'
import redisGuard, { GuardError, type RedisOption, RedisRequiredError } from '../../lib/index.js'
import { guardedApp, logTo } from '../support/app.js'
import { freePort } from '../../tools/program.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { Sentinel, sentinelName } from '../../tools/sentinel.js'
import { until } from '../../tools/until.js'

const host = '127.0.0.1'

/** Long enough that a busy machine is no outage. */
const patient = { commandTimeout: 10_000, connectTimeout: 10_000 }

/** A server that counts its connections, and answers none of them. */
async function silentServer (t: Test) {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket.resume().on('close', () => sockets.delete(socket)).on('error', () => {}))
  }).listen(0, host)
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { port: (server.address() as { port: number }).port, sockets }
}

/** @returns the error of the failed start */
async function failureOf (app: FastifyInstance, redis: RedisOption, connectTimeout = 300): Promise<Error> {
  try {
    await app.register(redisGuard, { redis, connectTimeout })
    await app.ready()
  } catch (error) {
    return error as Error
  }
  throw new Error('it starts')
}

function ownClient (t: Test, options: object): Redis {
  const client = new Redis({ enableOfflineQueue: false, ...options }).on('error', () => {})
  t.teardown(() => client.disconnect())
  return client
}

// Starts while other tests run, which takes seconds. No node is declared gone because it is slow.
const starting = RedisCluster.start({ args: ['--cluster-node-timeout', '60000'] })
t.teardown(async () => await (await starting).stop())

t.test('a required Redis that is missing fails the start, in every form of the option', async t => {
  const port = await freePort()
  const forms: Record<string, RedisOption> = {
    url: { url: `redis://${host}:${port}`, required: true },
    options: { host, port, required: true },
    sentinels: { sentinels: [{ host, port }], name: 'main', required: true },
    cluster: { cluster: [{ host, port }], required: true },
    client: { client: ownClient(t, { port }), required: true }
  }
  await Promise.all(Object.entries(forms).map(async ([form, redis]) => {
    const app = Fastify()
    const error = await failureOf(app, redis)
    t.type(error, RedisRequiredError, form)
    t.type(error, GuardError)
    t.match(
      error,
      {
        code: 'GUARD_ERR_REDIS_REQUIRED',
        name: 'RedisRequiredError',
        message: /within 300 ms, .*: Redis cannot be used \(/
      },
      form
    )
    await app.close()
  }))
})

t.test('an application starts with a required Redis that is up, in every form of the option', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const sentinel = await Sentinel.start(server.port, 60_000)
  t.teardown(async () => await sentinel.stop())
  const cluster = await starting
  const forms: Record<string, RedisOption> = {
    url: { url: server.url, required: true },
    options: { port: server.port, required: true },
    sentinels: { sentinels: [{ host, port: sentinel.port }], name: sentinelName, required: true },
    cluster: { cluster: [{ host, port: cluster.servers[0]!.port }], required: true },
    client: { client: ownClient(t, { port: server.port }), required: true },
    'a client that is not required': { client: ownClient(t, { port: server.port }) }
  }
  for (const [form, redis] of Object.entries(forms)) {
    const app = await guardedApp(t, { redis, ...patient })
    t.equal(app.redisGuard.status.store, 'redis', form)
    await app.close()
  }
})

t.test('a required Redis may come up during the start', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  await server.kill()
  const coming = guardedApp(t, { redis: { url: server.url, required: true }, ...patient }, { pluginTimeout: 60_000 })
  await server.restart()
  t.equal((await coming).redisGuard.status.store, 'redis')
})

function timersNow (): number {
  return process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
}

/** ms, enough for a refusal on a busy machine; a start that requires Redis takes this long to fail */
const refusedWithinMs = 1000

t.test('a failed start leaves nothing running', async t => {
  const silent = await silentServer(t)
  const app = Fastify()
  const timersBefore = timersNow()
  t.match(await failureOf(app, { host, port: silent.port, required: true }), { code: 'GUARD_ERR_REDIS_REQUIRED' })
  await until(() => silent.sockets.size === 0)
  await until(() => timersNow() <= timersBefore)
  await app.close()
})

t.test('a failed start says why, without a secret', async t => {
  const server = await RedisServer.start('--requirepass', 'right')
  t.teardown(async () => await server.stop())
  const locked = Fastify()
  const error = await failureOf(locked, { port: server.port, password: 'hunter2', required: true }, refusedWithinMs)
  t.match(error.message, /\(auth\): (WRONGPASS|NOAUTH)/)
  t.notMatch(`${error.message} ${error.stack}`, 'hunter2')
  await locked.close()
})

t.test('after a failed start no Sentinel is asked, whether it hangs or does not listen', async t => {
  const silent = await silentServer(t)
  for (const port of [silent.port, await freePort()]) {
    const app = Fastify()
    const timersBefore = timersNow()
    const sentinels = [{ host, port }]
    const withinMs = port === silent.port ? 300 : refusedWithinMs
    const { message } = await failureOf(app, { sentinels, name: 'main', required: true }, withinMs)
    t.match(message, port === silent.port ? 'no answer from the Sentinels yet' : 'All sentinels are unreachable')
    // The longest delay between two rounds is half a second, and its timer in Node cannot be ended.
    await until(() => silent.sockets.size === 0 && timersNow() <= timersBefore, 5000)
    await app.close()
  }
})

t.test("a failed start leaves the user's client unchanged", async t => {
  const server = await RedisServer.start('--requirepass', 'right')
  t.teardown(async () => await server.stop())
  const client = ownClient(t, { port: server.port })
  // ioredis also listens while it connects.
  const listenerCount = async () => {
    await until(() => client.status === 'reconnecting')
    return client.listenerCount('ready')
  }
  const before = await listenerCount()
  const app = Fastify()
  t.match(await failureOf(app, { client, required: true }, refusedWithinMs), { message: /\(auth\)/ })
  t.equal(await listenerCount(), before)
  t.not(client.status, 'end')
  await app.close()
})

t.test('a required Redis may go away after the start', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const app = await guardedApp(t, { redis: { url: server.url, required: true }, ...patient })
  await server.kill()
  await until(() => app.redisGuard.status.store === 'memory')
})

/** The codes of an application's warnings in an environment. Each must also be in the log. */
async function codesBy (t: Test, variables: Record<string, string>, redis?: RedisOption): Promise<string[]> {
  const names = ['NODE_ENV', 'REDIS_URL', 'REDIS_ENABLED', 'REDIS_PASSWORD']
  const before = names.map(name => [name, process.env[name]] as const)
  for (const name of names) delete process.env[name]
  Object.assign(process.env, variables)
  const lines: Record<string, unknown>[] = []
  try {
    const app = await guardedApp(t, { redis, connectTimeout: 100 }, logTo(lines))
    const codes = app.redisGuard.warnings.map(({ code }) => code)
    for (const { code, message } of app.redisGuard.warnings) t.match(lines, [{ level: 40, code, msg: message }])
    return codes
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  }
}

t.test('warns of a Redis that is configured but not used', async t => {
  const url = 'redis://:p@127.0.0.1:1'
  for (const variables of [
    { NODE_ENV: 'production' }, { REDIS_ENABLED: 'true' }, { REDIS_URL: url, NODE_ENV: 'staging' }, { REDIS_URL: url }
  ] as Record<string, string>[]) {
    t.same(
      await codesBy(t, variables),
      ['GUARD_WARN_REDIS_UNUSED'],
      JSON.stringify(variables)
    )
  }
  for (const variables of [
    {}, { NODE_ENV: 'test' }, { NODE_ENV: 'development', REDIS_URL: url },
    { NODE_ENV: 'production', REDIS_ENABLED: 'false', REDIS_URL: url },
    { NODE_ENV: 'production', REDIS_URL: url }
  ] as Record<string, string>[]) t.same(await codesBy(t, variables), [], JSON.stringify(variables))
  t.same(await codesBy(t, { NODE_ENV: 'production' }, false), [])
})

t.test("warns of the offline queue of the user's client", async t => {
  const lazy = { lazyConnect: true, retryStrategy: () => null, port: 1 }
  const clients = (options: object) => ([
    new Redis({ ...lazy, ...options }), new Redis5({ ...lazy, ...options }),
    new Cluster([{ host, port: 1 }], { lazyConnect: true, clusterRetryStrategy: () => null, ...options })
  ] as Redis[])
  for (const client of clients({})) {
    client.on('error', () => {})
    t.same(await codesBy(t, {}, client), ['GUARD_WARN_OFFLINE_QUEUE'])
    t.same(await codesBy(t, {}, { client }), ['GUARD_WARN_OFFLINE_QUEUE'])
  }
  for (const client of clients({ enableOfflineQueue: false })) {
    client.on('error', () => {})
    t.same(await codesBy(t, {}, client), [])
  }
})
