/** The metrics: their counts, what Redis reports, their descriptions, and sharing a registry and a path. */
import Fastify, { type FastifyInstance, type RouteOptions } from 'fastify'
import metricsPlugin from 'fastify-metrics'
import { Counter, Registry } from 'prom-client'
import t from 'tap'
import redisGuard from '../../lib/index.js'
import type { MetricDescription } from '../../lib/observers/metric-description.js'
import { described } from '../../lib/observers/metrics.js'
import { infoMetrics, upMetric } from '../../lib/observers/redis-info.js'
import { parseInfo } from '../../lib/redis/info.js'
import { guardedApp, logTo } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

const ok = async () => 'ok'

/** Timeouts so long that an application stays on Redis, however busy the machine is. */
const patient = { commandTimeout: 30_000 }

/** The series of a scrape, by name and labels. */
async function scrape (app: FastifyInstance, url = '/metrics'): Promise<ReadonlyMap<string, number>> {
  const { payload } = await app.inject(url)
  const lines = payload.split('\n').filter(line => line !== '' && !line.startsWith('#'))
  return new Map(lines.map(line => {
    return [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]
  }))
}

t.test('counts every decision by limit, outcome and source', async t => {
  const app = await guardedApp(t, { max: 2, timeWindow: '1 hour', allowList: ['192.0.2.100'] })
  app.get('/', ok)
  app.get('/own', { config: { rateLimit: { max: 1 } } }, ok)
  await app.redisGuard.blockIP('192.0.2.9', 60)
  for (const url of ['/', '/', '/', '/own', '/own']) await app.inject(url)
  await app.inject({ url: '/', remoteAddress: '192.0.2.9' })
  await app.inject({ url: '/', remoteAddress: '192.0.2.100' })
  await app.redisGuard.getRateLimitEvents()
  const series = await scrape(app)
  const expected = {
    'redis_guard_decisions_total{limit="global",outcome="allowed",source="memory"}': 2,
    'redis_guard_decisions_total{limit="global",outcome="limited",source="memory"}': 1,
    'redis_guard_decisions_total{limit="GET:/own",outcome="allowed",source="memory"}': 1,
    'redis_guard_decisions_total{limit="GET:/own",outcome="limited",source="memory"}': 1,
    'redis_guard_decisions_total{limit="",outcome="blocked",source="local"}': 1,
    'redis_guard_decisions_total{limit="global",outcome="exempt",source="local"}': 1,
    'redis_guard_events_total{type="limited"}': 2,
    'redis_guard_events_total{type="blocked"}': 1,
    'redis_guard_store{store="memory"}': 1,
    'redis_guard_store{store="redis"}': 0,
    redis_guard_blocked_addresses: 1,
    redis_guard_memory_keys: 2
  }
  for (const [name, value] of Object.entries(expected)) t.equal(series.get(name), value, name)
  t.notOk([...series.keys()].some(name => {
    return name.startsWith('redis_guard_breaker_state') || name.startsWith('redis_guard_redis_up')
  }), 'no metrics of Redis')
  t.same(await scrape(app), series, 'a scrape counts nothing')
})

t.test('/metrics is not limited, and has the content type of Prometheus', async t => {
  const app = await guardedApp(t, { max: 0 })
  const { statusCode, headers } = await app.inject('/metrics')
  t.equal(statusCode, 200)
  t.match(headers['content-type'], /^text\/plain; version=0\.0\.4/)
  t.notOk('x-ratelimit-limit' in headers)
  await app.redisGuard.blockIP('192.0.2.9', 60)
  const refused = await app.inject({ url: '/metrics', remoteAddress: '192.0.2.9' })
  t.match([refused.statusCode, refused.headers['content-type']], [403, /^application\/json/])
})

