/** The credentials function: when it is called, what its answers do, and that they are not shown. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { CredentialsSource, RedisCredentials } from '../../lib/index.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { guardedApp, logTo } from '../support/app.js'
import { Authority } from '../../tools/certificates.js'
import { freePort } from '../../tools/program.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer, tlsArguments } from '../../tools/redis-server.js'
import { Sentinel, sentinelName } from '../../tools/sentinel.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// Each test has its own servers, and mostly waits for them.
t.jobs = 3

const secret = 'hunter2-p@ss:w/o#r%d?&"\\'

async function startRedis (t: Test, ...args: string[]): Promise<RedisServer> {
  const server = await RedisServer.start(...args)
  t.teardown(async () => await server.stop())
  return server
}

/** A server with the user `app`, and an operator's client of the default user. */
async function startWithUser (t: Test, password: string): Promise<{ port: number, operator: Redis }> {
  const server = await startRedis(t)
  const operator = server.client()
  t.teardown(() => operator.disconnect())
  await operator.call('ACL', 'SETUSER', 'app', 'on', `>${password}`, '~*', '+@all')
  return { port: server.port, operator }
}

/** Starts an application with timeouts so long that a busy machine is no outage. */
async function appOn (
  t: Test, redis: RedisGuardOptions['redis'], options: RedisGuardOptions = {}, server: FastifyServerOptions = {}
): Promise<FastifyInstance> {
  const app = await guardedApp(t, { redis, commandTimeout: 10_000, connectTimeout: 10_000, ...options }, server)
  app.get('/', async () => 'ok')
  return app
}

const idOf = async (app: FastifyInstance) => await (app.redisGuard.client as Redis).client('ID')

t.test('calls the function at each connect, and uses its answer', async t => {
  const { port, operator } = await startWithUser(t, 'first')
  let [password, asked] = ['first', 0]
  const credentials = () => {
    asked++
    return { username: 'app', password }
  }
  const app = await appOn(t, { port, credentials })
  t.equal(app.redisGuard.status.store, 'redis')
  t.equal(asked, 1)
  await operator.call('ACL', 'SETUSER', 'app', '>second', '<first')
  password = 'second'
  await operator.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await until(() => asked === 2 && app.redisGuard.status.store === 'redis')
})

t.test('calls the function for a unix socket and for TLS too', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'redis-'))
  t.teardown(async () => await rm(folder, { recursive: true }))
  const authority = await Authority.create(t)
  const { ca } = authority
  const path = join(folder, 'redis.sock')
  const { port } = await startRedis(
    t,
    '--requirepass',
    secret,
    '--unixsocket',
    path,
    ...tlsArguments(authority, await authority.issue()),
    '--tls-auth-clients',
    'no'
  )
  for (const place of [{ path }, { port, tls: { ca } }, { url: `rediss://localhost:${port}`, tls: { ca } }]) {
    const app = await appOn(t, { ...place, credentials: () => ({ password: secret }) })
    t.match(app.redisGuard.status, { store: 'redis' }, Object.keys(place).join())
  }
})

t.test('calls the function again after an authentication failure', async t => {
  const { port, operator } = await startWithUser(t, 'right')
  let answer = 'wrong'
  const app = await appOn(t, { port, credentials: async () => ({ username: 'app', password: answer }) })
  await until(() => /\(auth\): WRONGPASS/.test(app.redisGuard.status.reason ?? ''))
  t.equal(app.redisGuard.status.store, 'memory')
  answer = 'right'
  await until(() => app.redisGuard.status.store === 'redis')
  // RESET has the effect that Redis no longer knows the user of the connection.
  const switches: string[] = []
  app.redisGuard.on('switch', ({ store }) => switches.push(store))
  await operator.config('SET', 'requirepass', 'not asked for')
  await (app.redisGuard.client as Redis).call('RESET')
  await app.redisGuard.incr('key')
  await until(() => switches.length === 2)
  t.same(switches, ['memory', 'redis'])
  t.equal(String(await (app.redisGuard.client as Redis).call('ACL', 'WHOAMI')), 'app')
})

