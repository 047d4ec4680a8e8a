/** The metrics of the workers of a node:cluster, as prom-client aggregates them in the primary. */
import cluster, { type Worker } from 'node:cluster'
import { once } from 'node:events'
import { AggregatorRegistry } from 'prom-client'
import t, { type Test } from 'tap'
import { inRepository } from '../support/paths.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const registry = new AggregatorRegistry()

cluster.setupPrimary({
  exec: inRepository('test/support/cluster-worker.mjs'),
  execArgv: []
})

/** Timeouts so long that a worker stays on Redis, however busy the machine is. */
const patient = { syncInterval: 20, connectTimeout: 30_000, commandTimeout: 30_000 }

/** Starts one worker for each of the `redis` options. */
async function startWorkers (t: Test, redis: readonly unknown[]): Promise<void> {
  const workers = redis.map((redis, i) =>
    cluster.fork({ WORKER: String(i + 1), GUARD_OPTIONS: JSON.stringify({ redis, ...patient }) }))
  t.teardown(async () => await Promise.all(workers.map(stop)))
  await Promise.all(workers.map(async worker => await once(worker, 'message')))
}

async function stop (worker: Worker): Promise<void> {
  const gone = once(worker, 'exit')
  worker.send('close')
  await gone
}

/** Asks the workers again if they time out: prom-client gives busy workers only five seconds. */
async function clusterMetrics (): Promise<string> {
  while (true) {
    try {
      return await registry.clusterMetrics()
    } catch (error) {
      if (!/timed out/.test(String(error))) throw error
    }
  }
}

/** The aggregated series of all workers. */
async function scrape (): Promise<ReadonlyMap<string, number>> {
  const lines = (await clusterMetrics()).split('\n').filter(line => line !== '' && !line.startsWith('#'))
  return new Map(lines.map(line => {
    const end = line.lastIndexOf(' ')
    return [line.slice(0, end), Number(line.slice(end + 1))]
  }))
}

t.test('workers on one Redis: shared values appear once, and counts add up', async t => {
  const server = await RedisServer.start('--maxmemory', '100mb', '--maxmemory-policy', 'noeviction')
  t.teardown(async () => await server.stop())
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  await startWorkers(t, [server.url, server.url, server.url])
  await until(async () => (await scrape()).get('redis_guard_instances') === 3)

  const series = await scrape()
  const expected = {
    redis_guard_instances: 3,
    redis_guard_processes: 3,
    redis_guard_redis_up: 1,
    redis_guard_redis_memory_max_bytes: 100 * 1024 * 1024,
    redis_guard_blocked_addresses: 0,
    redis_guard_journal_entries: 0,
    'redis_guard_store{store="redis"}': 1,
    'redis_guard_store{store="memory"}': 0,
    'redis_guard_breaker_state{state="closed"}': 1,
    'redis_guard_breaker_state{state="open"}': 0,
    'redis_guard_decisions_total{limit="global",outcome="allowed",source="redis"}': 6,
    'redis_guard_breaker_transitions_total{to="closed"}': 3,
    // Each worker has counted its own client.
    redis_guard_memory_keys: 3
  }
  for (const [name, value] of Object.entries(expected)) t.equal(series.get(name), value, name)
  t.ok(series.get('redis_guard_redis_duration_seconds_count')! >= 3)
  // Redis keeps counting, so the metric is at most the current number.
  const processed = Number(/total_commands_processed:(\d+)/.exec(await observer.info('stats'))![1])
  const reported = series.get('redis_guard_redis_commands_processed_total')!
  t.ok(reported > 0 && reported <= processed, `${reported} of ${processed}`)

  await server.kill()
  await until(async () => (await scrape()).get('redis_guard_store{store="redis"}') === 0)
  const away = await scrape()
  t.equal(away.get('redis_guard_store{store="memory"}'), 1)
  t.equal(away.get('redis_guard_redis_up'), 0)
})

t.test('one worker without Redis is visible beside one with Redis', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  await startWorkers(t, [server.url, { port: 1 }])
  const series = await scrape()
  const expected = {
    redis_guard_redis_up: 0,
    'redis_guard_store{store="redis"}': 1,
    'redis_guard_store{store="memory"}': 1,
    'redis_guard_decisions_total{limit="global",outcome="allowed",source="memory"}': 2
  }
  for (const [name, value] of Object.entries(expected)) t.equal(series.get(name), value, name)
  t.ok(series.get('redis_guard_journal_entries')! >= 1)
})