t.test('/metrics is hidden from API documents, for GET and HEAD, under any prefix', async t => {
  const app = Fastify({ exposeHeadRoutes: true })
  t.teardown(async () => await app.close())
  const routes: RouteOptions[] = []
  app.addHook('onRoute', route => { routes.push(route) })
  await app.register(async scope => await scope.register(redisGuard, { redis: false }), { prefix: '/v1' })
  // @fastify/swagger and similar plugins leave out routes with `hide`.
  const seen = routes.map(({ method, url, schema, logLevel, config }) => ({ method, url, schema, logLevel, config }))
  const hidden = { url: '/v1/metrics', schema: { hide: true }, logLevel: 'warn', config: { rateLimit: false } }
  t.match(seen.toSorted((a, b) => String(a.method).localeCompare(String(b.method))), [
    { ...hidden, method: 'GET' }, { ...hidden, method: 'HEAD' }
  ])
  t.equal(routes.length, 2, 'there is no other route')
  t.equal((await app.inject('/v1/metrics')).statusCode, 200)
  t.equal((await app.inject({ method: 'HEAD', url: '/v1/metrics' })).statusCode, 200)
})

t.test('every metric has a name in base units, a help text, and few labels', async t => {
  const all = [...Object.values(described), ...infoMetrics, upMetric]
  for (const { name, help, labels } of all) {
    t.match(name, /^redis_guard_[a-z_]+$/)
    t.match(help, /^.{20,}\.$/, name)
    t.notMatch(name, /_(ms|milliseconds|kb|percent)/, name)
    t.notOk(labels.some(label => /ip|address|key|client/.test(label)), name)
  }
  t.equal(new Set(all.map(({ name }) => name)).size, all.length)
})

t.test('every gauge names its aggregator for many processes; counters add up', async t => {
  const registry = new Registry()
  await guardedApp(t, { redis: server.url, metrics: { registry, path: false } })
  const metrics = await registry.getMetricsAsJSON()
  t.equal(metrics.length, Object.keys(described).length + infoMetrics.length + 1)
  for (const { name, type, aggregator } of metrics) {
    const chosen: MetricDescription | undefined = Object.values(described).find(metric => metric.name === name)
    const isOfRedis = chosen === undefined
    const isGauge = String(type) === 'gauge'
    if (isOfRedis) t.equal(aggregator, name === upMetric.name ? 'min' : 'max', `${name} describes one Redis`)
    else t.equal(aggregator, isGauge ? chosen.aggregator : 'sum', name)
  }
})

t.test('with Redis: round trips, the breaker, and values that Redis reports', async t => {
  const redis = await RedisServer.start('--maxmemory', '100mb')
  t.teardown(async () => await redis.stop())
  const app = await guardedApp(t, { redis: redis.url, max: 10, ...patient })
  app.get('/', ok)
  await app.inject('/')
  const series = await scrape(app)
  t.equal(series.get('redis_guard_decisions_total{limit="global",outcome="allowed",source="redis"}'), 1)
  t.ok(series.get('redis_guard_redis_duration_seconds_count')! >= 1)
  t.equal(series.get('redis_guard_breaker_state{state="closed"}'), 1)
  t.equal(series.get('redis_guard_breaker_transitions_total{to="closed"}'), 1)
  t.equal(series.get('redis_guard_redis_up'), 1)
  t.equal(series.get('redis_guard_redis_memory_max_bytes'), 100 * 1024 * 1024)
  for (const { name } of infoMetrics) t.type(series.get(name), 'number', name)
  t.ok(series.get('redis_guard_redis_memory_used_bytes')! > 100_000)
  t.ok(series.get('redis_guard_redis_commands_processed_total')! > 3)
})