t.test('credentials may contain any characters', async t => {
  const server = await startRedis(t)
  const operator = server.client()
  t.teardown(() => operator.disconnect())
  for (const password of [secret, ' ', '%41', 'pässwörd 🔑', '\'"`$(x)', 'a\r\nb', '\0', '3', 'x'.repeat(3000)]) {
    await operator.call('ACL', 'SETUSER', 'app', 'reset', 'on', `>${password}`, '~*', '+@all')
    const ways: RedisGuardOptions['redis'][] = [
      { port: server.port, credentials: () => ({ username: 'app', password }) },
      { port: server.port, username: 'app', password },
      `redis://app:${encodeURIComponent(password)}@127.0.0.1:${server.port}`
    ]
    const apps = await Promise.all(ways.map(async redis => await appOn(t, redis)))
    const stores = apps.map(app => app.redisGuard.status.store)
    t.same(stores, ['redis', 'redis', 'redis'], JSON.stringify(password.slice(0, 20)))
    await Promise.all(apps.map(async app => await app.close()))
  }
  await operator.config('SET', 'requirepass', secret)
  const app = await appOn(t, { url: server.url, protocol: 2, credentials: () => ({ password: secret }) })
  t.equal(app.redisGuard.status.store, 'redis', 'without a username, and in RESP2')
})

t.test('a function that fails gives a failure of kind auth that does not quote it, and is called again', async t => {
  const { port } = await startWithUser(t, secret)
  const wrongs: [said: RegExp, source: () => unknown][] = [
    [/failed \(TypeError, E_VAULT\)$/, () => { throw Object.assign(new TypeError(secret), { code: 'E_VAULT' }) }],
    [/failed$/, () => { throw Object.assign(new Error(secret), { name: secret }) }],
    [/failed$/, async () => await Promise.reject(secret)],
    [/did not answer within 300 ms$/, async () => await new Promise(() => {})],
    [/answered a value of type string, not \{ username, password \}$/, () => secret],
    [/answered null, /, () => null],
    [/answered a value of type undefined, /, () => {}],
    [/answered no password$/, () => ({ username: secret })],
    [/answered no password$/, () => ({ password: '' })],
    [/answered a username that is not a string$/, () => ({ username: 1, password: secret })]
  ]
  await Promise.all(wrongs.map(async ([said, wrong]) => {
    let mended = false
    const lines: Record<string, unknown>[] = []
    const source = () => mended ? { username: 'app', password: secret } : wrong() as RedisCredentials
    const app = await appOn(t, { port, credentials: source }, { connectTimeout: 300 }, logTo(lines, 'trace'))
    t.equal((await app.inject('/')).statusCode, 200)
    // The start may end together with the timeout of the function.
    await until(async () => /errors_total\{kind="auth"\} [1-9]/.test((await app.inject('/metrics')).body))
    await t.rejects(app.redisGuard.rotate(), { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'auth', message: said })
    mended = true
    await until(() => app.redisGuard.status.store === 'redis')
    t.notMatch(JSON.stringify(lines), 'hunter2')
  }))
})

t.test('a closed application does not connect when the answer comes', async t => {
  const { port, operator } = await startWithUser(t, secret)
  let answer = (_: RedisCredentials) => {}
  const credentials = async () => await new Promise<RedisCredentials>(resolve => { answer = resolve })
  const app = await appOn(t, { port, credentials }, {}, { pluginTimeout: 2000 })
  const { client } = app.redisGuard
  await app.close()
  answer({ username: 'app', password: secret })
  await until(() => client!.status === 'end')
  t.equal(String(await operator.client('LIST')).match(/user=app/g), null)
})

t.test('of two answers, the one to the later call is used', async t => {
  const { port } = await startWithUser(t, secret)
  const answers: ((_: RedisCredentials) => void)[] = []
  let direct = true
  const credentials: CredentialsSource = async () => {
    return direct ? { username: 'app', password: secret } : await new Promise(resolve => answers.push(resolve))
  }
  const app = await appOn(t, { port, credentials })
  direct = false
  const rotations = [app.redisGuard.rotate(), app.redisGuard.rotate()]
  await until(() => answers.length === 2)
  answers[1]!({ username: 'app', password: secret })
  await rotations[1]
  answers[0]!({ username: 'app', password: 'out of date' })
  await t.resolves(rotations[0]!)
})

