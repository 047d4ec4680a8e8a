import t, { type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../support/redis-server.js'
import { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'

const server = await RedisServer.start()
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await server.stop()
})

const syncInterval = 50

async function instance (t: Test, port = server.port): Promise<FastifyInstance> {
  const app = await guardedApp(t, { redis: { port }, syncInterval })
  app.get('/', async () => 'ok')
  return app
}

async function statusFor (app: FastifyInstance, remoteAddress: string): Promise<number> {
  return (await app.inject({ url: '/', remoteAddress })).statusCode
}

t.beforeEach(async () => { await observer.flushall() })

t.test('what one instance blocks and unblocks, another does at its next look', async t => {
  const [one, other] = [await instance(t), await instance(t)]
  await one.redisGuard.blockIP('192.0.2.1', 60)
  await one.redisGuard.blockIP('198.51.100.0/24', 60)
  t.same([await statusFor(one, '192.0.2.1'), await statusFor(one, '198.51.100.7')], [403, 403], 'at once where it was said')
  await until(async () => await statusFor(other, '192.0.2.1') === 403 && await statusFor(other, '198.51.100.7') === 403, syncInterval + 300)
  await other.redisGuard.unblockIP('192.0.2.1')
  t.equal(await statusFor(other, '192.0.2.1'), 200)
  await until(async () => await statusFor(one, '192.0.2.1') === 200, syncInterval + 300)
  t.equal(await statusFor(one, '198.51.100.7'), 403)
})

t.test('an instance that starts has all blocks before its first request', async t => {
  const one = await instance(t)
  for (let i = 0; i < 1200; i++) await one.redisGuard.blockIP(`192.0.${i >> 8}.${i & 255}`, 60)
  const other = await instance(t)
  t.same([await statusFor(other, '192.0.0.0'), await statusFor(other, '192.0.4.175'), await statusFor(other, '192.0.4.176')], [403, 403, 200])
})

t.test('a block ends by itself on every instance', async t => {
  const [one, other] = [await instance(t), await instance(t)]
  await one.redisGuard.blockIP('192.0.2.1', 0.4)
  await until(async () => await statusFor(other, '192.0.2.1') === 403)
  await until(async () => await statusFor(other, '192.0.2.1') === 200 && await statusFor(one, '192.0.2.1') === 200, 1000)
})

t.test('an instance that was away loads what it cannot follow any more', async t => {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const [one, away] = [await instance(t), await instance(t, proxy.port)]
  await one.redisGuard.blockIP('192.0.2.1', 60)
  await one.redisGuard.blockIP('192.0.2.2', 60)
  await until(async () => await statusFor(away, '192.0.2.2') === 403)

  proxy.blackhole = true
  await until(() => away.redisGuard.status.store === 'memory' || away.redisGuard.get('x').then(() => false))
  await one.redisGuard.unblockIP('192.0.2.1')
  await one.redisGuard.blockIP('192.0.2.3', 60)
  await observer.xtrim('guard:{blocks}:changes', 'MAXLEN', 0)
  t.same([await statusFor(away, '192.0.2.1'), await statusFor(away, '192.0.2.2')], [403, 403], 'meanwhile it goes on with what it knows')

  proxy.blackhole = false
  await until(() => away.redisGuard.status.store === 'redis')
  await until(async () => await statusFor(away, '192.0.2.3') === 403, 1000)
  t.same([await statusFor(away, '192.0.2.1'), await statusFor(away, '192.0.2.2')], [200, 403])
})

t.test('changes of another list under the same name are not taken for the next ones of this', async t => {
  const one = await instance(t)
  await one.redisGuard.blockIP('192.0.2.1', 60)
  await observer.flushall()
  const other = await instance(t)
  await other.redisGuard.blockIP('192.0.2.2', 60)
  await until(async () => await statusFor(one, '192.0.2.2') === 403)
  t.equal(await statusFor(one, '192.0.2.1'), 200)
})

t.test('a list that cannot be read leaves the one in force as it is', async t => {
  const one = await instance(t)
  await one.redisGuard.blockIP('192.0.2.1', 60)
  await observer.del('guard:{blocks}:changes')
  await observer.set('guard:{blocks}:changes', 'not a stream')
  await new Promise(resolve => setTimeout(resolve, 4 * syncInterval))
  t.equal(await statusFor(one, '192.0.2.1'), 403)
  await observer.del('guard:{blocks}:changes')
  const other = await instance(t)
  await other.redisGuard.blockIP('192.0.2.5', 60)
  await until(async () => await statusFor(one, '192.0.2.5') === 403, 2000)
})
