/**
 * Functions of the user that ioredis and Node call, and that fail or return nonsense. If one of them ends the process,
 * this file fails.
 */
import { lookup, resolveSrv } from 'node:dns'
import { once } from 'node:events'
import { createServer } from 'node:tls'
import t, { type Test } from 'tap'
import type { RedisOption } from '../../lib/settings/redis-option.js'
import { withSafeFunctions, withSafeTls } from '../../lib/redis/user-functions.js'
import { guardedApp } from '../support/app.js'
import { Authority } from '../../tools/certificates.js'
import { failingAtOnce, failingLater, failingWhenRead } from '../support/failing.js'
import { freePort } from '../../tools/program.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer, tlsArguments } from '../../tools/redis-server.js'
import { Sentinel, sentinelName } from '../../tools/sentinel.js'
import { until } from '../../tools/until.js'

const failing = { ...failingAtOnce, ...failingLater, ...failingWhenRead }

type Call = (...args: unknown[]) => unknown

/** Calls the safe form of a function. */
function safe (name: string, given: unknown, ...args: unknown[]): unknown {
  return (withSafeFunctions({ [name]: given as Call }) as Record<string, Call>)[name]!(...args)
}

function safeTls (name: string, given: unknown, ...args: unknown[]): unknown {
  return (withSafeTls({ [name]: given }) as Record<string, Call>)[name]!(...args)
}

const strategies = ['retryStrategy', 'clusterRetryStrategy', 'sentinelRetryStrategy', 'sentinelReconnectStrategy']

t.test('a retry strategy returns a delay that a timer can run, or ends the attempts', async t => {
  for (const name of [...strategies, 'clusterNodeRetryStrategy']) {
    for (const answer of [0, 1, 1.5, 2 ** 31 - 1, undefined, null, false]) {
      t.equal(safe(name, () => answer, 1), answer, name)
    }
  }
  const nonsense = [NaN, -1, Infinity, 2 ** 31, '100', true, {}, []].map(answer => () => answer)
  for (const given of [...nonsense, ...Object.values(failing)]) {
    for (const name of strategies) {
      const delay = safe(name, given, 1) as number
      t.ok(delay >= 25 && delay <= 50, `${name}: ${delay}`)
    }
    t.equal(safe('clusterNodeRetryStrategy', given, 1), null)
  }
})

t.test('a strategy gets all arguments of ioredis', async t => {
  const seen: unknown[] = []
  safe('clusterRetryStrategy', (...args: unknown[]) => { seen.push(...args) }, 3, 'a reason')
  t.same(seen, [3, 'a reason'])
})

t.test('a natMap that fails or returns no address leaves the address unchanged', async t => {
  const place = { host: 'h', port: 1 }
  t.same(safe('natMap', () => place, 'a:1'), place)
  for (const none of [null, undefined]) t.equal(safe('natMap', () => none, 'a:1'), none)
  const nonsense = [{}, 'h:1', 7, { host: 'h' }, { host: 'h', port: '1' }, { ...place, db: 3 }, [place]].map(answer => {
    return () => answer
  })
  for (const given of [...nonsense, ...Object.values(failing)]) t.equal(safe('natMap', given, 'a:1'), null)
})

t.test('a scaleReads that fails or returns none of the nodes selects the first one', async t => {
  const nodes = [{}, {}]
  t.equal(safe('scaleReads', () => nodes[1], nodes), nodes[1])
  t.same(safe('scaleReads', () => [nodes[1]], nodes), [nodes[1]])
  for (const given of [() => undefined, () => 7, () => [], () => [{}], ...Object.values(failing)]) {
    t.equal(safe('scaleReads', given, nodes), nodes[0])
  }
})

t.test('a reconnectOnError may return anything', async t => {
  for (const answer of [true, 1, 2, 'a']) t.equal(safe('reconnectOnError', () => answer, new Error('x')), answer)
  for (const given of Object.values(failing)) {
    t.same(['READONLY no', 'ERR no'].map(message => safe('reconnectOnError', given, new Error(message))), [true, false])
  }
})

t.test('only undefined trusts a certificate; everything else refuses it with an error', async t => {
  const error = new Error('not this one')
  t.equal(safeTls('checkServerIdentity', () => undefined, 'h', {}), undefined)
  t.equal(safeTls('checkServerIdentity', () => error, 'h', {}), error)
  for (const given of [() => true, () => null, () => 'no', ...Object.values(failing)]) {
    t.match(safeTls('checkServerIdentity', given, 'h', {}), { message: /checkServerIdentity failed/ })
  }
})

