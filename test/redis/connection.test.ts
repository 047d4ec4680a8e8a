/** Connections: the forms of the `redis` option, waiting at the start, and commands in a Cluster. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import keySlot from 'cluster-key-slot'
import { type Cluster, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import redisGuard from '../../lib/index.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import type { RedisOption } from '../../lib/settings/redis-option.js'
import { guardedApp, logTo } from '../support/app.js'
import { Authority } from '../../tools/certificates.js'
import { inRepository } from '../support/paths.js'
import { freePort, Program } from '../../tools/program.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer, tlsArguments } from '../../tools/redis-server.js'
import { Sentinel, sentinelName } from '../../tools/sentinel.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// Each test has its own servers, and mostly waits for them.
t.jobs = 3

const password = 'p@ss:w/o#r%d?& with spaces%20'

async function startRedis (t: Test, ...args: string[]): Promise<RedisServer> {
  const server = await RedisServer.start(...args)
  t.teardown(async () => await server.stop())
  return server
}

/** Starts an application with timeouts so long that a busy machine is no outage. */
async function appOn (
  t: Test, redis: RedisOption, options: RedisGuardOptions = {}, server: FastifyServerOptions = {}
): Promise<FastifyInstance> {
  const app = await guardedApp(t, { redis, commandTimeout: 10_000, connectTimeout: 10_000, ...options }, server)
  app.get('/', async () => 'ok')
  return app
}

/** Waits for the reason: several may alternate. @returns whether memory answers */
async function unusedFor (app: FastifyInstance, reason: RegExp): Promise<boolean> {
  await until(() => reason.test(app.redisGuard.status.reason ?? ''))
  return app.redisGuard.status.store === 'memory'
}

/** The store that an application uses after its start. */
async function storeWith (t: Test, redis: RedisOption): Promise<{ store: string, reason: string | undefined }> {
  const { store, reason } = (await appOn(t, redis)).redisGuard.status
  return { store, reason }
}

type Variables = Record<string, string>

/** The stores and answers of services that start with these environments. */
async function answersWith (t: Test, environments: readonly Variables[], env: Variables): Promise<unknown[]> {
  const path = inRepository('test/support/environments.mjs')
  const program = new Program(process.execPath, [path, JSON.stringify(environments)], {
    env: { PATH: process.env['PATH'], ...env }
  })
  t.teardown(async () => await program.stop())
  await program.saying(/^answers .*\n/m, 120_000)
  return JSON.parse(/^answers (.*)/m.exec(program.output)![1]!) as unknown[]
}

