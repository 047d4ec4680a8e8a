/**
 * Metrics of the Redis server, from its reply to INFO. Each scrape asks once for all of them. A Redis that hangs delays
 * the scrape by `commandTimeout` at most.
 */
import { Counter, Gauge, type Registry } from 'prom-client'
import { parseInfo, type RedisInfo } from '../redis/info.js'
import type { MetricDescription } from './metric-description.js'

/** Asks Redis; throws or rejects when it cannot be asked. */
export type InfoSource = () => Promise<RedisInfo>

interface InfoMetric extends MetricDescription {
  readonly type: 'gauge' | 'counter'
  readonly read: (fields: ReadonlyMap<string, string>, info: RedisInfo) => number | undefined
}

function field (type: InfoMetric['type'], name: string, of: string, help: string): InfoMetric {
  return { type, name, help, labels: [], read: fields => number(fields.get(of)) }
}

/** The metrics of the server; the docs list them. */
export const infoMetrics: readonly InfoMetric[] = [
  field('gauge', 'redis_guard_redis_memory_used_bytes', 'used_memory', 'Bytes of memory that Redis has allocated.'),
  field(
    'gauge', 'redis_guard_redis_memory_max_bytes', 'maxmemory',
    'Bytes of memory that Redis may use (maxmemory); 0: no limit.'
  ),
  field(
    'gauge', 'redis_guard_redis_memory_fragmentation_ratio', 'mem_fragmentation_ratio',
    'Memory that Redis occupies in the system, divided by the memory that it has allocated.'
  ),
  field(
    'gauge', 'redis_guard_redis_connected_clients', 'connected_clients',
    'Connections to Redis, of all applications.'
  ),
  field(
    'gauge', 'redis_guard_redis_blocked_clients', 'blocked_clients',
    'Connections to Redis that wait in a blocking command, such as BLPOP; the guard uses none.'
  ),
  field(
    'counter', 'redis_guard_redis_evicted_keys_total', 'evicted_keys',
    'Keys that Redis evicted to stay below maxmemory. Should not rise: counters and blocks may be among them.'
  ),
  field(
    'counter', 'redis_guard_redis_expired_keys_total', 'expired_keys',
    'Keys that Redis removed because they had expired.'
  ),
  field(
    'counter', 'redis_guard_redis_commands_processed_total', 'total_commands_processed',
    'Commands that Redis has run, for all applications.'
  ),
  field(
    'counter', 'redis_guard_redis_rejected_connections_total', 'rejected_connections',
    'Connections that Redis refused because it had reached maxclients.'
  ),
  {
    type: 'counter',
    name: 'redis_guard_redis_cpu_seconds_total',
    labels: [],
    help: 'Seconds of CPU time that Redis has used, user and system.',
    read: fields => sum(number(fields.get('used_cpu_user')), number(fields.get('used_cpu_sys')))
  },
  {
    type: 'gauge',
    name: 'redis_guard_redis_slowlog_entries',
    labels: [],
    help: 'Entries in the slow log of Redis: commands that took longer than slowlog-log-slower-than. Absent if the ' +
      'user may not ask.',
    read: (fields, { slowLogLength }) => slowLogLength
  }
]

export const upMetric: MetricDescription = {
  name: 'redis_guard_redis_up',
  labels: [],
  help: '1 if Redis answered INFO in time for this scrape, else 0. While it is 0, the metrics that come from INFO ' +
    '(redis_guard_redis_*, except redis_guard_redis_duration_seconds) are absent.',
  // 0 if at least one worker of a node:cluster cannot ask.
  aggregator: 'min'
}

export function addRedisInfo (registers: Registry[], ask: InfoSource): void {
  const asked = new AskedOnce(ask)
  const up = new Gauge({
    name: upMetric.name,
    help: upMetric.help,
    aggregator: upMetric.aggregator,
    registers,
    async collect () { up.set(await asked.fields() === undefined ? 0 : 1) }
  })
  for (const { type, name, help, read } of infoMetrics) {
    const Kind: typeof Gauge | typeof Counter = type === 'gauge' ? Gauge : Counter
    const metric: Gauge | Counter = new Kind({
      name,
      help,
      registers,
      // All workers of a node:cluster ask the same Redis, so a sum would be wrong. The largest count is the latest.
      aggregator: 'max',
      async collect () {
        const answer = await asked.fields()
        const value = answer === undefined ? undefined : read(answer.fields, answer.info)
        metric.reset()
        if (value === undefined) metric.remove()
        else metric.inc(value)
      }
    })
  }
}

/** All metrics of a scrape ask in the same turn of the event loop; they share one question to Redis. */
class AskedOnce {
  readonly #ask: InfoSource
  #asking: Promise<ParsedInfo | undefined> | undefined

  constructor (ask: InfoSource) {
    this.#ask = ask
  }

  async fields (): Promise<ParsedInfo | undefined> {
    this.#asking ??= this.#read().finally(() => { this.#asking = undefined })
    return await this.#asking
  }

  async #read (): Promise<ParsedInfo | undefined> {
    try {
      const info = await this.#ask()
      return { info, fields: parseInfo(info.info) }
    } catch {
      return undefined
    }
  }
}

interface ParsedInfo {
  readonly info: RedisInfo
  readonly fields: ReadonlyMap<string, string>
}

function number (value: string | undefined): number | undefined {
  return value === undefined || !Number.isFinite(Number(value)) ? undefined : Number(value)
}

function sum (a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a + b
}