t.test('rotate authenticates the open connection again', async t => {
  const { port, operator } = await startWithUser(t, 'first')
  let current: RedisCredentials = { username: 'app', password: 'first' }
  const app = await appOn(t, { port, credentials: async () => current })
  const id = await idOf(app)
  await operator.call('ACL', 'SETUSER', 'other', 'on', '>second', '~*', '+@all')
  current = { username: 'other', password: 'second' }
  await app.redisGuard.rotate()
  t.equal(String(await (app.redisGuard.client as Redis).call('ACL', 'WHOAMI')), 'other')
  t.equal(await idOf(app), id, 'the connection was not dropped')
  current = { username: 'other', password: secret }
  await t.rejects(app.redisGuard.rotate(), { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'auth', message: /WRONGPASS/ })
  t.equal(await idOf(app), id, 'the connection stays even if Redis refuses')
  t.equal(app.redisGuard.status.store, 'redis')
})

t.test('rotate fails without a function, and calls the function while Redis is away', async t => {
  for (const redis of [false, { port: await freePort() }] as const) {
    await t.rejects((await appOn(t, redis)).redisGuard.rotate(), { code: 'GUARD_ERR_NO_CREDENTIALS' })
  }
  let asked = 0
  const credentials = () => {
    asked++
    return { password: secret }
  }
  const app = await appOn(t, { port: await freePort(), credentials })
  const before = asked
  await app.redisGuard.rotate()
  t.ok(asked > before)
})

t.test('rotate reaches a connection whose handshake has already sent the old credentials', async t => {
  const { port, operator } = await startWithUser(t, 'first')
  await operator.call('ACL', 'SETUSER', 'other', 'on', '>second', '~*', '+@all')
  const proxy = await TcpProxy.start(port)
  t.teardown(async () => await proxy.stop())
  let current: RedisCredentials = { username: 'app', password: 'first' }
  const app = await appOn(t, { port: proxy.port, credentials: () => current })
  const { client } = app.redisGuard
  proxy.delayMs = 100
  /** Makes a new connection. Its first answer takes a while. */
  const reconnect = async () => {
    const connected = new Promise<void>(resolve => client!.once('connect', () => resolve()))
    proxy.cut()
    await connected
  }
  await reconnect()
  current = { username: 'other', password: 'second' }
  await app.redisGuard.rotate()
  await until(() => app.redisGuard.status.store === 'redis')
  t.equal(String(await (client as Redis).call('ACL', 'WHOAMI')), 'other')

  // A connection that does not come up is no failure of rotate.
  await reconnect()
  const rotation = app.redisGuard.rotate()
  setImmediate(() => proxy.cut())
  await t.resolves(rotation)

  // A connection that closes is none either: the next one asks for credentials itself.
  await until(() => app.redisGuard.status.store === 'redis')
  const interrupted = app.redisGuard.rotate()
  setImmediate(() => proxy.cut())
  await t.resolves(interrupted)
  await until(() => app.redisGuard.status.store === 'redis')
})

t.test('Cluster', async t => {
  // Long enough that no node is declared gone because it is slow.
  const cluster = await RedisCluster.start({ args: ['--cluster-node-timeout', '60000'] })
  t.teardown(async () => await cluster.stop())
  const nodes = cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port }))

  t.test('a function that fails gives a failure of kind auth', async t => {
    const app = await appOn(t, { cluster: nodes, credentials: () => { throw new Error(secret) } })
    await until(() => /\(auth\): the credentials function failed/.test(app.redisGuard.status.reason ?? ''))
    t.equal(app.redisGuard.status.store, 'memory')
  })

  t.test('the function is called for each node, and rotate reaches all', async t => {
    const operators = cluster.servers.map(server => server.client())
    t.teardown(() => operators.forEach(operator => operator.disconnect()))
    const acl = async (...args: string[]) => {
      await Promise.all(operators.map(async operator => await operator.call('ACL', 'SETUSER', ...args)))
    }
    await acl('app', 'on', '>first', '~*', '+@all')
    await acl('other', 'on', '>second', '~*', '+@all')
    await acl('default', 'off')
    let current: RedisCredentials = { username: 'app', password: 'wrong' }
    const app = await appOn(t, { cluster: nodes, credentials: async () => current })
    await until(() => /\(auth\): WRONGPASS/.test(app.redisGuard.status.reason ?? ''))
    t.equal(app.redisGuard.status.store, 'memory')
    current = { username: 'app', password: 'first' }
    await until(() => app.redisGuard.status.store === 'redis')
    current = { username: 'other', password: 'second' }
    await app.redisGuard.rotate()
    for (const operator of operators) {
      const list = String(await operator.client('LIST'))
      t.match(list, /user=other/)
      t.notMatch(list, /user=app/)
    }
    t.equal(app.redisGuard.status.store, 'redis')
  })
})

