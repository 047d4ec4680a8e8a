import { X509Certificate } from 'node:crypto'
import { lookup } from 'node:dns'
import { once } from 'node:events'
import { performance } from 'node:perf_hooks'
import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import type { PeerCertificate, TLSSocket } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import type { ClusterOptions, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { guardedApp } from '../support/app.js'
import { Authority, type Certificate } from '../support/certificates.js'
import { Instance } from '../support/instance.js'
import { RedisCluster } from '../support/redis-cluster.js'
import { RedisServer, tlsArguments } from '../support/redis-server.js'
import { Sentinel, sentinelName } from '../support/sentinel.js'
import { until } from '../support/until.js'

interface Tls { ca: string, cert?: string, key?: string, maxVersion?: 'TLSv1.2' }

interface TlsRedis {
  readonly authority: Authority
  readonly server: Certificate
  /** what a client needs */
  readonly tls: Required<Omit<Tls, 'maxVersion'>>
  readonly url: string
  readonly operator: Redis
}

function pemOf ({ cert, key }: Certificate) {
  return { cert, key }
}

/** A Redis that speaks TLS alone, and to nobody without a certificate of its own authority. */
async function startTls (t: Test, ...args: string[]): Promise<TlsRedis> {
  const authority = await Authority.create(t)
  const [server, client] = [await authority.issue(), await authority.issue()]
  const tls = { ca: authority.ca, ...pemOf(client) }
  const redis = await RedisServer.start(...tlsArguments(authority, server), ...args)
  t.teardown(async () => await redis.stop())
  const operator = redis.client({ tls })
  t.teardown(() => operator.disconnect())
  return { authority, server, tls, url: `rediss://localhost:${redis.port}`, operator }
}

async function useCertificate (operator: Redis, { certFile, keyFile }: Certificate): Promise<void> {
  await operator.call('CONFIG', 'SET', 'tls-cert-file', certFile, 'tls-key-file', keyFile)
}

async function cutOthers (operator: Redis): Promise<void> {
  await operator.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
}

/** Of the certificate that the app's connection was made with. */
function serialOf (app: FastifyInstance): string {
  return ((app.redisGuard.client as Redis).stream as TLSSocket).getPeerCertificate().serialNumber
}

async function failuresOf (app: FastifyInstance, kind: string): Promise<number> {
  return Number(new RegExp(`errors_total{kind="${kind}"} (\\d+)`).exec((await app.inject('/metrics')).body)![1])
}

/** Requests without end from eight clients. */
function load (app: FastifyInstance): { end: () => Promise<{ statuses: number[], longestMs: number, count: number }> } {
  const statuses = new Set<number>()
  const stop = new AbortController()
  let [longestMs, count] = [0, 0]
  const clients = Array.from({ length: 8 }, async (_, i) => {
    while (!stop.signal.aborted) {
      const startMs = performance.now()
      statuses.add((await app.inject({ url: '/', remoteAddress: `192.0.2.${i}` })).statusCode)
      longestMs = Math.max(longestMs, performance.now() - startMs)
      count++
      await sleep(1)
    }
  })
  return {
    end: async () => {
      stop.abort()
      await Promise.all(clients)
      return { statuses: [...statuses], longestMs, count }
    }
  }
}

t.test('a private authority is trusted by tls.ca or by NODE_EXTRA_CA_CERTS, and not without', async t => {
  const { authority, tls, url } = await startTls(t)
  const { cert, key } = tls
  t.equal((await guardedApp(t, { redis: { url, tls } })).redisGuard.status.store, 'redis')
  t.match((await guardedApp(t, { redis: { url, tls: { cert, key } } })).redisGuard.status, { store: 'memory', reason: /\(tls\): (unable to verify|self-signed)/ })
  for (const [store, env] of [['redis', { NODE_EXTRA_CA_CERTS: authority.caFile }], ['memory', {}]] as const) {
    const instance = await Instance.start({ redis: { url, tls: { cert, key } } }, env)
    t.equal(instance.store, store)
    t.equal(await instance.get(), 200)
    await instance.stop()
  }
})

t.test('a client certificate that Redis refuses: kind tls, nobody waits, and Redis is used when it is mended', async t => {
  const { authority, tls, url, operator } = await startTls(t)
  const { ca } = authority
  const stranger = await (await Authority.create(t)).issue()
  const expired = await authority.issue({ days: -1 })
  const refused: [what: string, reason: RegExp, tls: Tls][] = [
    ['none', /certificate required/, { ca }],
    ['none, in TLS 1.2', /handshake failure/, { ca, maxVersion: 'TLSv1.2' }],
    ['of another authority', /unknown ca/, { ca, ...pemOf(stranger) }],
    ['of another authority, in TLS 1.2', /unknown ca/, { ca, ...pemOf(stranger), maxVersion: 'TLSv1.2' }],
    ['expired', /certificate expired/, { ca, ...pemOf(expired) }]
  ]
  const apps = await Promise.all([...refused, ['right', /./, tls] as const].map(async ([,, tls]) => {
    const startMs = performance.now()
    const app = await guardedApp(t, { redis: { url, tls }, max: 1e6 })
    t.ok(performance.now() - startMs < 3000, 'the start does not wait')
    app.get('/', async () => 'ok')
    return app
  }))
  t.equal(apps.pop()!.redisGuard.status.store, 'redis')
  const loads = apps.map(load)
  await sleep(1000)
  for (const [i, [what, reason]] of refused.entries()) {
    const { status } = apps[i]!.redisGuard
    t.match(status, { store: 'memory', reason: /^Redis cannot be used \(tls\): .*\w$/ }, what)
    t.match(status.reason, reason, what)
    t.ok(await failuresOf(apps[i]!, 'tls') > 1, what)
    t.equal(await failuresOf(apps[i]!, 'connection'), 0, what)
  }
  await operator.config('SET', 'tls-auth-clients', 'no')
  await until(() => apps.every(app => app.redisGuard.status.store === 'redis'), 2000)
  for (const [i, { end }] of loads.entries()) {
    const { statuses, longestMs } = await end()
    t.same(statuses, [200], refused[i]![0])
    t.ok(longestMs < 1000, `${longestMs} ms`)
  }
})

t.test('requests go on while the server certificate is replaced', async t => {
  const { authority, server, tls, url, operator } = await startTls(t)
  const app = await guardedApp(t, { redis: { url, tls }, max: 1e6 })
  app.get('/', async () => 'ok')
  const switches: string[] = []
  app.redisGuard.on('switch', ({ store }) => switches.push(store))
  const requests = load(app)
  const first = serialOf(app)
  const id = await (app.redisGuard.client as Redis).client('ID')

  const renewed = await authority.issue()
  await useCertificate(operator, renewed)
  await sleep(300)
  t.equal(await (app.redisGuard.client as Redis).client('ID'), id, 'the connection goes on')
  t.same(switches, [])
  await cutOthers(operator)
  await until(() => switches.length === 2)
  t.same(switches, ['memory', 'redis'])
  t.not(serialOf(app), first, 'and the next one is made with the new certificate')

  const stranger = await Authority.create(t)
  const wrongs: [reason: RegExp, wrong: Certificate][] = [
    [/\(tls\): unable to verify/, await stranger.issue()],
    [/\(tls\): certificate has expired/, await authority.issue({ days: -1 })],
    [/\(tls\): Hostname\/IP does not match/, await authority.issue({ names: 'DNS:redis.example' })]
  ]
  for (const [reason, wrong] of wrongs) {
    switches.length = 0
    const failures = await failuresOf(app, 'tls')
    await useCertificate(operator, wrong)
    await sleep(200)
    t.same(switches, [], 'the connection goes on')
    await cutOthers(operator)
    await until(async () => await failuresOf(app, 'tls') > failures + 2)
    t.same(switches, ['memory'])
    t.match(app.redisGuard.status, { store: 'memory', reason })
    await useCertificate(operator, server)
    const mendedAtMs = performance.now()
    await until(() => app.redisGuard.status.store === 'redis')
    const backMs = performance.now() - mendedAtMs
    t.ok(backMs < 1000, `${backMs} ms`)
    t.comment(`on Redis again within ${backMs.toFixed(0)} ms`)
  }
  const { statuses, longestMs, count } = await requests.end()
  t.same(statuses, [200])
  t.ok(longestMs < 1000, `${longestMs} ms`)
  t.comment(`${count} requests, the longest of ${longestMs.toFixed(0)} ms`)
})

t.test('a new client certificate in the same tls object is used by the next connection, once it fits its key', async t => {
  const { authority, tls, url, operator } = await startTls(t)
  const own = { ...tls }
  const app = await guardedApp(t, { redis: { url, tls: own } })
  const next = await authority.issue()
  own.cert = next.cert
  await cutOthers(operator)
  await until(() => /\(tls\): .*key values mismatch/.test(app.redisGuard.status.reason ?? ''))
  await until(async () => await failuresOf(app, 'tls') > 1)
  t.equal(app.redisGuard.status.store, 'memory')
  own.key = next.key
  await until(() => app.redisGuard.status.store === 'redis', 1500)
  const { raw } = ((app.redisGuard.client as Redis).stream as TLSSocket).getCertificate() as PeerCertificate
  t.equal(new X509Certificate(raw).serialNumber, new X509Certificate(next.cert).serialNumber)
})

t.test('an application whose certificate does not fit its key closes at once, and tries no more', async t => {
  const { authority, tls, url } = await startTls(t)
  const { key } = await authority.issue()
  const app = await guardedApp(t, { redis: { url, tls: { ...tls, key } } })
  const { client } = app.redisGuard
  await until(() => client!.status === 'end')
  let attempts = 0
  client!.on('connecting', () => attempts++)
  await until(() => attempts > 0 && client!.status === 'end')
  await app.close()
  attempts = 0
  await sleep(700)
  t.equal(attempts, 0)
})

t.test('closing in the middle of a handshake that fails does not end the process', async t => {
  const { tls, url } = await startTls(t)
  const { ca } = await Authority.create(t)
  const credentials = () => ({ password: 'not asked for' })
  // Of those without a listener for a second error, three in four had one.
  for (const redis of [{ url, tls: { ...tls, ca } }, { url, tls: { ...tls, ca }, credentials }]) {
    await Promise.all(Array.from({ length: 10 }, async () => {
      const app = await guardedApp(t, { redis })
      await once(app.redisGuard.client!, 'connecting')
      await setImmediate()
      await app.close()
    }))
  }
  // A second error comes within a turn or two of the first.
  await sleep(300)
  t.pass('no uncaught exception')
})

t.test('a retryStrategy that gives up is obeyed', async t => {
  const { tls, url } = await startTls(t)
  const { ca } = await Authority.create(t)
  const app = await guardedApp(t, { redis: { url, tls: { ...tls, ca }, retryStrategy: () => null } })
  await sleep(700)
  t.equal(await failuresOf(app, 'tls'), 1)
  t.equal(app.redisGuard.client!.status, 'end')
})

t.test('redis.credentials over TLS', async t => {
  const { authority, tls, url, operator } = await startTls(t)
  await operator.call('ACL', 'SETUSER', 'app', 'on', '>first', '~*', '+@all')
  let current = { username: 'app', password: 'first' }
  const app = await guardedApp(t, { redis: { url, tls, credentials: async () => current } })
  const whoami = async () => String(await (app.redisGuard.client as Redis).call('ACL', 'WHOAMI'))
  t.equal(await whoami(), 'app')
  await operator.call('ACL', 'SETUSER', 'other', 'on', '>second', '~*', '+@all')
  current = { username: 'other', password: 'second' }
  await app.redisGuard.rotate()
  t.equal(await whoami(), 'other')
  await useCertificate(operator, await authority.issue({ days: -1 }))
  await cutOthers(operator)
  await until(() => /\(tls\): certificate has expired/.test(app.redisGuard.status.reason ?? ''))
  await useCertificate(operator, await authority.issue())
  await until(() => app.redisGuard.status.store === 'redis', 1500)
  t.equal(await whoami(), 'other')
})

t.test('Cluster', async t => {
  const [authority, stranger] = [await Authority.create(t), await Authority.create(t)]
  // As a provider has it: they name hosts, and so do the nodes.
  const server = await authority.issue({ names: 'DNS:localhost' })
  const tls = { ca: authority.ca, ...pemOf(await authority.issue()) }
  const servername = 'localhost'
  const cluster = await RedisCluster.start({
    args: [...tlsArguments(authority, server), '--cluster-announce-hostname', servername, '--cluster-preferred-endpoint-type', 'hostname'],
    client: { tls: { ...tls, servername } }
  })
  t.teardown(async () => await cluster.stop())
  const operators = cluster.servers.map(server => server.client({ tls: { ...tls, servername } }))
  t.teardown(() => operators.forEach(operator => operator.disconnect()))
  const ports = cluster.servers.map(({ port }) => port)
  const dnsLookup: ClusterOptions['dnsLookup'] = (host, done) => done(null, host)

  t.test('is used, whatever form the nodes are given in', async t => {
    const nodes = ports.map(port => ({ host: 'localhost', port }))
    t.equal((await guardedApp(t, { redis: { cluster: nodes, dnsLookup, redisOptions: { tls } } })).redisGuard.status.store, 'redis')
    t.equal((await guardedApp(t, { redis: { cluster: nodes, redisOptions: { tls } } })).redisGuard.status.store, 'redis')
    t.equal((await guardedApp(t, { redis: { cluster: nodes, redisOptions: { tls: { ...tls, servername } } } })).redisGuard.status.store, 'redis')
    const one = [`rediss://localhost:${ports[0]!}`]
    t.equal((await guardedApp(t, { redis: { cluster: one, dnsLookup, redisOptions: { tls } } })).redisGuard.status.store, 'redis')

    // By its URL alone; the first node is looked up, and so is an address.
    const withAddress = await authority.issue()
    await Promise.all(operators.map(async operator => {
      await useCertificate(operator, withAddress)
      await operator.config('SET', 'tls-auth-clients', 'no')
    }))
    const instance = await Instance.start({ redis: { cluster: one } }, { NODE_EXTRA_CA_CERTS: authority.caFile })
    t.equal(instance.store, 'redis')
    await instance.stop()
    await Promise.all(operators.map(async operator => {
      await useCertificate(operator, server)
      await operator.config('SET', 'tls-auth-clients', 'yes')
    }))
  })

  t.test('says why it cannot be used, and goes on saying so', async t => {
    const nodes = ports.map(port => ({ host: 'localhost', port }))
    const wrongs: [reason: RegExp, options: ClusterOptions][] = [
      [/\(tls\): .*certificate required/, { redisOptions: { tls: { ca: tls.ca, servername } } }],
      [/\(tls\): (unable to verify|self-signed)/, { redisOptions: { tls: { ...tls, ca: stranger.ca, servername } } }],
      // By a lookup that replaces the names of nodes.
      [/\(tls\): Hostname\/IP does not match/, { dnsLookup: lookup, redisOptions: { tls } }]
    ]
    for (const [reason, options] of wrongs) {
      const app = await guardedApp(t, { redis: { cluster: nodes, ...options } })
      await until(() => reason.test(app.redisGuard.status.reason ?? ''))
      const before = await failuresOf(app, 'cluster')
      const seen = new Set<string>()
      for (let i = 0; i < 100; i++, await sleep(10)) seen.add(app.redisGuard.status.reason!)
      // Or that ioredis broke a handshake off, since other nodes had refused.
      for (const other of seen) t.match(other, /\(tls\)/)
      t.equal(await failuresOf(app, 'cluster'), before)
    }
  })

  t.test('is used again when the right certificates are back', async t => {
    const app = await guardedApp(t, { redis: { cluster: ports.map(port => ({ host: 'localhost', port })), dnsLookup, redisOptions: { tls } } })
    const wrong = await stranger.issue({ names: 'DNS:localhost' })
    await Promise.all(operators.map(async operator => await useCertificate(operator, wrong)))
    t.equal(app.redisGuard.status.store, 'redis')
    await Promise.all(operators.map(cutOthers))
    await until(() => /\(tls\)/.test(app.redisGuard.status.reason ?? ''))
    await Promise.all(operators.map(async operator => await useCertificate(operator, server)))
    await until(() => app.redisGuard.status.store === 'redis', 2000)
  })

  t.test('does not say so any more when the nodes are gone', async t => {
    const app = await guardedApp(t, { redis: { cluster: ports.map(port => ({ host: 'localhost', port })), dnsLookup: lookup, redisOptions: { tls } } })
    await until(() => /\(tls\)/.test(app.redisGuard.status.reason ?? ''))
    await Promise.all(cluster.servers.map(async server => await server.kill()))
    await until(() => /\(cluster\)/.test(app.redisGuard.status.reason ?? ''))
    t.equal(app.redisGuard.status.store, 'memory')
  })
})

t.test('Sentinel: tls is for the primary, sentinelTLS for the Sentinels', async t => {
  const authority = await Authority.create(t)
  const server = await authority.issue()
  const tls = { ca: authority.ca, ...pemOf(await authority.issue()) }
  const redis = await RedisServer.start(...tlsArguments(authority, server))
  t.teardown(async () => await redis.stop())
  const sentinel = await Sentinel.start(redis.port, 1000, tlsArguments(authority, server))
  t.teardown(async () => await sentinel.stop())
  const named = { sentinels: [{ host: '127.0.0.1', port: sentinel.port }], name: sentinelName, sentinelTLS: tls }
  const app = await guardedApp(t, { redis: { ...named, tls } })
  t.equal(app.redisGuard.status.store, 'redis')
  t.ok(((app.redisGuard.client as Redis).stream as TLSSocket).encrypted)
  const unknown = await guardedApp(t, { redis: { ...named, tls: {} } })
  await until(() => /\(tls\): (unable to verify|self-signed)/.test(unknown.redisGuard.status.reason ?? ''))
  t.equal(unknown.redisGuard.status.store, 'memory')
})
