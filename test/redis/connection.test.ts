import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import Fastify from 'fastify'
import keySlot from 'cluster-key-slot'
import { type Cluster, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import redisGuard from '../../lib/index.js'
import type { RedisOption } from '../../lib/redis-option.js'
import { guardedApp, logTo } from '../support/app.js'
import { Authority } from '../support/certificates.js'
import { Instance } from '../support/instance.js'
import { freePort } from '../support/program.js'
import { RedisCluster } from '../support/redis-cluster.js'
import { RedisServer, tlsArguments } from '../support/redis-server.js'
import { Sentinel, sentinelName } from '../support/sentinel.js'
import { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'

const password = 'p@ss:w/o#r%d?& with spaces%20'

async function startRedis (t: Test, ...args: string[]): Promise<RedisServer> {
  const server = await RedisServer.start(...args)
  t.teardown(async () => await server.stop())
  return server
}

/** The store that an app answers from once it is up. */
async function storeWith (t: Test, redis: RedisOption): Promise<{ store: string, reason: string | undefined }> {
  const { store, reason } = (await guardedApp(t, { redis })).redisGuard.status
  return { store, reason }
}

t.test('the configurations of the environment, each in a process of its own', async t => {
  const authority = await Authority.create(t)
  const tls = [...tlsArguments(authority, await authority.issue()), '--tls-auth-clients', 'no']
  const trust = { NODE_EXTRA_CA_CERTS: authority.caFile }
  const [withTls, withBoth, withPassword] = await Promise.all([startRedis(t, ...tls), startRedis(t, ...tls, '--requirepass', password), startRedis(t, '--requirepass', password)])
  const production = { NODE_ENV: 'production', REDIS_TIMEOUT: '5000' }
  const configurations: [string, Record<string, string>, string][] = [
    ['AWS ElastiCache', { ...production, REDIS_URL: `redis://localhost:${withTls.port}`, REDIS_TLS: 'true', ...trust }, 'redis'],
    ['Azure Cache', { ...production, REDIS_URL: `redis://localhost:${withBoth.port}`, REDIS_PASSWORD: password, REDIS_TLS: 'true', ...trust }, 'redis'],
    ['Docker Compose', { ...production, REDIS_URL: `redis://localhost:${withPassword.port}`, REDIS_PASSWORD: password, REDIS_TLS: 'false' }, 'redis'],
    ['rediss: without REDIS_TLS', { ...production, REDIS_URL: `REDISS://localhost:${withTls.port}`, ...trust }, 'redis'],
    ['the password in the URL', { ...production, REDIS_URL: `redis://:${encodeURIComponent(password)}@localhost:${withPassword.port}` }, 'redis'],
    ['REDIS_PASSWORD before the one in the URL', { ...production, REDIS_URL: `redis://:wrong@localhost:${withPassword.port}`, REDIS_PASSWORD: password }, 'redis'],
    ['a certificate that nobody vouches for', { ...production, REDIS_URL: `rediss://localhost:${withTls.port}` }, 'memory'],
    ['no TLS to a server that wants it', { ...production, REDIS_URL: `redis://localhost:${withTls.port}` }, 'memory'],
    ['development', { REDIS_URL: `redis://:wrong@localhost:${withPassword.port}`, REDIS_PASSWORD: password }, 'memory'],
    ['development with REDIS_ENABLED', { REDIS_URL: `redis://localhost:${withPassword.port}`, REDIS_PASSWORD: password, REDIS_ENABLED: 'true' }, 'redis'],
    ['production with REDIS_ENABLED=false', { ...production, REDIS_URL: `redis://localhost:${withPassword.port}`, REDIS_PASSWORD: password, REDIS_ENABLED: 'false' }, 'memory'],
    ['production without REDIS_URL', { ...production, REDIS_URL: '', REDIS_PASSWORD: '' }, 'memory']
  ]
  for (const [name, env, store] of configurations) {
    const instance = await Instance.start({}, env)
    t.equal(instance.store, store, name)
    t.equal(await instance.get(), 200, name)
    await instance.stop()
  }
})

t.test('the redis option', async t => {
  const server = await startRedis(t, '--requirepass', password)
  const { port } = server
  t.test('takes a URL, options, options with a URL, and a client', async t => {
    const own = new Redis({ port, password, lazyConnect: true })
    t.teardown(() => own.disconnect())
    const forms: [string, RedisOption][] = [
      ['URL, encoded', `redis://:${encodeURIComponent(password)}@127.0.0.1:${port}/1`],
      ['URL, password as it is', `redis://:${password}@127.0.0.1:${port}`],
      ['options', { port, password }],
      ['options with a URL', { url: `redis://127.0.0.1:${port}`, password }],
      ['a client that has not connected yet', own],
      ['a client that has', own]
    ]
    for (const [name, redis] of forms) t.same(await storeWith(t, redis), { store: 'redis', reason: undefined }, name)
  })

  t.test('a wrong password: memory answers, the reason says so, and no log line holds the password', async t => {
    const lines: Record<string, unknown>[] = []
    const app = await guardedApp(t, { redis: { port, password: 'a wrong secret' } }, logTo(lines, 'trace'))
    app.get('/', async () => 'ok')
    t.equal((await app.inject('/')).statusCode, 200)
    t.match(app.redisGuard.status, { store: 'memory', reason: /^Redis cannot be used \(auth\): (WRONGPASS|NOAUTH)/ })
    await until(() => lines.length > 3)
    t.notMatch(JSON.stringify(lines), /a wrong secret/)
  })

  t.test('a database that Redis refuses: memory answers, and nothing is counted in another one', async t => {
    const server = await startRedis(t, '--databases', '2')
    const operator = server.client()
    t.teardown(() => operator.disconnect())
    const app = await guardedApp(t, { redis: `${server.url}/2` })
    t.match(app.redisGuard.status, { store: 'memory', reason: /DB index is out of range/ })
    await app.redisGuard.incr('sum')
    t.equal(await operator.info('keyspace'), '# Keyspace\r\n')
    t.match(await storeWith(t, `${server.url}/1`), { store: 'redis' })
  })

  t.test('a client of the user is not closed with the app, nor left with our listeners; one of ours is closed', async t => {
    const own = new Redis({ port, password })
    t.teardown(() => own.disconnect())
    await once(own, 'ready')
    const before = own.eventNames().filter(name => name !== 'error').map(name => own.listenerCount(name))
    const app = Fastify()
    await app.register(redisGuard, { redis: own })
    t.equal(app.redisGuard.client, own)
    await app.close()
    t.equal(own.status, 'ready')
    t.equal(await own.ping(), 'PONG')
    t.same(own.eventNames().filter(name => name !== 'error').map(name => own.listenerCount(name)), before)

    const ours = Fastify()
    await ours.register(redisGuard, { redis: { port, password } })
    const { client } = ours.redisGuard
    await ours.close()
    await until(() => client!.status === 'end')
  })
})

t.test('a unix socket', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'redis-'))
  t.teardown(async () => await rm(folder, { recursive: true }))
  await startRedis(t, '--unixsocket', join(folder, 'redis.sock'))
  t.match(await storeWith(t, `unix://${folder}/redis.sock`), { store: 'redis' })
})

