/** Refusals are recorded in the background; a slow Redis must not let them pile up. */
import { performance } from 'node:perf_hooks'
import { Registry } from 'prom-client'
import t from 'tap'
import { mostPerWrite } from '../../lib/observers/event-log.js'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

const registry = new Registry()

/** Reads only this metric: a full scrape would also ask Redis. */
async function recorded (): Promise<{ limited: number, dropped: number }> {
  const { values } = await registry.getSingleMetric('redis_guard_events_total')!.get()
  const of = (type: string) => values.find(({ labels }) => labels['type'] === type)?.value ?? 0
  return { limited: of('limited'), dropped: of('dropped') }
}

t.test('a flood of refusals at a slow Redis is dropped in part, and a reader does not wait for it', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const app = await guardedApp(t, {
    redis: { port: proxy.port },
    max: 0,
    timeWindow: '1 hour',
    commandTimeout: 60_000,
    maxEvents: 100_000,
    metrics: { registry, path: false }
  })
  app.get('/', async () => 'ok')
  await until(() => app.redisGuard.status.store === 'redis')
  // A write takes longer than a round may, so each round is one write; writing the whole flood would take 20 s.
  proxy.delayMs = 1000
  const refused = 10 * mostPerWrite
  const names = Array.from({ length: refused }, (_, i) => `198.51.${i >> 8}.${i & 255}`)
  const answers = await Promise.all(names.map(async remoteAddress => await app.inject({ url: '/', remoteAddress })))
  t.ok(answers.every(({ statusCode }) => statusCode === 429))
  const { limited: before } = await recorded()
  const askedMs = performance.now()
  await app.redisGuard.getRateLimitEvents()
  const tookMs = performance.now() - askedMs
  t.ok(tookMs < 10_000, `reading took ${tookMs} ms`)
  await until(async () => {
    const { limited, dropped } = await recorded()
    return limited + dropped === refused
  })
  const { limited, dropped } = await recorded()
  t.ok(limited - before <= 2 * mostPerWrite, 'the current round and one more are written after the flood')
  t.ok(dropped > 0, `${dropped} were dropped, and counted`)
  // A refusal after the flood is written like any other.
  await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
  await until(async () => (await app.redisGuard.getRateLimitEvents(1))[0]!.ip === '192.0.2.1')
})
