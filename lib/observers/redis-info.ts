/**
 * What Redis tells about itself, asked when somebody scrapes, once for all of
 * these metrics, and within the time limit of a command: a Redis that does not
 * answer costs the scrape no more than that.
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

/** Metrics read from one reply to INFO, by field; README lists them. */
export const infoMetrics: readonly InfoMetric[] = [
  field('gauge', 'redis_guard_redis_memory_used_bytes', 'used_memory', 'Memory that Redis has allocated, in bytes.'),
  field(
    'gauge', 'redis_guard_redis_memory_max_bytes', 'maxmemory',
    'The most memory that Redis may use, in bytes; 0: no limit.'
  ),
  field(
    'gauge', 'redis_guard_redis_memory_fragmentation_ratio', 'mem_fragmentation_ratio',
    'Memory that Redis holds from the system, relative to what it has allocated.'
  ),
  field('gauge', 'redis_guard_redis_connected_clients', 'connected_clients', 'Clients connected to Redis.'),
  field('gauge', 'redis_guard_redis_blocked_clients', 'blocked_clients', 'Clients that wait in a blocking command.'),
  field(
    'counter', 'redis_guard_redis_evicted_keys_total', 'evicted_keys',
    'Keys that Redis dropped to stay below its maximum memory. Should be 0: limits and blocks may be among them.'
  ),
  field(
    'counter', 'redis_guard_redis_expired_keys_total', 'expired_keys',
    'Keys that Redis dropped because their time was over.'
  ),
  field(
    'counter', 'redis_guard_redis_commands_processed_total', 'total_commands_processed',
    'Commands that Redis has run, for all of its clients.'
  ),
  field(
    'counter', 'redis_guard_redis_rejected_connections_total', 'rejected_connections',
    'Connections that Redis refused because it had too many clients.'
  ),
  {
    type: 'counter',
    name: 'redis_guard_redis_cpu_seconds_total',
    labels: [],
    help: 'CPU time that Redis has used, user and system, in seconds.',
    read: fields => sum(number(fields.get('used_cpu_user')), number(fields.get('used_cpu_sys')))
  },
  {
    type: 'gauge',
    name: 'redis_guard_redis_slowlog_entries',
    labels: [],
    help: 'Entries in the slow log of Redis: commands that took longer than slowlog-log-slower-than.',
    read: (fields, { slowLogLength }) => slowLogLength
  }
]

export const upMetric: MetricDescription = {
  name: 'redis_guard_redis_up',
  labels: [],
  help: '1 when Redis told about itself in time for this scrape, else 0; then the other redis_guard_redis_* are ' +
    'left out.',
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
      // All workers of a node:cluster ask the same Redis, so a sum is wrong. Of its counters the largest is the latest.
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

/** All metrics of one scrape share one answer: they ask in the same turn of the event loop. */
class AskedOnce {
  readonly #ask: InfoSource
  #asking: Promise<Answer | undefined> | undefined

  constructor (ask: InfoSource) {
    this.#ask = ask
  }

  async fields (): Promise<Answer | undefined> {
    this.#asking ??= this.#read().finally(() => { this.#asking = undefined })
    return await this.#asking
  }

  async #read (): Promise<Answer | undefined> {
    try {
      const info = await this.#ask()
      return { info, fields: parseInfo(info.info) }
    } catch {
      return undefined
    }
  }
}

interface Answer {
  readonly info: RedisInfo
  readonly fields: ReadonlyMap<string, string>
}

function number (value: string | undefined): number | undefined {
  return value === undefined || !Number.isFinite(Number(value)) ? undefined : Number(value)
}

function sum (a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a + b
}