t.test('Sentinel: the primary that it names', async t => {
  const server = await startRedis(t)
  const sentinel = await Sentinel.start(server.port)
  t.teardown(async () => await sentinel.stop())
  t.match(await storeWith(t, { sentinels: [{ host: '127.0.0.1', port: sentinel.port }], name: sentinelName }), { store: 'redis' })
})

t.test('Cluster: all clients and all methods, whatever slots they lie in', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const app = await guardedApp(t, { redis: { cluster: cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port })) }, max: 1 })
  app.get('/', async () => 'ok')
  t.equal(app.redisGuard.status.store, 'redis')
  // At once, so that they are sent together: each client twice.
  const answers = await Promise.all(Array.from({ length: 60 }, async (_, i) => await app.inject({ url: '/', remoteAddress: `192.0.2.${i % 30}` })))
  t.same(answers.map(({ statusCode }) => statusCode), [...Array<number>(30).fill(200), ...Array<number>(30).fill(429)])
  // Refused in this process, and added to the counters of all nodes.
  for (let i = 0; i < 30; i++) t.equal((await app.inject({ url: '/', remoteAddress: `192.0.2.${i}` })).statusCode, 429)
  const { client } = app.redisGuard
  await until(async () => (await Promise.all(Array.from({ length: 30 }, async (_, i) => await client!.get(`guard:fixed-window:{192.0.2.${i}}:global`)))).every(counted => counted === '1:2'))
  for (let i = 0; i < 10; i++) await app.redisGuard.set(`key${i}`, i)
  t.equal(await app.redisGuard.get('key7'), '7')
  await app.redisGuard.blockIP('198.51.100.0/24', 60)
  t.equal(await app.redisGuard.isIPBlocked('198.51.100.9'), true)
  t.equal((await app.redisGuard.getBlockedIPs()).length, 1)
  t.equal((await app.redisGuard.getSuspiciousIPs(100)).length, 30)
  t.ok(await app.redisGuard.clearOldRateLimitEvents(0) >= 30)
  t.equal(app.redisGuard.status.store, 'redis', 'none of it failed')
})