t.test('services connect as their environment says', async t => {
  const authority = await Authority.create(t)
  const tls = [...tlsArguments(authority, await authority.issue()), '--tls-auth-clients', 'no']
  const [withTls, withBoth, withPassword] = await Promise.all([
    startRedis(t, ...tls), startRedis(t, ...tls, '--requirepass', password), startRedis(t, '--requirepass', password)
  ])
  const production = { NODE_ENV: 'production', REDIS_TIMEOUT: '10000' }
  const url = `redis://localhost:${withPassword.port}`
  const trusting: [string, Variables, string][] = [
    ['AWS ElastiCache', {
      ...production, REDIS_URL: `redis://localhost:${withTls.port}`, REDIS_TLS: 'true'
    }, 'redis'],
    ['Azure Cache', {
      ...production, REDIS_URL: `redis://localhost:${withBoth.port}`, REDIS_PASSWORD: password, REDIS_TLS: 'true'
    }, 'redis'],
    ['rediss: without REDIS_TLS', { ...production, REDIS_URL: `REDISS://localhost:${withTls.port}` }, 'redis']
  ]
  const others: [string, Variables, string][] = [
    ['Docker Compose', { ...production, REDIS_URL: url, REDIS_PASSWORD: password, REDIS_TLS: 'false' }, 'redis'],
    ['the password in the URL', {
      ...production, REDIS_URL: `redis://:${encodeURIComponent(password)}@localhost:${withPassword.port}`
    }, 'redis'],
    ['REDIS_PASSWORD before the one in the URL', {
      ...production, REDIS_URL: `redis://:wrong@localhost:${withPassword.port}`, REDIS_PASSWORD: password
    }, 'redis'],
    ['a certificate that is not trusted', {
      ...production, REDIS_URL: `rediss://localhost:${withTls.port}`
    }, 'memory'],
    ['no TLS to a server that wants it', { ...production, REDIS_URL: `redis://localhost:${withTls.port}` }, 'memory'],
    ['development', {
      REDIS_URL: `redis://:wrong@localhost:${withPassword.port}`, REDIS_PASSWORD: password
    }, 'memory'],
    ['development with REDIS_ENABLED', { REDIS_URL: url, REDIS_PASSWORD: password, REDIS_ENABLED: 'true' }, 'redis'],
    ['production with REDIS_ENABLED=false', {
      ...production, REDIS_URL: url, REDIS_PASSWORD: password, REDIS_ENABLED: 'false'
    }, 'memory'],
    ['production without REDIS_URL', { ...production, REDIS_URL: '', REDIS_PASSWORD: '' }, 'memory']
  ]
  const trust = { NODE_EXTRA_CA_CERTS: authority.caFile }
  for (const [configurations, env] of [[trusting, trust], [others, {}]] as const) {
    const answers = await answersWith(t, configurations.map(([, variables]) => variables), env)
    t.equal(answers.length, configurations.length)
    configurations.forEach(([name,, store], i) => t.same(answers[i], [store, 200], name))
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

  t.test('a wrong password: memory answers, the reason says so, and no log line contains the password', async t => {
    const lines: Record<string, unknown>[] = []
    const app = await appOn(t, { port, password: 'a wrong secret' }, {}, logTo(lines, 'trace'))
    t.equal((await app.inject('/')).statusCode, 200)
    t.ok(await unusedFor(app, /^Redis cannot be used \(auth\): (WRONGPASS|NOAUTH)/))
    await until(() => lines.length > 3)
    t.notMatch(JSON.stringify(lines), /a wrong secret/)
  })

  t.test('a database that Redis refuses: memory answers, and nothing is counted in another database', async t => {
    const server = await startRedis(t, '--databases', '2')
    const operator = server.client()
    t.teardown(() => operator.disconnect())
    const app = await appOn(t, `${server.url}/2`)
    t.ok(await unusedFor(app, /DB index is out of range/))
    await app.redisGuard.incr('sum')
    t.equal(await operator.info('keyspace'), '# Keyspace\r\n')
    t.match(await storeWith(t, `${server.url}/1`), { store: 'redis' })
  })

  t.test("closing the application leaves the user's client open without our listeners, and closes our own", async t => {
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

t.test('connects to a unix socket', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'redis-'))
  t.teardown(async () => await rm(folder, { recursive: true }))
  await startRedis(t, '--unixsocket', join(folder, 'redis.sock'))
  t.match(await storeWith(t, `unix://${folder}/redis.sock`), { store: 'redis' })
})

t.test('uses the primary that a Sentinel names', async t => {
  const server = await startRedis(t)
  const sentinel = await Sentinel.start(server.port, 60_000)
  t.teardown(async () => await sentinel.stop())
  const redis = { sentinels: [{ host: '127.0.0.1', port: sentinel.port }], name: sentinelName }
  t.match(await storeWith(t, redis), { store: 'redis' })
})

t.test('Cluster', async t => {
  // Long enough that no node is declared gone because it is slow or stopped.
  const cluster = await RedisCluster.start({ args: ['--cluster-node-timeout', '60000'] })
  t.teardown(async () => await cluster.stop())
  const nodes = cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port }))
  const operators = cluster.servers.map(server => server.client())
  t.teardown(() => operators.forEach(operator => operator.disconnect()))
  const addresses = Array.from({ length: 30 }, (_, i) => `192.0.2.${i}`)

  /** Sends the requests in one turn, so that their hits share calls. */
  async function askFor (app: FastifyInstance, addresses: readonly string[]) {
    return await Promise.all(addresses.map(async remoteAddress => await app.inject({ url: '/', remoteAddress })))
  }

  /** The node that has the slot, as far as the application knows. */
  function nodeOf (app: FastifyInstance, slot: number): number {
    const [primary] = (app.redisGuard.client as Cluster).slots[slot]!
    return cluster.servers.findIndex(({ port }) => primary === `127.0.0.1:${port}`)
  }

  t.test('all clients and methods work, whatever slots their keys lie in', async t => {
    const app = await appOn(t, { cluster: nodes }, { max: 1, nameSpace: 'all:' })
    t.equal(app.redisGuard.status.store, 'redis')
    // Two requests of each client.
    const answers = await askFor(app, [...addresses, ...addresses])
    t.same(answers.map(({ statusCode }) => statusCode), [...addresses.map(() => 200), ...addresses.map(() => 429)])
    // These are refused in the process, and added to the counters on all nodes.
    for (const { statusCode } of await askFor(app, addresses)) t.equal(statusCode, 429)
    const client = app.redisGuard.client!
    const keys = addresses.map(address => `all:fixed-window:{${address}}:global`)
    await until(async () => {
      return (await Promise.all(keys.map(async key => await client.get(key)))).every(counted => counted === '1:2')
    })
    for (let i = 0; i < 10; i++) await app.redisGuard.set(`key${i}`, i)
    t.equal(await app.redisGuard.get('key7'), '7')
    await app.redisGuard.blockIP('198.51.100.0/24', 60)
    t.equal(await app.redisGuard.isIPBlocked('198.51.100.9'), true)
    t.equal((await app.redisGuard.getBlockedIPs()).length, 1)
    t.equal((await app.redisGuard.getSuspiciousIPs(100)).length, 30)
    t.ok(await app.redisGuard.clearOldRateLimitEvents(0) >= 30)
    t.equal(app.redisGuard.status.store, 'redis', 'none of it failed')
    await app.close()
  })

  t.test('the hits of one turn take one round trip to each node', async t => {
    const app = await appOn(t, { cluster: nodes }, { syncInterval: 60_000, max: 10, nameSpace: 'turn:' })
    // The first requests load the script on the nodes.
    await askFor(app, addresses)
    const readings = async () => await Promise.all(operators.map(async operator => {
      return Number(/total_reads_processed:(\d+)/.exec(await operator.info('stats'))![1])
    }))
    // In some rounds there is also a heartbeat.
    const least = [Infinity, Infinity, Infinity]
    for (let round = 0; round < 6; round++) {
      const before = await readings()
      const answers = await askFor(app, addresses)
      const after = await readings()
      t.ok(answers.every(({ headers }) => headers['x-ratelimit-remaining'] === String(8 - round)))
      after.forEach((reads, i) => { least[i] = Math.min(least[i]!, reads - before[i]!) })
    }
    // One of the two is the reading itself.
    t.same(least, [2, 2, 2])
    await app.close()
  })

  t.test('a hit whose slot has moved is counted once, on the new node', async t => {
    const app = await appOn(t, { cluster: nodes }, { max: 5, nameSpace: 'moved:' })
    await askFor(app, addresses)
    const key = 'moved:fixed-window:{203.0.113.1}:global'
    const slot = keySlot(key)
    const from = nodeOf(app, slot)
    const to = (from + 1) % 3
    const id = String(await operators[to]!.call('CLUSTER', 'MYID'))
    // Without a new epoch, the other nodes may take the slot back.
    await operators[to]!.call('CLUSTER', 'BUMPEPOCH')
    for (const i of [to, from, 3 - to - from]) await operators[i]!.call('CLUSTER', 'SETSLOT', slot, 'NODE', id)
    const answers = await askFor(app, ['203.0.113.1', '192.0.2.1', '203.0.113.1'])
    t.same(answers.map(({ headers }) => headers['x-ratelimit-remaining']), ['4', '3', '3'])
    t.equal(await operators[to]!.get(key), '2')
    t.equal(app.redisGuard.status.store, 'redis')
    await app.close()
  })

  t.test('a command whose answer was lost is not sent again', async t => {
    const proxies = await Promise.all(cluster.servers.map(async ({ port }) => await TcpProxy.start(port)))
    t.teardown(async () => await Promise.all(proxies.map(async proxy => await proxy.stop())))
    const ports = proxies.map(({ port }) => ({ host: '127.0.0.1', port }))
    const natMap = Object.fromEntries(nodes.map(({ port }, i) => [`127.0.0.1:${port}`, ports[i]!]))
    const app = await appOn(t, { cluster: ports, natMap }, { nameSpace: 'lost:', resetTimeout: 50 })
    t.equal(app.redisGuard.status.store, 'redis')

    const names = Array.from({ length: 12 }, (_, i) => `count${i}`)
    const twelve = (sum: number) => names.map(() => String(sum))
    const sumsOf = async (pattern: string) => {
      const sums = await Promise.all(operators.map(async operator => {
        return await Promise.all((await operator.keys(pattern)).map(async key => await operator.get(key)))
      }))
      return sums.flat()
    }
    const incr = async () => await Promise.all(names.map(async name => await app.redisGuard.incr(name)))
    // This loads the script on the nodes.
    await incr()
    for (const proxy of proxies) proxy.swallowsAnswers = true
    const ofClient = Promise.allSettled(names.map(async name => await app.redisGuard.client!.incr(`lost:own:${name}`)))
    const ofGuard = incr()
    await until(async () => {
      const [own, guarded] = [await sumsOf('lost:own:*'), await sumsOf('lost:value:*')]
      return own.length === 12 && guarded.length === 12 && guarded.every(sum => sum === '2')
    })
    for (const proxy of proxies) proxy.swallowsAnswers = false
    for (const proxy of proxies) proxy.cut()
    t.ok((await ofClient).every(({ status }) => status === 'rejected'))
    await ofGuard
    await until(() => app.redisGuard.status.store === 'redis')
    // ioredis would send the commands again after a tenth of a second.
    await sleep(300)
    t.same(await sumsOf('lost:own:*'), twelve(1))
    // In a Cluster the guard cannot know that they ran, and adds each again, once.
    t.same(await sumsOf('lost:value:*'), twelve(3))
    await app.close()
  })

  t.test('a node that hangs while a slot moves to it does not end the process', async t => {
    const app = await appOn(t, { cluster: nodes }, { commandTimeout: 1000, nameSpace: 'hangs:' })
    await until(() => app.redisGuard.status.store === 'redis')
    const slot = keySlot('203.0.113.2')
    const from = nodeOf(app, slot)
    const to = (from + 1) % 3
    const ids = await Promise.all(operators.map(async operator => String(await operator.call('CLUSTER', 'MYID'))))
    await operators[to]!.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', ids[from]!)
    await operators[from]!.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', ids[to]!)
    const hung =
      (app.redisGuard.client as Cluster).nodes('master').find(({ options }) => options.port === nodes[to]!.port)!
    let asked = 0
    const asking = hung.asking.bind(hung)
    hung.asking = () => {
      asked++
      return asking()
    }
    cluster.servers[to]!.signal('SIGSTOP')
    t.equal((await app.inject({ url: '/', remoteAddress: '203.0.113.2' })).statusCode, 200)
    t.equal(app.redisGuard.status.store, 'memory')
    t.ok(asked > 0)
    // The ping times out after everything sent before it, including ASKING.
    await t.rejects(hung.ping())
    await setImmediate()
    cluster.servers[to]!.signal('SIGCONT')
    for (const i of [to, from]) await operators[i]!.call('CLUSTER', 'SETSLOT', slot, 'NODE', ids[to]!)
    await until(() => app.redisGuard.status.store === 'redis')
    await app.close()
  })
})