t.test('a pskCallback returns a key and an identity of a length that OpenSSL accepts, or null', async t => {
  const answer = { psk: Buffer.alloc(16), identity: 'me' }
  t.equal(safeTls('pskCallback', () => answer, null), answer)
  const nonsense = [
    7, null, {}, { ...answer, psk: 'k' }, { ...answer, psk: Buffer.alloc(257) }, { ...answer, identity: 7 },
    { ...answer, identity: 'm'.repeat(129) }
  ]
  for (const given of [...nonsense.map(answer => () => answer), ...Object.values(failing)]) {
    t.equal(safeTls('pskCallback', given, null), null)
  }
})

t.test('other options stay unchanged, except undefined TLS options', async t => {
  t.same(withSafeFunctions({ retryStrategy: null, host: 'h' }), { retryStrategy: null, host: 'h' })
  t.same(withSafeTls({ ca: 'c', servername: undefined }), { ca: 'c' })
})

/** The answer of the safe form of a lookup, which may be late. */
async function found (wrap: typeof safe, name: string, given: unknown, ...args: unknown[]): Promise<unknown[]> {
  return await new Promise(resolve => { wrap(name, given, ...args, (...answer: unknown[]) => resolve(answer)) })
}

const answering = (...answer: unknown[]) => (...args: unknown[]) => { (args.at(-1) as Call)(...answer) }
// A lookup that never answers is waited for, like any lookup.
const failingLookups =
  Object.fromEntries(Object.entries(failing).filter(([how]) => !how.startsWith('answers what throws')))

t.test('a dnsLookup answers a name or an address, once', async t => {
  t.same(await found(safe, 'dnsLookup', answering(null, '127.0.0.1', 4), 'h'), [null, '127.0.0.1', 4])
  t.same(await found(safe, 'dnsLookup', answering(undefined, 'name'), 'h'), [null, 'name'])
  t.match(await found(safe, 'dnsLookup', answering(new Error('no such name')), 'h'), [{ message: 'no such name' }])
  t.match(await found(safe, 'dnsLookup', answering('no such name'), 'h'), [{ message: 'dnsLookup failed' }])
  for (const nonsense of [undefined, '', 7, {}, ['127.0.0.1']]) {
    t.match(
      await found(safe, 'dnsLookup', answering(null, nonsense), 'h'),
      [{ message: 'dnsLookup did not answer with an address' }]
    )
  }
  for (const [how, given] of Object.entries(failingLookups)) {
    t.type((await found(safe, 'dnsLookup', given, 'h'))[0], Error, how)
  }
  const answers: unknown[] = []
  const twice = (host: unknown, done: Call) => {
    done(null, 'a')
    done(null, 'b')
    throw new Error('and again')
  }
  safe('dnsLookup', twice, 'h', (...answer: unknown[]) => { answers.push(answer) })
  t.same(answers, [[null, 'a']])
})

t.test('a resolveSrv answers records', async t => {
  const record = { name: 'h', port: 1, priority: 0, weight: 0 }
  t.same(await found(safe, 'resolveSrv', answering(null, [record]), 'h'), [null, [record]])
  for (const nonsense of [
    undefined, [], {}, [7], [{ ...record, port: '1' }], [{ ...record, weight: NaN }], [{ ...record, priority: -1 }],
    [{ ...record, name: '' }]
  ]) {
    t.match(
      await found(safe, 'resolveSrv', answering(null, nonsense), 'h'),
      [{ message: 'resolveSrv did not answer with an address' }]
    )
  }
  t.type((await found(safe, 'resolveSrv', resolveSrv, 'name.invalid'))[0], Error)
})

t.test('a lookup answers one address, or all if Node asks for all', async t => {
  const one = [{ address: '127.0.0.1', family: 4 }]
  t.same(await found(safeTls, 'lookup', answering(null, '127.0.0.1', 4), 'h', {}), [null, '127.0.0.1', 4])
  t.same(await found(safeTls, 'lookup', answering(null, '::1'), 'h', {}), [null, '::1', 6])
  t.same(await found(safeTls, 'lookup', answering(null, '127.0.0.1', 4), 'h', { all: true }), [null, one])
  t.same(await found(safeTls, 'lookup', answering(null, one), 'h', { all: true }), [null, one])
  t.same((await found(safeTls, 'lookup', lookup, 'localhost', { all: true, family: 4 })), [null, one])
  for (const options of [{}, { all: true }]) {
    for (const nonsense of [undefined, 'name', 7, [], [7], [{ address: 'name' }]]) {
      t.match(
        await found(safeTls, 'lookup', answering(null, nonsense), 'h', options),
        [{ message: 'lookup did not answer with an address' }]
      )
    }
  }
})