t.test('Cluster: the hits of one turn take one round trip to each node', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const nodes = cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port }))
  const app = await guardedApp(t, { redis: { cluster: nodes }, syncInterval: 60_000, max: 5 })
  app.get('/', async () => 'ok')
  const askAll = async () => await Promise.all(Array.from({ length: 30 }, async (_, i) => await app.inject({ url: '/', remoteAddress: `192.0.2.${i}` })))
  // The first tells the nodes the script.
  await askAll()
  const watchers = cluster.servers.map(server => server.client())
  t.teardown(() => watchers.forEach(watcher => watcher.disconnect()))
  const readings = async () => await Promise.all(watchers.map(async watcher => Number(/total_reads_processed:(\d+)/.exec(await watcher.info('stats'))![1])))
  const before = await readings()
  const answers = await askAll()
  const after = await readings()
  t.ok(answers.every(({ headers }) => headers['x-ratelimit-remaining'] === '3'))
  // One of them is the reading itself.
  t.same(after.map((reads, i) => reads - before[i]!), [2, 2, 2])
})

t.test('Cluster: a hit whose slot has moved is counted where it is now, once', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const nodes = cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port }))
  const app = await guardedApp(t, { redis: { cluster: nodes }, commandTimeout: 2000, max: 5 })
  app.get('/', async () => 'ok')
  const client = app.redisGuard.client as Cluster
  await Promise.all(Array.from({ length: 20 }, async (_, i) => await app.inject({ url: '/', remoteAddress: `192.0.2.${i}` })))
  const watchers = cluster.servers.map(server => server.client())
  t.teardown(() => watchers.forEach(watcher => watcher.disconnect()))
  const slot = Number(await watchers[0]!.call('CLUSTER', 'KEYSLOT', 'guard:fixed-window:{203.0.113.1}:global'))
  const from = cluster.servers.findIndex(({ port }) => client.slots[slot]![0] === `127.0.0.1:${port}`)
  const to = (from + 1) % 3
  const id = await watchers[to]!.call('CLUSTER', 'MYID')
  // Or the others, whose word is as old, may have the slot back.
  await watchers[to]!.call('CLUSTER', 'BUMPEPOCH')
  for (const i of [to, from, 3 - to - from]) await watchers[i]!.call('CLUSTER', 'SETSLOT', slot, 'NODE', id as string)
  const answers = await Promise.all(['203.0.113.1', '192.0.2.1', '203.0.113.1'].map(async remoteAddress => await app.inject({ url: '/', remoteAddress })))
  t.same(answers.map(({ headers }) => headers['x-ratelimit-remaining']), ['4', '3', '3'])
  t.equal(await watchers[to]!.get('guard:fixed-window:{203.0.113.1}:global'), '2')
  t.equal(app.redisGuard.status.store, 'redis')
})

t.test('Cluster: a node that hangs while a slot moves to it does not end the process', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const app = await guardedApp(t, { redis: { cluster: cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port })) } })
  app.get('/', async () => 'ok')
  const client = app.redisGuard.client as Cluster
  const operators = cluster.servers.map(server => server.client())
  t.teardown(() => operators.forEach(operator => operator.disconnect()))
  const slot = keySlot('203.0.113.1')
  const from = cluster.servers.findIndex(({ port }) => client.slots[slot]![0] === `127.0.0.1:${port}`)
  const to = (from + 1) % 3
  const [idOfFrom, idOfTo] = await Promise.all([from, to].map(async i => String(await operators[i]!.call('CLUSTER', 'MYID'))))
  await operators[to]!.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', idOfFrom!)
  await operators[from]!.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', idOfTo!)
  cluster.servers[to]!.signal('SIGSTOP')
  t.equal((await app.inject({ url: '/', remoteAddress: '203.0.113.1' })).statusCode, 200)
  t.equal(app.redisGuard.status.store, 'memory')
  // Until all that was sent to it has been given up, ASKING too.
  await new Promise(resolve => setTimeout(resolve, 1200))
  cluster.servers[to]!.signal('SIGCONT')
  for (const i of [to, from]) await operators[i]!.call('CLUSTER', 'SETSLOT', slot, 'NODE', idOfTo!)
  await until(() => app.redisGuard.status.store === 'redis')
})

