/**
 * Unusual but valid options of ioredis: with each of them the application answers, and counts in the right place. If
 * one of them ends the process, this file fails.
 */
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { RedisOption } from '../../lib/settings/redis-option.js'
import { guardedApp } from '../support/app.js'
import { Authority } from '../../tools/certificates.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { forms, type Ports, values } from '../support/redis-options.js'
import { RedisServer, tlsArguments } from '../../tools/redis-server.js'
import { Sentinel } from '../../tools/sentinel.js'
import { until } from '../../tools/until.js'

const starting = RedisCluster.start()
const server = await RedisServer.start()
const sentinel = await Sentinel.start(server.port)
const authority = await Authority.create(t)
const certificate = await authority.issue()
const tlsServer = await RedisServer.start(...tlsArguments(authority, certificate), '--tls-auth-clients', 'no')
const cluster = await starting
const tls = { tls: { ca: authority.ca } }
const operators = [server.client(), ...cluster.servers.map(server => server.client()), tlsServer.client(tls)].map(
  operator => operator.on('error', () => {})
)
t.teardown(async () => {
  for (const operator of operators) operator.disconnect()
  await Promise.all([sentinel, cluster, server, tlsServer].map(async program => await program.stop()))
})

const ports: Ports = { server: server.port, node: cluster.servers[0]!.port, sentinel: sentinel.port }

/** With these, no server is reached, or Redis or TLS refuses: memory answers, and the status says why. */
const mayBeAway = new Set([
  'host', 'path', 'username', 'password', 'tls', 'ca', 'cert', 'crl', 'key', 'pfx', 'servername', 'ciphers', 'sigalgs',
  'ecdhCurve',
  'secureProtocol', 'clientCertEngine', 'privateKeyEngine', 'privateKeyIdentifier', 'lookup'
])

/** All keys in database 0 of these servers. */
async function allKeys (): Promise<string> {
  return (await Promise.all(operators.map(async operator => await operator.keys('*')))).flat().join('\n')
}

interface Case {
  readonly option: string
  /** the option and the kind of value, for messages */
  readonly name: string
  readonly nameSpace: string
  readonly app: FastifyInstance
}

let cases = 0

async function startCase (t: Test, redis: object, option: string, kind: string): Promise<Case> {
  const nameSpace = `case${++cases}:`
  // A start without Redis waits for a whole commandTimeout.
  const times = { connectTimeout: 1000, commandTimeout: 500, resetTimeout: 50 }
  const app = await guardedApp(t, { redis: redis as RedisOption, nameSpace, metrics: false, ...times })
  app.get('/', async () => 'ok')
  return { option, name: `${option}: ${kind}`, nameSpace, app }
}

for (const [form, { redis, taken }] of Object.entries(forms)) {
  t.test(`the application works with each unusual value of an option ${form}`, async t => {
    const isTls = form === 'redis.tls.'
    const right = Object.entries(taken).flatMap(([option, kinds]) => {
      return kinds.split(' ').map(kind => [option, kind] as const)
    })
    const all = await Promise.all(right.map(async ([option, kind]) => {
      const options = { ...(isTls ? tls.tls : {}), [option]: values[kind] }
      return await startCase(t, redis(options, isTls ? { ...ports, server: tlsServer.port } : ports), option, kind)
    }))
    const counted: Case[] = []
    for (const one of all) {
      const { app, name, option } = one
      t.equal((await app.inject('/')).statusCode, 200, name)
      const status = () => app.redisGuard.status
      if (mayBeAway.has(option)) await until(() => !/is back/.test(status().reason ?? ''))
      else await until(() => status().store === 'redis')
      if (status().store === 'redis') counted.push(one)
      else t.match(status().reason, /^Redis cannot be used \((auth|cluster|connection|timeout|tls)\)/, name)
    }
    // The first request may have been counted in memory.
    for (const { app, name } of counted) t.equal((await app.inject('/')).statusCode, 200, name)
    const keys = await allKeys()
    for (const { name, nameSpace } of counted) t.ok(keys.includes(nameSpace), `${name}: counted in Redis`)
    // All connections break, so that functions are called.
    await Promise.all(operators.map(async operator => await operator.call('CLIENT', 'KILL', 'TYPE', 'normal')))
    for (const { app, name } of all) t.equal((await app.inject('/')).statusCode, 200, `${name}: without a connection`)
    await Promise.all(all.map(async ({ app }) => await app.close()))
  })
}

t.test('common options of every kind are passed on, and Redis is used', async t => {
  const common = {
    family: 4,
    connectTimeout: 20_000,
    commandTimeout: 10_000,
    keepAlive: 0,
    noDelay: true,
    connectionName: 'guard',
    maxRetriesPerRequest: null,
    lazyConnect: false,
    enableOfflineQueue: true,
    enableReadyCheck: true,
    retryStrategy: () => 100,
    reconnectOnError: null,
    keyPrefix: 'app:',
    protocol: 2,
    socketTimeout: 60_000
  }
  const { retryStrategy, enableOfflineQueue, ...ofNodes } = common
  const right: RedisOption[] = [
    { port: server.port, db: 3, ...common } as RedisOption,
    { url: `${server.url}/3`, ...common } as RedisOption,
    {
      sentinels: [{ host: '127.0.0.1', port: sentinel.port }],
      name: 'main',
      db: 3,
      sentinelRetryStrategy: () => 100,
      ...common
    } as RedisOption,
    { cluster: [`127.0.0.1:${ports.node}`], scaleReads: 'master', redisOptions: ofNodes } as RedisOption
  ]
  const patience = { connectTimeout: 60_000, commandTimeout: 60_000 }
  for (const redis of right) t.equal((await guardedApp(t, { redis, ...patience })).redisGuard.status.store, 'redis')
  const operator = server.client({ db: 3 })
  t.teardown(() => operator.disconnect())
  t.ok((await operator.keys('app:guard:*')).length > 0)
})
