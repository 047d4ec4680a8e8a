/** Redis over TLS: which certificates are trusted, the reason given for others, and how the guard recovers. */
import { X509Certificate } from 'node:crypto'
import { lookup } from 'node:dns'
import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import type { PeerCertificate, TLSSocket } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import type { ClusterOptions, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { RedisOption } from '../../lib/settings/redis-option.js'
import { guardedApp } from '../support/app.js'
import { Authority, type Certificate } from '../../tools/certificates.js'
import { Instance } from '../support/instance.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer, tlsArguments } from '../../tools/redis-server.js'
import { Sentinel, sentinelName } from '../../tools/sentinel.js'
import { until } from '../../tools/until.js'

interface Tls { ca: string, cert?: string, key?: string, maxVersion?: 'TLSv1.2' }

interface TlsRedis {
  readonly url: string
  readonly operator: Redis
}

function pemOf ({ cert, key }: Certificate) {
  return { cert, key }
}

// Each test has its own servers, and mostly waits for them.
t.jobs = 3

/** One authority that all tests trust, and one that none trusts. */
const [authority, stranger] = await Promise.all([Authority.create(t), Authority.create(t)])
const [server, renewed, ofClient, expired, ofStranger] = await Promise.all([
  authority.issue(), authority.issue(), authority.issue(), authority.issue({ days: -1 }), stranger.issue()
])
/** The TLS options of a client. */
const tls = { ca: authority.ca, ...pemOf(ofClient) }

/** A Redis that accepts only TLS, with a client certificate of the authority. */
async function startTls (t: Test): Promise<TlsRedis> {
  const redis = await RedisServer.start(...tlsArguments(authority, server))
  t.teardown(async () => await redis.stop())
  const operator = redis.client({ tls })
  t.teardown(() => operator.disconnect())
  return { url: `rediss://localhost:${redis.port}`, operator }
}

/** Starts an application with timeouts so long that a busy machine is no outage. */
async function appOn (t: Test, redis: RedisOption): Promise<FastifyInstance> {
  const app = await guardedApp(t, { redis, max: 1e6, commandTimeout: 10_000, connectTimeout: 10_000 })
  app.get('/', async () => 'ok')
  return app
}

async function useCertificate (operator: Redis, { certFile, keyFile }: Certificate): Promise<void> {
  await operator.call('CONFIG', 'SET', 'tls-cert-file', certFile, 'tls-key-file', keyFile)
}

async function cutOthers (operator: Redis): Promise<void> {
  await operator.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
}

/** The serial number of the server certificate on the application's connection. */
function serialOf (app: FastifyInstance): string {
  return ((app.redisGuard.client as Redis).stream as TLSSocket).getPeerCertificate().serialNumber
}

async function failuresOf (app: FastifyInstance, kind: string): Promise<number> {
  return Number(new RegExp(`errors_total{kind="${kind}"} (\\d+)`).exec((await app.inject('/metrics')).body)![1])
}

/** Sends requests of some clients without end. @returns a function that stops them and returns all statuses */
function load (app: FastifyInstance, clientCount: number): () => Promise<number[]> {
  const statuses = new Set<number>()
  const stop = new AbortController()
  const clients = Array.from({ length: clientCount }, async (_, i) => {
    while (!stop.signal.aborted) {
      statuses.add((await app.inject({ url: '/', remoteAddress: `192.0.2.${i}` })).statusCode)
      await sleep(20)
    }
  })
  return async () => {
    stop.abort()
    await Promise.all(clients)
    return [...statuses]
  }
}

/** Expects the same connection to be still in use: it answers, so nothing that happened before closed it. */
async function answersFromRedis (t: Test, app: FastifyInstance, id: unknown): Promise<void> {
  t.equal((await app.inject('/')).statusCode, 200)
  t.equal(await (app.redisGuard.client as Redis).client('ID'), id, 'the connection is the same')
}

t.test('trusts a private authority by tls.ca or NODE_EXTRA_CA_CERTS, and not without', async t => {
  const { url } = await startTls(t)
  const { cert, key } = tls
  t.equal((await appOn(t, { url, tls })).redisGuard.status.store, 'redis')
  const distrusting = await appOn(t, { url, tls: { cert, key } })
  await until(() => /\(tls\): (unable to verify|self-signed)/.test(distrusting.redisGuard.status.reason ?? ''))
  t.equal(distrusting.redisGuard.status.store, 'memory')
  const options = { redis: { url, tls: { cert, key } }, commandTimeout: 10_000 }
  const instance = await Instance.start(options, { NODE_EXTRA_CA_CERTS: authority.caFile })
  t.equal(instance.store, 'redis')
  t.equal(await instance.get(), 200)
  await instance.stop()
})

t.test('a refused client certificate is of kind tls; no request waits, and Redis is used once it is fixed', async t => {
  const { url, operator } = await startTls(t)
  const { ca } = authority
  const refused: [what: string, reason: RegExp, tls: Tls][] = [
    ['none', /certificate required/, { ca }],
    ['none, in TLS 1.2', /handshake failure/, { ca, maxVersion: 'TLSv1.2' }],
    ['of another authority', /unknown ca/, { ca, ...pemOf(ofStranger) }],
    ['of another authority, in TLS 1.2', /unknown ca/, { ca, ...pemOf(ofStranger), maxVersion: 'TLSv1.2' }],
    ['expired', /certificate expired/, { ca, ...pemOf(expired) }]
  ]
  // With this timeout, a start that waits would never end in the test.
  const patient = { connectTimeout: 600_000, commandTimeout: 10_000 }
  const apps = await Promise.all([...refused, ['right', /./, tls] as const].map(async ([,, tls]) => {
    const app = await guardedApp(t, { redis: { url, tls }, max: 1e6, ...patient }, { pluginTimeout: 0 })
    app.get('/', async () => 'ok')
    return app
  }))
  t.equal(apps.pop()!.redisGuard.status.store, 'redis')
  const loads = apps.map(app => load(app, 2))
  for (const [i, [what, reason]] of refused.entries()) {
    const app = apps[i]!
    await until(async () => await failuresOf(app, 'tls') > 1)
    let status = app.redisGuard.status
    await until(() => {
      status = app.redisGuard.status
      return reason.test(status.reason ?? '')
    })
    t.match(status, { store: 'memory', reason: /^Redis cannot be used \(tls\): .*\w$/ }, what)
    t.equal(await failuresOf(app, 'connection'), 0, what)
    // Requests that waited for Redis would get no answer before the certificate is fixed.
    t.equal((await app.inject('/')).statusCode, 200, what)
  }
  await operator.config('SET', 'tls-auth-clients', 'no')
  await until(() => apps.every(app => app.redisGuard.status.store === 'redis'))
  for (const [i, end] of loads.entries()) t.same(await end(), [200], refused[i]![0])
})

t.test('requests succeed while the server certificate is replaced', async t => {
  const { url, operator } = await startTls(t)
  const app = await appOn(t, { url, tls })
  const switches: string[] = []
  app.redisGuard.on('switch', ({ store }) => switches.push(store))
  const end = load(app, 8)
  const first = serialOf(app)
  const idOf = async () => await (app.redisGuard.client as Redis).client('ID')

  const id = await idOf()
  await useCertificate(operator, renewed)
  await answersFromRedis(t, app, id)
  t.same(switches, [])
  await cutOthers(operator)
  await until(() => switches.length === 2)
  t.same(switches, ['memory', 'redis'])
  t.not(serialOf(app), first, 'the next connection uses the new certificate')

  const wrongs: [reason: RegExp, wrong: Certificate][] = [
    [/\(tls\): unable to verify/, ofStranger],
    [/\(tls\): certificate has expired/, expired],
    [/\(tls\): Hostname\/IP does not match/, await authority.issue({ names: 'DNS:redis.example' })]
  ]
  for (const [reason, wrong] of wrongs) {
    switches.length = 0
    const failures = await failuresOf(app, 'tls')
    const id = await idOf()
    await useCertificate(operator, wrong)
    await answersFromRedis(t, app, id)
    t.same(switches, [])
    await cutOthers(operator)
    await until(async () => await failuresOf(app, 'tls') > failures + 2)
    t.same(switches, ['memory'])
    await until(() => reason.test(app.redisGuard.status.reason ?? ''))
    t.equal(app.redisGuard.status.store, 'memory')
    t.equal((await app.inject('/')).statusCode, 200, 'memory answers before Redis is back')
    await useCertificate(operator, server)
    await until(() => app.redisGuard.status.store === 'redis')
  }
  t.same(await end(), [200])
})

t.test('a new client certificate in the same tls object is used once it fits its key', async t => {
  const { url, operator } = await startTls(t)
  const own = { ...tls }
  const app = await appOn(t, { url, tls: own })
  own.cert = renewed.cert
  await cutOthers(operator)
  await until(() => /\(tls\): .*key values mismatch/.test(app.redisGuard.status.reason ?? ''))
  await until(async () => await failuresOf(app, 'tls') > 1)
  t.equal(app.redisGuard.status.store, 'memory')
  own.key = renewed.key
  await until(() => app.redisGuard.status.store === 'redis')
  const { raw } = ((app.redisGuard.client as Redis).stream as TLSSocket).getCertificate() as PeerCertificate
  t.equal(new X509Certificate(raw).serialNumber, new X509Certificate(renewed.cert).serialNumber)
})

/** Counts the attempts of the application's client to connect, from now on. */
function attemptsOf (app: FastifyInstance): { count: number } {
  const attempts = { count: 0 }
  app.redisGuard.client!.on('connecting', () => attempts.count++)
  return attempts
}

t.test('an application whose certificate does not fit its key closes at once, and stops trying', async t => {
  const { url } = await startTls(t)
  const redis = { url, tls: { ...tls, key: renewed.key } }
  const [app, other] = [await appOn(t, redis), await appOn(t, redis)]
  const [attempts, later] = [attemptsOf(app), attemptsOf(other)]
  await until(() => attempts.count > 0 && app.redisGuard.client!.status === 'end')
  await app.close()
  attempts.count = later.count = 0
  // A delay is between a quarter and half a second.
  await until(() => later.count > 2)
  t.equal(attempts.count, 0)
})

t.test('closing in the middle of a failing handshake does not end the process', async t => {
  const { url, operator } = await startTls(t)
  const { ca } = stranger
  const credentials = () => ({ password: 'not asked for' })
  // Without a listener for a second error, three in four ended the process.
  for (const redis of [{ url, tls: { ...tls, ca } }, { url, tls: { ...tls, ca }, credentials }]) {
    await Promise.all(Array.from({ length: 8 }, async () => {
      const app = await appOn(t, redis)
      await new Promise<void>(resolve => app.redisGuard.client!.once('connecting', () => resolve()))
      await setImmediate()
      await app.close()
    }))
  }
  // A second error follows the first within two turns: long before the server has closed all connections and answers.
  await until(async () => String(await operator.client('LIST')).trim().split('\n').length === 1)
  await operator.ping()
  t.pass('no uncaught exception')
})

t.test('a retryStrategy that gives up is followed', async t => {
  const { url } = await startTls(t)
  const { ca } = stranger
  const app = await appOn(t, { url, tls: { ...tls, ca }, retryStrategy: () => null })
  await until(() => app.redisGuard.client!.status === 'end')
  const attempts = attemptsOf(app)
  const other = attemptsOf(await appOn(t, { url, tls: { ...tls, key: renewed.key } }))
  // Each attempt follows a delay between a quarter and half a second.
  await until(() => other.count > 2)
  t.equal(attempts.count, 0)
  t.equal(await failuresOf(app, 'tls'), 1)
  t.equal(app.redisGuard.client!.status, 'end')
})

t.test('rotate works over TLS, and credentials survive a change of certificates', async t => {
  const { url, operator } = await startTls(t)
  await operator.call('ACL', 'SETUSER', 'app', 'on', '>first', '~*', '+@all')
  let current = { username: 'app', password: 'first' }
  const app = await appOn(t, { url, tls, credentials: async () => current })
  const whoami = async () => String(await (app.redisGuard.client as Redis).call('ACL', 'WHOAMI'))
  t.equal(await whoami(), 'app')
  await operator.call('ACL', 'SETUSER', 'other', 'on', '>second', '~*', '+@all')
  current = { username: 'other', password: 'second' }
  await app.redisGuard.rotate()
  t.equal(await whoami(), 'other')
  await useCertificate(operator, expired)
  await cutOthers(operator)
  await until(() => /\(tls\): certificate has expired/.test(app.redisGuard.status.reason ?? ''))
  await useCertificate(operator, renewed)
  await until(() => app.redisGuard.status.store === 'redis')
  t.equal(await whoami(), 'other')
})

t.test('Cluster', async t => {
  // Like a provider: the nodes are configured and announced by host name.
  const named = await authority.issue({ names: 'DNS:localhost' })
  const servername = 'localhost'
  const cluster = await RedisCluster.start({
    args: [
      ...tlsArguments(authority, named), '--cluster-announce-hostname', servername, '--cluster-preferred-endpoint-type',
      'hostname'
    ],
    client: { tls: { ...tls, servername } }
  })
  t.teardown(async () => await cluster.stop())
  const operators = cluster.servers.map(server => server.client({ tls: { ...tls, servername } }))
  t.teardown(() => operators.forEach(operator => operator.disconnect()))
  const ports = cluster.servers.map(({ port }) => port)
  const dnsLookup: ClusterOptions['dnsLookup'] = (host, done) => done(null, host)

  const nodes = ports.map(port => ({ host: 'localhost', port }))

  t.test('is used, in whatever form the nodes are given', async t => {
    const one = [`rediss://localhost:${ports[0]!}`]
    const forms: RedisOption[] = [
      { cluster: nodes, dnsLookup, redisOptions: { tls } },
      { cluster: nodes, redisOptions: { tls } },
      { cluster: nodes, redisOptions: { tls: { ...tls, servername } } },
      { cluster: one, dnsLookup, redisOptions: { tls } }
    ]
    for (const redis of forms) t.equal((await appOn(t, redis)).redisGuard.status.store, 'redis')

    // With the URL alone, the first node is looked up by name, which gives an address.
    await Promise.all(operators.map(async operator => {
      await useCertificate(operator, server)
      await operator.config('SET', 'tls-auth-clients', 'no')
    }))
    const options = { redis: { cluster: one }, commandTimeout: 10_000 }
    const instance = await Instance.start(options, { NODE_EXTRA_CA_CERTS: authority.caFile })
    t.equal(instance.store, 'redis')
    await instance.stop()
    await Promise.all(operators.map(async operator => {
      await useCertificate(operator, named)
      await operator.config('SET', 'tls-auth-clients', 'yes')
    }))
  })

  t.test('gives the reason that it cannot be used, and keeps giving it', async t => {
    const wrongs: [reason: RegExp, options: ClusterOptions][] = [
      [/\(tls\): .*certificate required/, { redisOptions: { tls: { ca: tls.ca, servername } } }],
      [/\(tls\): (unable to verify|self-signed)/, { redisOptions: { tls: { ...tls, ca: stranger.ca, servername } } }],
      // This lookup replaces the names of nodes by addresses.
      [/\(tls\): Hostname\/IP does not match/, { dnsLookup: lookup, redisOptions: { tls } }]
    ]
    await Promise.all(wrongs.map(async ([reason, options]) => {
      const app = await appOn(t, { cluster: nodes, ...options })
      await until(() => reason.test(app.redisGuard.status.reason ?? ''))
      const before = await failuresOf(app, 'cluster')
      const attempts = attemptsOf(app)
      const seen = new Set<string>()
      await until(() => {
        seen.add(app.redisGuard.status.reason!)
        return attempts.count > 3
      })
      // It never says that ioredis broke off a handshake because other nodes refused.
      for (const other of seen) t.match(other, /\(tls\)/)
      t.equal(await failuresOf(app, 'cluster'), before)
    }))
  })

  t.test('is used again when the right certificates are back', async t => {
    const app = await appOn(t, { cluster: nodes, dnsLookup, redisOptions: { tls } })
    const wrong = await stranger.issue({ names: 'DNS:localhost' })
    await Promise.all(operators.map(async operator => await useCertificate(operator, wrong)))
    t.equal(app.redisGuard.status.store, 'redis')
    await Promise.all(operators.map(cutOthers))
    await until(() => /\(tls\)/.test(app.redisGuard.status.reason ?? ''))
    await Promise.all(operators.map(async operator => await useCertificate(operator, named)))
    await until(() => app.redisGuard.status.store === 'redis')
  })

  t.test('gives another reason when the nodes are gone', async t => {
    const app = await appOn(t, { cluster: nodes, dnsLookup: lookup, redisOptions: { tls } })
    await until(() => /\(tls\)/.test(app.redisGuard.status.reason ?? ''))
    await Promise.all(cluster.servers.map(async server => await server.kill()))
    await until(() => /\(cluster\)/.test(app.redisGuard.status.reason ?? ''))
    t.equal(app.redisGuard.status.store, 'memory')
  })
})

t.test('with Sentinels, tls is for the primary and sentinelTLS for the Sentinels', async t => {
  const redis = await RedisServer.start(...tlsArguments(authority, server))
  t.teardown(async () => await redis.stop())
  const sentinel = await Sentinel.start(redis.port, 60_000, tlsArguments(authority, server))
  t.teardown(async () => await sentinel.stop())
  const named = { sentinels: [{ host: '127.0.0.1', port: sentinel.port }], name: sentinelName, sentinelTLS: tls }
  const app = await appOn(t, { ...named, tls })
  t.equal(app.redisGuard.status.store, 'redis')
  t.ok(((app.redisGuard.client as Redis).stream as TLSSocket).encrypted)
  const unknown = await appOn(t, { ...named, tls: {} })
  await until(() => /\(tls\): (unable to verify|self-signed)/.test(unknown.redisGuard.status.reason ?? ''))
  t.equal(unknown.redisGuard.status.store, 'memory')
})
