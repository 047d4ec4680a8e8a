/** Replies without a command: ioredis throws for some where nothing can catch it, which would end this process. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import t, { type Test } from 'tap'
import type { RedisOption } from '../../lib/settings/redis-option.js'
import { guardedApp } from '../support/app.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

const replies = [
  '$-1\r\n', '_\r\n', '*-1\r\n_\r\n$-1\r\n', '+OK\r\n', ':1\r\n$-1\r\n', '-ERR x\r\n$-1\r\n', '-READONLY x\r\n_\r\n'
]

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

async function proxyTo (t: Test, port: number): Promise<TcpProxy> {
  const proxy = await TcpProxy.start(port)
  t.teardown(async () => await proxy.stop())
  return proxy
}

/** Long enough that a busy machine causes no new connection. */
const patience = { connectTimeout: 60_000, commandTimeout: 60_000, resetTimeout: 50 }

/** Expects the guard to reconnect after each reply, and to use Redis again. */
async function survives (t: Test, redis: RedisOption, proxy: TcpProxy): Promise<void> {
  const app = await guardedApp(t, { redis, max: 100, syncInterval: 60_000, ...patience })
  app.get('/', async () => 'ok')
  for (const reply of replies) {
    await until(() => app.redisGuard.status.store === 'redis')
    const { accepted } = proxy
    proxy.say(reply)
    await until(() => proxy.accepted > accepted)
    t.equal((await app.inject('/')).statusCode, 200, JSON.stringify(reply))
  }
  await until(() => app.redisGuard.status.store === 'redis')
  t.equal((await app.inject('/')).headers['x-ratelimit-limit'], '100')
}

t.test('a reply without a command ends the connection, not the process', async t => {
  const proxy = await proxyTo(t, server.port)
  await survives(t, { host: '127.0.0.1', port: proxy.port }, proxy)
})

t.test('a command that is outstanding when its connection closes fails', async t => {
  const proxy = await proxyTo(t, server.port)
  const app = await guardedApp(t, { redis: { host: '127.0.0.1', port: proxy.port }, ...patience })
  t.equal(app.redisGuard.status.store, 'redis')
  proxy.blackhole = true
  const command = app.redisGuard.get('x')
  setImmediate(() => proxy.cut())
  t.equal(await command, null)
  t.match(app.redisGuard.status, { store: 'memory', reason: /\(connection\)/ })
  proxy.blackhole = false
  await until(() => app.redisGuard.status.store === 'redis')
})

t.test('a reply without a command ends only the connection, even if failed commands are sent again', async t => {
  const proxy = await proxyTo(t, server.port)
  const reconnectOnError = ({ message }: Error) => message.endsWith(' x') ? 2 : false
  const redis = { host: '127.0.0.1', port: proxy.port, reconnectOnError, autoResendUnfulfilledCommands: true }
  await survives(t, redis, proxy)
})

t.test('a reply without a command ends only the connection, in a Cluster', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const proxies = await Promise.all(cluster.servers.map(async ({ port }) => await proxyTo(t, port)))
  const places = proxies.map(({ port }) => ({ host: '127.0.0.1', port }))
  const natMap = Object.fromEntries(cluster.servers.map(({ port }, i) => [`127.0.0.1:${port}`, places[i]!]))
  await survives(t, { cluster: places, natMap }, proxies[0]!)
})

t.test('a reply without a command ends only the connection, with a Sentinel', async t => {
  const port = String(server.port)
  const primary = `*2\r\n$9\r\n127.0.0.1\r\n$${port.length}\r\n${port}\r\n`
  let asked = 0
  const sentinel = createServer(socket => {
    socket.on('error', () => {})
    socket.on('data', () => socket.write(asked++ === 0 ? '$-1\r\n_\r\n_\r\n' : `${primary}*0\r\n_\r\n_\r\n`))
  }).listen(0, '127.0.0.1')
  t.teardown(() => sentinel.close())
  await once(sentinel, 'listening')
  const sentinels = [{ host: '127.0.0.1', port: (sentinel.address() as { port: number }).port }]
  const app = await guardedApp(t, { redis: { sentinels, name: 'primary', updateSentinels: false }, ...patience })
  await until(() => app.redisGuard.status.store === 'redis')
  t.ok(asked > 1)
})