t.test('a Redis that hangs is reported as down, does not block the scrape, and is reported when back', async t => {
  const redis = await RedisServer.start()
  t.teardown(async () => await redis.stop())
  const app = await guardedApp(t, { redis: redis.url })
  await until(() => app.redisGuard.status.store === 'redis')
  redis.signal('SIGSTOP')
  const whileHanging = await scrape(app)
  t.equal(whileHanging.get('redis_guard_redis_up'), 0)
  t.equal(whileHanging.get('redis_guard_redis_memory_used_bytes'), undefined)
  await until(() => app.redisGuard.status.store === 'memory')
  const after = await scrape(app)
  t.equal(after.get('redis_guard_store{store="memory"}'), 1)
  t.equal(after.get('redis_guard_breaker_state{state="closed"}'), 0)
  t.ok(after.get('redis_guard_breaker_transitions_total{to="open"}')! >= 1)
  t.ok(after.get('redis_guard_errors_total{kind="timeout"}')! >= 1)
  redis.signal('SIGCONT')
  await until(async () => (await scrape(app)).get('redis_guard_redis_memory_used_bytes')! > 100_000)
})

t.test('leaves out values that Redis does not report', async t => {
  const nothing = { info: '', slowLogLength: undefined }
  for (const { name, read } of infoMetrics) {
    t.equal(read(new Map(), nothing), undefined, name)
    t.equal(
      read(new Map([['used_memory', 'x'], ['used_cpu_user', '1'], ['used_cpu_sys', 'x']]), nothing),
      undefined,
      name
    )
  }
})

t.test('a Redis that goes away during the scrape is reported as down', async t => {
  const redis = await RedisServer.start()
  t.teardown(async () => await redis.stop())
  const app = await guardedApp(t, { redis: redis.url, ...patient })
  await until(async () => (await scrape(app)).get('redis_guard_redis_up') === 1)
  redis.signal('SIGSTOP')
  const scraped = scrape(app)
  await new Promise(resolve => setTimeout(resolve, 50))
  await redis.kill()
  t.equal((await scraped).get('redis_guard_redis_up'), 0)
})

t.test('a Redis that does not allow INFO stays in use', async t => {
  const redis = await RedisServer.start('--rename-command', 'INFO', '', '--rename-command', 'SLOWLOG', '')
  t.teardown(async () => await redis.stop())
  const app = await guardedApp(t, { redis: { port: redis.port, enableReadyCheck: false }, ...patient })
  t.equal((await scrape(app)).get('redis_guard_redis_up'), 0)
  t.equal(app.redisGuard.status.store, 'redis')
})

t.test('a Redis that allows INFO but not SLOWLOG reports the rest', async t => {
  const redis = await RedisServer.start('--rename-command', 'SLOWLOG', '')
  t.teardown(async () => await redis.stop())
  const series = await scrape(await guardedApp(t, { redis: redis.url, ...patient }))
  t.equal(series.get('redis_guard_redis_up'), 1)
  t.equal(series.get('redis_guard_redis_slowlog_entries'), undefined)
})

