/**
 * Options of ioredis that look odd and are right: with each of them the application answers, and counts where it was
 * told to. A process that one of them ends fails this file.
 */
import t, { type Test } from 'tap'
import type { RedisOption } from '../../lib/redis-option.js'
import { guardedApp } from '../support/app.js'
import { Authority } from '../support/certificates.js'
import { RedisCluster } from '../support/redis-cluster.js'
import { forms, type Ports, values } from '../support/redis-options.js'
import { RedisServer, tlsArguments } from '../support/redis-server.js'
import { Sentinel } from '../support/sentinel.js'
import { until } from '../support/until.js'

const server = await RedisServer.start()
const cluster = await RedisCluster.start()
const sentinel = await Sentinel.start(server.port)
const authority = await Authority.create(t)
const tlsServer = await RedisServer.start(...tlsArguments(authority, await authority.issue()), '--tls-auth-clients', 'no')
const tls = { tls: { ca: authority.ca } }
const operators = [server.client(), ...cluster.servers.map(server => server.client()), tlsServer.client(tls)].map(
  operator => operator.on('error', () => {})
)
t.teardown(async () => {
  for (const operator of operators) operator.disconnect()
  await Promise.all([sentinel, cluster, server, tlsServer].map(async program => await program.stop()))
})

const ports: Ports = { server: server.port, node: cluster.servers[0]!.port, sentinel: sentinel.port }

/** Whether one of these servers has keys of that name space in its database 0. */
async function isCounted (nameSpace: string): Promise<boolean> {
  const found = await Promise.all(operators.map(async operator => await operator.keys(`*${nameSpace}*`)))
  return found.flat().length > 0
}

/** With these nobody is reached, or Redis or TLS refuses: memory answers, and the status says why. */
const mayBeAway = new Set([
  'host', 'path', 'username', 'password', 'tls', 'ca', 'cert', 'crl', 'key', 'pfx', 'servername', 'ciphers', 'sigalgs', 'ecdhCurve',
  'secureProtocol', 'clientCertEngine', 'privateKeyEngine', 'privateKeyIdentifier', 'lookup'
])

let cases = 0

async function works (t: Test, redis: object, option: string, kind: string): Promise<void> {
  const name = `${option}: ${kind}`
  const nameSpace = `case${++cases}:`
  const app = await guardedApp(t, { redis: redis as RedisOption, nameSpace, connectTimeout: 300, resetTimeout: 50 })
  app.get('/', async () => 'ok')
  const answers = async () => (await app.inject('/')).statusCode
  t.equal(await answers(), 200, name)
  const status = () => app.redisGuard.status
  if (mayBeAway.has(option)) await until(() => !/is back/.test(status().reason ?? ''))
  else await until(() => status().store === 'redis')
  if (status().store === 'redis') t.ok(await isCounted(nameSpace), `${name}: counted in Redis`)
  else t.match(status().reason, /^Redis cannot be used \((auth|cluster|connection|timeout|tls)\)/, name)
  // All connections break, so that functions are asked what to do.
  await Promise.all(operators.map(async operator => await operator.call('CLIENT', 'KILL', 'TYPE', 'normal')))
  t.equal(await answers(), 200, `${name}: without a connection`)
  await app.close()
}

for (const [form, { redis, taken }] of Object.entries(forms)) {
  t.test(`each odd value that an option ${form} takes leaves the application well`, async t => {
    const isTls = form === 'redis.tls.'
    const right = Object.entries(taken).flatMap(([option, kinds]) => kinds.split(' ').map(kind => [option, kind] as const))
    for (const [option, kind] of right) {
      const options = { ...(isTls ? tls.tls : {}), [option]: values[kind] }
      await works(t, redis(options, isTls ? { ...ports, server: tlsServer.port } : ports), option, kind)
    }
  })
}

t.test('common options of every kind are passed on, and Redis is used', async t => {
  const common = {
    family: 4,
    connectTimeout: 2000,
    commandTimeout: 1000,
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
    { sentinels: [{ host: '127.0.0.1', port: sentinel.port }], name: 'main', db: 3, sentinelRetryStrategy: () => 100, ...common } as RedisOption,
    { cluster: [`127.0.0.1:${ports.node}`], scaleReads: 'master', redisOptions: ofNodes } as RedisOption
  ]
  for (const redis of right) t.equal((await guardedApp(t, { redis })).redisGuard.status.store, 'redis')
  const operator = server.client({ db: 3 })
  t.teardown(() => operator.disconnect())
  t.ok((await operator.keys('app:guard:*')).length > 0)
})