t.test('starting up', async t => {
  // With this timeout, a start that waits would never end in the test.
  const patient = { connectTimeout: 600_000, commandTimeout: 10_000 }
  const unlimited = { pluginTimeout: 0 }

  /** @returns the port of a server that accepts connections and sends nothing */
  async function startSilent (t: Test): Promise<number> {
    const silent = createServer(socket => socket.on('error', () => {})).listen(0, '127.0.0.1')
    t.teardown(() => silent.close())
    await once(silent, 'listening')
    return (silent.address() as { port: number }).port
  }

  t.test('does not wait for a Redis that is full', async t => {
    const server = await startRedis(t, '--maxmemory', '1')
    const app = await appOn(t, server.url, patient, unlimited)
    t.ok(await unusedFor(app, /\(oom\)/))
  })

  t.test('stays on memory, and logs it once, if Redis allows no scripts', async t => {
    const server = await startRedis(t, '--rename-command', 'EVALSHA', '')
    const lines: Record<string, unknown>[] = []
    const app = await appOn(t, server.url, { resetTimeout: 50 }, logTo(lines))
    await until(async () => /errors_total\{kind="reply"\} [4-9]/.test((await app.inject('/metrics')).body))
    t.ok(await unusedFor(app, /unknown command/))
    t.equal(lines.length, 1)
  })

  t.test('ends in time for Fastify, whatever connectTimeout is', async t => {
    const port = await startSilent(t)
    const app = await appOn(t, { port }, { connectTimeout: 60_000 }, { pluginTimeout: 2000 })
    t.equal(app.redisGuard.status.store, 'memory')
    const other = await appOn(t, { port }, { connectTimeout: 100 }, unlimited)
    t.equal(other.redisGuard.status.store, 'memory')
  })

  t.test('does not wait for a Redis that refuses connections, and uses it as soon as it is up', async t => {
    const port = await freePort()
    const app = await appOn(t, `redis://127.0.0.1:${port}`, patient, unlimited)
    t.ok(await unusedFor(app, /ECONNREFUSED/))
    t.not(app.redisGuard.status.breaker, 'closed')
    t.equal((await app.inject('/')).statusCode, 200)
    await startRedis(t, '--port', String(port))
    await until(() => app.redisGuard.status.store === 'redis')
    t.equal((await app.inject('/')).statusCode, 200)
  })

  t.test('waits no longer than connectTimeout for a Redis that accepts connections and sends nothing', async t => {
    const port = await startSilent(t)
    const startMs = performance.now()
    const app = await appOn(t, { port }, { connectTimeout: 400, commandTimeout: 100 })
    const tookMs = performance.now() - startMs
    // Far below the timeout of Fastify, which would be the next one.
    t.ok(tookMs >= 390 && tookMs < 4000, `${tookMs} ms`)
    t.equal(app.redisGuard.status.store, 'memory')
    t.equal((await app.inject('/')).statusCode, 200)
  })
})