t.test('the primary that a Sentinel names gets the credentials', async t => {
  const { port: primary } = await startWithUser(t, secret)
  const sentinel = await Sentinel.start(primary, 60_000)
  t.teardown(async () => await sentinel.stop())
  const sentinels = [{ host: '127.0.0.1', port: sentinel.port }]
  const credentials = () => ({ username: 'app', password: secret })
  const app = await appOn(t, { sentinels, name: sentinelName, credentials })
  t.equal(app.redisGuard.status.store, 'redis')
})

for (const change of ['ACL', 'requirepass'] as const) {
  t.test(`requests succeed while the password of ${change} changes and connections are killed`, async t => {
    const { port, operator } = await startWithUser(t, 'password-0')
    const username = change === 'ACL' ? 'app' : undefined
    if (change === 'requirepass') await operator.config('SET', 'requirepass', 'password-0')
    let password = 'password-0'
    const app = await appOn(t, { port, credentials: async () => ({ username, password }) }, { max: 1e6 })
    t.equal(app.redisGuard.status.store, 'redis')
    const statuses = new Map<number, number>()
    const stop = new AbortController()
    const clients = Array.from({ length: 4 }, async (_, i) => {
      while (!stop.signal.aborted) {
        const { statusCode } = await app.inject({ url: '/', remoteAddress: `192.0.2.${i}` })
        statuses.set(statusCode, (statuses.get(statusCode) ?? 0) + 1)
        await sleep(20)
      }
    })
    let backs = 0
    app.redisGuard.on('switch', ({ store }) => { if (store === 'redis') backs++ })
    for (let i = 1; i <= 4; i++) {
      const next = `password-${i}`
      if (change === 'ACL') await operator.call('ACL', 'SETUSER', 'app', `>${next}`, `<${password}`)
      else await operator.config('SET', 'requirepass', next)
      password = next
      if (i % 2 === 1) await app.redisGuard.rotate()
      await operator.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
      await until(() => backs === i)
    }
    stop.abort()
    await Promise.all(clients)
    t.same([...statuses.keys()], [200])
    t.comment(`${change}: ${statuses.get(200)} requests`)
  })
}

t.test('no log line, error, metric, status or warning contains a password', async t => {
  const { port, operator } = await startWithUser(t, 'right')
  const lines: Record<string, unknown>[] = []
  const seen: unknown[] = [lines]
  const look = async (app: FastifyInstance) => {
    seen.push(
      (await app.inject('/')).body,
      app.redisGuard.status,
      app.redisGuard.warnings,
      (await app.inject('/metrics')).body
    )
    await app.redisGuard.rotate().catch((error: unknown) => seen.push(error))
  }
  const wrong = { username: 'app', password: secret }
  const appWith = async (redis: RedisGuardOptions['redis']) => await appOn(t, redis, {}, logTo(lines, 'trace'))
  await look(await appWith({ port, ...wrong }))
  await look(await appWith(`redis://app:${encodeURIComponent(secret)}@127.0.0.1:${port}`))
  await look(await appWith({ port, credentials: () => wrong }))
  await look(await appWith({ port, credentials: () => { throw new Error(secret, { cause: wrong }) } }))
  let current = { username: 'app', password: 'right' }
  const app = await appWith({ port, credentials: () => current })
  current = wrong
  await look(app)
  await operator.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await until(() => app.redisGuard.status.store === 'memory')
  // It stays in memory: each connect gets the wrong password.
  seen.push(app.redisGuard.status)
  // Redis quotes the arguments of an unknown command.
  const old = await startRedis(t, '--rename-command', 'HELLO', '', '--rename-command', 'AUTH', '')
  await look(await appWith({ port: old.port, ...wrong }))
  t.ok(lines.length > 8)
  const all = { depth: Infinity, showHidden: true, maxArrayLength: Infinity, maxStringLength: Infinity }
  for (const text of [...seen.map(value => JSON.stringify(value)), inspect(seen, all)]) t.notMatch(text, 'hunter2')
  const { client } = app.redisGuard
  t.notMatch(
    inspect((client as Redis).options, { depth: Infinity, showHidden: true }),
    'hunter2',
    "nor in ioredis' options, where a function gives it"
  )
  t.notMatch(JSON.stringify((client as Redis).options), 'hunter2')
})