/** The same function with a count of its calls. */
function counted (call: unknown): { readonly call: never, calls: number } {
  const counter = {
    calls: 0,
    call: ((...args: unknown[]) => {
      counter.calls++
      return (call as Call)(...args)
    }) as never
  }
  return counter
}

async function memoryAnswers (t: Test, redis: RedisOption, reason: RegExp): Promise<void> {
  const app = await guardedApp(t, { redis, metrics: false, connectTimeout: 2000, resetTimeout: 50 })
  app.get('/', async () => 'ok')
  await until(() => reason.test(app.redisGuard.status.reason ?? ''))
  t.equal((await app.inject('/')).statusCode, 200)
}

/** Runs each way to fail in parallel, with its own application. */
async function sideBySide<Way> (
  t: Test, ways: Readonly<Record<string, Way>>, each: (t: Test, way: Way) => Promise<void>
): Promise<void> {
  t.jobs = 8
  await Promise.all(Object.entries(ways).map(async ([how, way]) =>
    await t.test(how, { buffered: true }, async t => await each(t, way))))
}

t.test('a checkServerIdentity or lookup that fails is a failed connection, to a server or Sentinels', async t => {
  const authority = await Authority.create(t)
  const server =
    await RedisServer.start(...tlsArguments(authority, await authority.issue()), '--tls-auth-clients', 'no')
  t.teardown(async () => await server.stop())
  const { ca } = authority
  const checks = { ...failing, 'answers true': () => true }
  const { port } = server
  await sideBySide(t, checks, async (t, check) => {
    const tls = { ca, checkServerIdentity: check as never }
    const sentinels = { sentinels: [{ host: 'localhost', port }], name: 'main', sentinelTLS: tls }
    await Promise.all([
      memoryAnswers(t, { host: 'localhost', port, tls }, /checkServerIdentity failed/),
      memoryAnswers(t, sentinels, /entinels are unreachable/)
    ])
  })
  await sideBySide(t, failingLookups, async (t, find) => {
    await memoryAnswers(t, { host: 'localhost', port, tls: { ca, lookup: find as never } }, /\(connection\)/)
  })
})

t.test('with a natMap that fails, the guard uses the servers that a Cluster and Sentinels name', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const sentinel = await Sentinel.start(server.port)
  t.teardown(async () => await sentinel.stop())
  const some = ['throws an error', 'rejects with an error'].map(how => [how, failing[how]])
  const ways = { ...Object.fromEntries(some), 'answers no host': () => ({ host: undefined, port: 6379 }) }
  await sideBySide(t, ways, async (t, way) => {
    const natMap = way as never
    const forms: RedisOption[] = [
      { cluster: [cluster.servers[0]!.port], natMap },
      { sentinels: [{ host: '127.0.0.1', port: sentinel.port }], name: sentinelName, natMap }
    ]
    for (const redis of forms) {
      const app = await guardedApp(t, { redis, metrics: false, resetTimeout: 50 })
      await until(() => app.redisGuard.status.store === 'redis')
    }
  })
})

t.test('a Cluster whose names cannot be resolved is away', async t => {
  const port = await freePort()
  const cluster = [{ host: 'localhost', port }]
  await sideBySide(t, { ...failingLookups, 'answers nothing': answering(null) }, async (t, find) => {
    const [dnsLookup, resolveSrv] = [counted(find), counted(find)]
    await Promise.all([
      memoryAnswers(t, { cluster, dnsLookup: dnsLookup.call }, /./),
      memoryAnswers(t, { cluster, useSRVRecords: true, resolveSrv: resolveSrv.call }, /./)
    ])
    await until(() => dnsLookup.calls > 1 && resolveSrv.calls > 1)
  })
})

t.test('a pskCallback that fails is a failed connection to a TLS server with a shared key', async t => {
  const server = createServer({ ciphers: 'PSK', maxVersion: 'TLSv1.2', pskCallback: () => Buffer.alloc(16) } as never)
  server.on('tlsClientError', () => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  await sideBySide(t, { ...failing, 'answers nonsense': () => ({ psk: 7 }) }, async (t, pskCallback) => {
    const answers = counted(pskCallback)
    const tls = { ciphers: 'PSK', maxVersion: 'TLSv1.2', pskCallback: answers.call } as const
    await memoryAnswers(t, { host: '127.0.0.1', port, tls }, /./)
    await until(() => answers.calls > 1)
  })
})
