/**
 * The plugin's Prometheus metrics. What a request adds to is a plain integer,
 * published when somebody scrapes. No label is per address or key: a label's
 * values are limits, outcomes and stores, of which there are few.
 */
import { type Aggregator, Counter, Gauge, Histogram, type Registry } from 'prom-client'
import { type StoreFailure, storeFailures } from '../errors.js'
import type { Decision, Source } from '../guard/decision.js'
import type { MetricsRegistry } from '../settings/options.js'
import { type BreakerState, breakerStates } from '../redis/breaker.js'
import type { StoreStatus } from '../outage/availability.js'
import { type JournalKind, journalKinds } from '../outage/journal.js'
import { addRedisInfo, infoMetrics, type InfoSource, upMetric } from './redis-info.js'
import type { MetricDescription } from './metric-description.js'

export const described = {
  decisions: {
    name: 'redis_guard_decisions_total',
    labels: ['limit', 'outcome', 'source'],
    help: 'Requests decided. outcome: allowed, limited (429), blocked (403), exempt (allow list), unlimited (max is ' +
      'Infinity), shadowed (passed, but a limit in shadow would have refused it; told beside what other limits ' +
      'decided), uncounted, denied (503) or failed (500) (Redis away, as onOutage and skipOnError say). source: who ' +
      'decided, redis, memory, custom for a store of your own, or local for the lists in the process, what Redis ' +
      'refused a moment ago, and what nobody counted. limit: global, or method and route, with :name where there ' +
      'are several, group:name, limiter:number, or empty for a block.'
  },
  roundTrip: {
    name: 'redis_guard_redis_duration_seconds',
    labels: [],
    help: 'Time from sending a command to Redis to its answer or failure, in seconds.'
  },
  breakerState: {
    name: 'redis_guard_breaker_state',
    labels: ['state'],
    help: '1 for the state that the circuit breaker before Redis is in: closed (Redis is used), open (it is not), ' +
      'half-open (it is being tried). Absent without Redis.',
    aggregator: 'max'
  },
  breakerTransitions: {
    name: 'redis_guard_breaker_transitions_total',
    labels: ['to'],
    help: 'Times that the circuit breaker has gone to a state.'
  },
  store: {
    name: 'redis_guard_store',
    labels: ['store'],
    help: '1 for the store that answers now, redis or memory.',
    aggregator: 'max'
  },
  errors: {
    name: 'redis_guard_errors_total',
    labels: ['kind'],
    help: `Failures of Redis by kind: ${storeFailures.join(', ')}.`
  },
  blocked: {
    name: 'redis_guard_blocked_addresses',
    labels: [],
    help: 'Addresses and ranges on the block list of this process.',
    aggregator: 'max'
  },
  keys: {
    name: 'redis_guard_memory_keys',
    labels: [],
    help: 'Counters of clients that this process keeps in its own memory, bounded by the option cache.',
    aggregator: 'sum'
  },
  journal: {
    name: 'redis_guard_journal_entries',
    labels: [],
    help: 'Counters, changes of blocks, events and values that Redis is yet to be told.',
    aggregator: 'sum'
  },
  journalDropped: {
    name: 'redis_guard_journal_dropped_total',
    labels: ['kind'],
    help: 'What was lost for Redis, because the journal was full or Redis rejected it. kind: counters, blocks, ' +
      'events, values.'
  },
  instances: {
    name: 'redis_guard_instances',
    labels: [],
    help: 'Instances that were alive when Redis last told, this one among them.',
    aggregator: 'max'
  },
  processes: {
    name: 'redis_guard_processes',
    labels: [],
    help: 'Processes that these metrics cover: 1, or the workers of a node:cluster that prom-client has aggregated.',
    aggregator: 'sum'
  },
  events: {
    name: 'redis_guard_events_total',
    labels: ['type'],
    help: 'Refused requests recorded as events. type: limited, blocked, ' +
      'or dropped when there was no room or Redis was too slow.'
  }
} satisfies Record<string, MetricDescription>

export interface MetricsSources {
  readonly status: () => StoreStatus
  readonly blockCount: () => number
  readonly keyCount: () => number
  readonly journalSize: () => number
  readonly instances: () => number
  /** undefined: no Redis is configured */
  readonly redisInfo: InfoSource | undefined
}

/** What is counted between two scrapes, and the metrics that show it. */
export class Metrics {
  readonly #decisions = new Decisions()
  readonly #transitions = new Counts()
  readonly #errors = new Counts()
  readonly #events = new Counts()
  readonly #dropped = new Counts()
  readonly #roundTrip: Histogram
  readonly #registry: MetricsRegistry