t.test('the option metrics', async t => {
  t.test('sets the path', async t => {
    const app = await guardedApp(t, { metrics: { path: '/internal/metrics' } })
    t.equal((await app.inject('/metrics')).statusCode, 404)
    t.match((await app.inject('/internal/metrics')).payload, /redis_guard_store/)
  })

  t.test('takes a registry, and serves all of it or nothing', async t => {
    const registry = new Registry()
    const own = new Counter({ name: 'own_total', help: 'Own.', registers: [registry] })
    own.inc()
    const app = await guardedApp(t, { metrics: { registry } })
    t.match((await app.inject('/metrics')).payload, /own_total 1[^]*redis_guard_store/)
    const other = new Registry()
    const silent = await guardedApp(t, { metrics: { registry: other, path: false } })
    t.equal((await silent.inject('/metrics')).statusCode, 404)
    t.match(await other.metrics(), /redis_guard_store/)
  })

  t.test('a registry that fails costs its scrape a 500, and does not stop the closing of the application', async t => {
    const lines: Record<string, unknown>[] = []
    for (const fail of [() => { throw new Error('not today') }, async () => { throw new Error('not today') }]) {
      const registry = Object.assign(new Registry(), { metrics: fail, removeSingleMetric: fail })
      const app = Fastify(logTo(lines))
      await app.register(redisGuard, { redis: false, metrics: { registry: registry as unknown as Registry } })
      app.get('/', ok)
      t.same([(await app.inject('/')).statusCode, (await app.inject('/metrics')).statusCode], [200, 500])
      lines.length = 0
      await app.close()
      t.match(lines, [{ msg: 'the metrics could not be removed from their registry', err: { message: 'not today' } }])
    }
  })

  t.test('our metrics leave a registry that outlives the application; two at once are an error', async t => {
    const registry = new Registry()
    for (let round = 0; round < 2; round++) {
      const app = Fastify()
      await app.register(redisGuard, { redis: server.url, metrics: { registry } })
      const { client } = app.redisGuard
      await t.rejects(guardedApp(t, { metrics: { registry } }), { code: 'GUARD_ERR_METRICS_REGISTRY' })
      t.ok(client)
      await app.close()
      t.equal(await registry.metrics(), '\n')
    }
  })

  t.test('false: no route and no metrics, and everything else works', async t => {
    const options = { redis: server.url, nameSpace: 'off:', metrics: false, max: 1, timeWindow: '1 hour' } as const
    const app = await guardedApp(t, { ...options, ...patient })
    app.get('/', ok)
    t.same([
      (await app.inject('/')).statusCode,
      (await app.inject('/')).statusCode,
      (await app.inject({ url: '/metrics', remoteAddress: '192.0.2.1' })).statusCode
    ], [200, 429, 404])
    t.equal((await app.redisGuard.getRateLimitEvents()).length, 1)
  })
})

t.test('a service that already serves /metrics', async t => {
  t.test('with fastify-metrics: our metrics are in its registry', async t => {
    const registry = new Registry()
    const app = Fastify()
    t.teardown(async () => await app.close())
    await app.register(metricsPlugin.default, {
      endpoint: '/metrics',
      defaultMetrics: { enabled: true, register: registry }
    })
    const { client } = (app as unknown as { metrics: { client: { register: Registry } } }).metrics
    t.teardown(() => client.register.clear())
    await app.register(redisGuard, { redis: false })
    t.match((await app.inject('/metrics')).payload, /process_cpu[^]*redis_guard_store|redis_guard_store[^]*process_cpu/)
  })

  t.test('by its own route: an error that names the option', async t => {
    const app = Fastify()
    t.teardown(async () => await app.close())
    app.get('/metrics', ok)
    await t.rejects(async () => await app.register(redisGuard, { redis: false }), {
      code: 'GUARD_ERR_METRICS_ROUTE',
      message: /Another plugin also serves GET \/metrics\. .*, set metrics: \{ path: '\/another' \}/
    })
  })

  t.test("later, by another plugin: the same error instead of Fastify's duplicate route", async t => {
    const app = await guardedApp(t)
    t.throws(() => app.get('/metrics', ok), { code: 'GUARD_ERR_METRICS_ROUTE' })
    app.get('/metrics/other', ok)
    app.post('/metrics', ok)
    t.equal((await app.inject('/metrics')).statusCode, 200)
  })
})

t.test('parseInfo reads the fields of an INFO reply, and skips its headings', async t => {
  const memory = ['# Memory', 'maxmemory_policy:noeviction', 'used_memory:1024', '']
  const reply = ['# Server', 'redis_version:7.0.15', '', ...memory].join('\r\n')
  const fields = [['redis_version', '7.0.15'], ['maxmemory_policy', 'noeviction'], ['used_memory', '1024']]
  t.same([...parseInfo(reply)], fields)
})

t.test('a value may contain colons, and may be empty', async t => {
  const fields = [['executable', 'C:\\redis:7'], ['config_file', '']]
  t.same([...parseInfo('executable:C:\\redis:7\r\nconfig_file:\r\n')], fields)
})

t.test('an empty reply has no fields', async t => {
  t.equal(parseInfo('').size, 0)
})
