/** Refusals are recorded behind; a Redis that is slow is not to gather them without end. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { longestReadWaitMs, longestRoundMs } from '../../lib/guard/event-log.js'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../support/redis-server.js'
import { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'

async function recorded (app: FastifyInstance): Promise<{ limited: number, dropped: number }> {
  const { payload } = await app.inject('/metrics')
  const of = (type: string) => {
    const found = new RegExp(`^redis_guard_events_total\\{type="${type}"\\} (\\d+)$`, 'm').exec(payload)
    return Number(found?.[1] ?? 0)
  }
  return { limited: of('limited'), dropped: of('dropped') }
}

t.test('a flood of refusals at a slow Redis waits for a second at most, and reading events waits for less', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const options = { redis: { port: proxy.port }, max: 0, timeWindow: '1 hour', commandTimeout: 5000, maxEvents: 100_000 }
  const app = await guardedApp(t, options)
  app.get('/', async () => 'ok')
  t.equal(app.redisGuard.status.store, 'redis')
  proxy.delayMs = 120
  let refused = 0
  const endMs = Date.now() + 4000
  while (Date.now() < endMs) {
    const names = Array.from({ length: 600 }, () => `198.51.${refused >> 8}.${refused++ & 255}`)
    await Promise.all(names.map(async remoteAddress => await app.inject({ url: '/', remoteAddress })))
  }
  const askedMs = Date.now()
  const [latest] = await app.redisGuard.getRateLimitEvents()
  const tookMs = Date.now() - askedMs
  t.ok(tookMs < longestReadWaitMs + 2 * 120 + 500, `reading took ${tookMs} ms`)
  const behindMs = askedMs - latest!.atMs
  t.ok(behindMs < 2 * longestRoundMs + 4 * 120 + 500, `the latest event that was stored came ${behindMs} ms before`)
  // Two rounds more, and nothing is left.
  await sleep(2 * longestRoundMs + 4 * 120)
  const { dropped } = await recorded(app)
  t.ok(dropped > 0, `${dropped} were dropped, and counted`)
  await until(async () => {
    const { limited, dropped } = await recorded(app)
    return limited + dropped === refused
  })
  proxy.delayMs = 0
  await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
  t.match(await app.redisGuard.getRateLimitEvents(1), [{ ip: '192.0.2.1' }], 'a Redis that is quick shows them at once')
})