  /** @param registry  of any copy of prom-client; what it has under our names is an error */
  constructor (registry: MetricsRegistry, sources: MetricsSources) {
    this.#registry = registry
    // The structural type is all of it that prom-client's constructors use.
    const registers = [registry as Registry]
    counter(described.decisions, this.#decisions, registers)
    counter(described.breakerTransitions, this.#transitions, registers)
    counter(described.errors, this.#errors, registers)
    counter(described.events, this.#events, registers)
    counter(described.journalDropped, this.#dropped, registers)
    // Series that are known beforehand begin at 0: Prometheus sees no increase in one that begins at 1.
    for (const type of ['limited', 'blocked', 'dropped']) this.#events.add([type], 0)
    if (sources.redisInfo !== undefined) {
      for (const kind of journalKinds) this.#dropped.add([kind], 0)
      for (const kind of storeFailures) this.#errors.add([kind], 0)
      for (const state of breakerStates) this.#transitions.add([state], 0)
    }
    this.#roundTrip = new Histogram({
      ...prometheusOptions(described.roundTrip),
      registers,
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1]
    })
    gauge(described.store, registers, store => oneHot(store, 'store', ['redis', 'memory'], sources.status().store))
    gauge(described.breakerState, registers, state => {
      const { breaker } = sources.status()
      if (breaker !== 'off') oneHot(state, 'state', breakerStates, breaker)
    })
    gauge(described.blocked, registers, blocked => blocked.set(sources.blockCount()))
    gauge(described.journal, registers, journal => journal.set(sources.journalSize()))
    gauge(described.instances, registers, instances => instances.set(sources.instances()))
    gauge(described.processes, registers, processes => processes.set(1))
    gauge(described.keys, registers, keys => keys.set(sources.keyCount()))
    if (sources.redisInfo !== undefined) addRedisInfo(registers, sources.redisInfo)
  }

  decided ({ name = '', kind, source }: Decision): void {
    this.#decisions.add(name, kind, source)
  }

  roundTrip (seconds: number): void {
    this.#roundTrip.observe(seconds)
  }

  breakerWent (to: BreakerState): void {
    this.#transitions.add([to], 1)
  }

  failed (kind: StoreFailure): void {
    this.#errors.add([kind], 1)
  }

  dropped (kind: JournalKind, count: number): void {
    this.#dropped.add([kind], count)
  }

  recorded (type: string, count: number): void {
    this.#events.add([type], count)
  }

  /**
   * Takes ours out of a registry that may live longer than the application.
   *
   * @throws what the registry throws, or rejects with
   */
  async close (): Promise<void> {
    const all = [...Object.values(described), upMetric, ...infoMetrics]
    await Promise.all(all.map(async ({ name }) => await this.#registry.removeSingleMetric(name)))
  }
}

interface Count {
  readonly values: readonly string[]
  count: number
}

/** Integers by limit, outcome and source; one for each request, so adding makes no text and no object. */
class Decisions {
  readonly #byLimit = new Map<string, Map<Decision['kind'], Map<Source, Count>>>()
  readonly #all: Count[] = []

  add (limit: string, outcome: Decision['kind'], source: Source): void {
    const known = this.#byLimit.get(limit)?.get(outcome)?.get(source)
    if (known === undefined) this.#begin(limit, outcome, source)
    else known.count++
  }

  values (): Iterable<Readonly<Count>> {
    return this.#all
  }

  #begin (limit: string, outcome: Decision['kind'], source: Source): void {
    const byOutcome = inner(this.#byLimit, limit, () => new Map<Decision['kind'], Map<Source, Count>>())
    const entry = { values: [limit, outcome, source], count: 1 }
    inner(byOutcome, outcome, () => new Map<Source, Count>()).set(source, entry)
    this.#all.push(entry)
  }
}

function inner<K, V> (map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key)
  if (value === undefined) map.set(key, value = make())
  return value
}

/** Integers by label values. */
class Counts {
  readonly #counts = new Map<string, Count>()

  add (values: readonly string[], by: number): void {
    const key = values.join('\n')
    const entry = this.#counts.get(key)
    if (entry === undefined) this.#counts.set(key, { values, count: by })
    else entry.count += by
  }

  values (): Iterable<Readonly<Count>> {
    return this.#counts.values()
  }
}

function counter (
  description: MetricDescription, counts: { values: () => Iterable<Readonly<Count>> }, registers: Registry[]
): void {
  const metric = new Counter({
    ...prometheusOptions(description),
    registers,
    collect () {
      this.reset()
      for (const { values, count } of counts.values()) this.labels(...values).inc(count)
    }
  })
  metric.reset()
}

function gauge (description: MetricDescription, registers: Registry[], collect: (gauge: Gauge) => void): Gauge {
  return new Gauge({ ...prometheusOptions(description), registers, collect () { collect(this) } })
}

function oneHot (gauge: Gauge, label: string, choices: readonly string[], chosen: string): void {
  for (const choice of choices) gauge.set({ [label]: choice }, choice === chosen ? 1 : 0)
}

function prometheusOptions (
  { name, help, labels, aggregator = 'sum' }: MetricDescription
): { name: string, help: string, labelNames: string[], aggregator: Aggregator } {
  return { name, help, labelNames: [...labels], aggregator }
}