t.test('Cluster: a command whose answer was lost is not sent again', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const proxies = await Promise.all(cluster.servers.map(async ({ port }) => await TcpProxy.start(port)))
  t.teardown(async () => await Promise.all(proxies.map(async proxy => await proxy.stop())))
  const natMap = Object.fromEntries(cluster.servers.map(({ port }, i) => [`127.0.0.1:${port}`, { host: '127.0.0.1', port: proxies[i]!.port }]))
  const app = await guardedApp(t, { redis: { cluster: proxies.map(({ port }) => ({ host: '127.0.0.1', port })), natMap }, commandTimeout: 1000 })
  app.get('/', async () => 'ok')
  t.equal(app.redisGuard.status.store, 'redis')

  const names = Array.from({ length: 12 }, (_, i) => `count${i}`)
  for (const proxy of proxies) proxy.delayMs = 300
  const counting = Promise.all(names.map(async name => await app.redisGuard.incr(name)))
  // The commands have arrived by now, their answers have not.
  await new Promise(resolve => setTimeout(resolve, 400))
  for (const proxy of proxies) proxy.cut()
  await counting
  for (const proxy of proxies) proxy.delayMs = 0
  await until(() => app.redisGuard.status.store === 'redis')
  await new Promise(resolve => setTimeout(resolve, 500))
  t.same(new Set(await Promise.all(names.map(async name => await app.redisGuard.get(name)))), new Set(['1']))
})

t.test('starting up', async t => {
  t.test('does not wait for a Redis that is full', async t => {
    const server = await startRedis(t, '--maxmemory', '1')
    const startMs = performance.now()
    t.match(await storeWith(t, server.url), { store: 'memory', reason: /\(oom\)/ })
    t.ok(performance.now() - startMs < 1500)
  })

  t.test('stays on memory, and says so once, where Redis allows no scripts', async t => {
    const server = await startRedis(t, '--rename-command', 'EVALSHA', '')
    const lines: Record<string, unknown>[] = []
    const app = await guardedApp(t, { redis: server.url }, logTo(lines))
    await new Promise(resolve => setTimeout(resolve, 1500))
    t.match(app.redisGuard.status, { store: 'memory', reason: /unknown command/ })
    t.equal(lines.length, 1)
  })

  t.test('ends in time for Fastify, whatever connectTimeout says', async t => {
    const silent = createServer(socket => socket.on('error', () => {})).listen(0, '127.0.0.1')
    t.teardown(() => silent.close())
    await once(silent, 'listening')
    const app = await guardedApp(t, { redis: { port: (silent.address() as { port: number }).port }, connectTimeout: 60_000 }, { pluginTimeout: 1000 })
    t.equal(app.redisGuard.status.store, 'memory')
    const patient = await guardedApp(t, { redis: { port: (silent.address() as { port: number }).port }, connectTimeout: 300 }, { pluginTimeout: 0 })
    t.equal(patient.redisGuard.status.store, 'memory')
  })

  t.test('does not wait for a Redis that refuses, and uses it as soon as it is there', async t => {
    const port = await freePort()
    const startMs = performance.now()
    const app = await guardedApp(t, { redis: `redis://127.0.0.1:${port}`, connectTimeout: 5000 })
    t.ok(performance.now() - startMs < 1500, `${performance.now() - startMs} ms`)
    t.match(app.redisGuard.status, { store: 'memory', breaker: 'open', reason: /ECONNREFUSED/ })
    app.get('/', async () => 'ok')
    t.equal((await app.inject('/')).statusCode, 200)
    const server = await startRedis(t, '--port', String(port))
    await until(() => app.redisGuard.status.store === 'redis', 1500)
    t.equal((await app.inject('/')).statusCode, 200)
    t.ok(server)
  })

  t.test('waits no longer than connectTimeout for one that accepts and says nothing', async t => {
    const silent = createServer(socket => socket.on('error', () => {})).listen(0, '127.0.0.1')
    t.teardown(() => silent.close())
    await once(silent, 'listening')
    const startMs = performance.now()
    const app = await guardedApp(t, { redis: { port: (silent.address() as { port: number }).port }, connectTimeout: 400 })
    const tookMs = performance.now() - startMs
    t.ok(tookMs >= 390 && tookMs < 1200, `${tookMs} ms`)
    t.equal(app.redisGuard.status.store, 'memory')
    app.get('/', async () => 'ok')
    t.equal((await app.inject('/')).statusCode, 200)
  })
})
