/**
 * The Prometheus metrics of the plugin. A request adds to plain integers, which prom-client reads at a scrape. No label
 * is per address or key, so the number of series stays small.
 */
import { type Aggregator, Counter, Gauge, Histogram, type Registry } from 'prom-client'
import { type StoreFailure, storeFailureMeanings, storeFailures } from '../errors.js'
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
    help: 'Decisions on requests. outcome: allowed; limited (over the limit: 429, or 403 by ban); blocked (403); ' +
      'exempt (on an allow list); unlimited (max is Infinity); shadowed (passed, but a limit or block in shadow ' +
      'would have refused it; counted in addition to the decision of the other limits); and while Redis is away, ' +
      'as onOutage or skipOnError chooses: uncounted (passed), denied (503), failed (500). source: the store that ' +
      'counted the request (redis, memory, or custom: your own class), or local (this process decided without a ' +
      'store: by an allow list, the block list or a recent refusal of Redis, or because nothing was counted). limit: ' +
      'global, GET:/route, group:<groupId> or limiter:<number>, with :<name> if it is one of several limits; empty ' +
      'for a block.'
  },
  roundTrip: {
    name: 'redis_guard_redis_duration_seconds',
    labels: [],
    help: 'Seconds from sending a command to Redis until its answer or failure. One command may decide many requests.'
  },
  breakerState: {
    name: 'redis_guard_breaker_state',
    labels: ['state'],
    help: '1 for the current state of the circuit breaker in front of Redis, 0 for the others: closed (Redis is ' +
      'used), open (memory answers), half-open (memory answers while a probe tries Redis). Absent if no Redis is ' +
      'configured.',
    aggregator: 'max'
  },
  breakerTransitions: {
    name: 'redis_guard_breaker_transitions_total',
    labels: ['to'],
    help: 'Times that the circuit breaker in front of Redis entered a state: closed, open or half-open.'
  },
  store: {
    name: 'redis_guard_store',
    labels: ['store'],
    help: '1 for the store that answers now, 0 for the other: redis or memory.',
    aggregator: 'max'
  },
  errors: {
    name: 'redis_guard_errors_total',
    labels: ['kind'],
    help: `Failures of Redis. kind: ${meanings(storeFailureMeanings)}.`
  },
  blocked: {
    name: 'redis_guard_blocked_addresses',
    labels: [],
    help: 'Addresses and CIDR ranges that this process blocks.',
    aggregator: 'max'
  },
  keys: {
    name: 'redis_guard_memory_keys',
    labels: [],
    help: 'Counters of clients in the memory of this process; at most the option cache.',
    aggregator: 'sum'
  },
  journal: {
    name: 'redis_guard_journal_entries',
    labels: [],
    help: 'Changes that wait until they can be replayed to Redis: counters, blocks, events and values. At most the ' +
      'option maxJournal.',
    aggregator: 'sum'
  },
  journalDropped: {
    name: 'redis_guard_journal_dropped_total',
    labels: ['kind'],
    help: 'Changes that will never reach Redis, because the journal was full (raise maxJournal) or Redis rejected ' +
      'them (the log says why). kind: counters, blocks, events or values.'
  },
  instances: {
    name: 'redis_guard_instances',
    labels: [],
    help: 'Instances of the service that were alive at the last report of Redis, this one included.',
    aggregator: 'max'
  },
  processes: {
    name: 'redis_guard_processes',
    labels: [],
    help: 'Processes that these metrics cover: 1, or the number of workers that prom-client aggregated under ' +
      'node:cluster.',
    aggregator: 'sum'
  },
  events: {
    name: 'redis_guard_events_total',
    labels: ['type'],
    help: 'Refused requests by what became of their events. type: limited or blocked (recorded), or dropped (not ' +
      'recorded, because there were too many or Redis was too slow).'
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

/** The counts of one registration, and the metrics that show them. */
export class Metrics {
  readonly #decisions = new Decisions()
  readonly #transitions = new Counts()
  readonly #errors = new Counts()
  readonly #events = new Counts()
  readonly #dropped = new Counts()
  readonly #roundTrip: Histogram
  readonly #registry: MetricsRegistry

  /** @param registry  of any copy of prom-client. It throws if one of the names is taken */
  constructor (registry: MetricsRegistry, sources: MetricsSources) {
    this.#registry = registry
    // prom-client's constructors use no more of a registry than MetricsRegistry has.
    const registers = [registry as Registry]
    counter(described.decisions, this.#decisions, registers)
    counter(described.breakerTransitions, this.#transitions, registers)
    counter(described.errors, this.#errors, registers)
    counter(described.events, this.#events, registers)
    counter(described.journalDropped, this.#dropped, registers)
    // Known series begin at 0: Prometheus would not see the first increase of a series that begins at 1.
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
   * Removes these metrics from the registry, which may live longer than the application.
   *
   * @throws any error of the registry
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

/** Counts by limit, outcome and source. Each request adds one, so adding allocates no string and no object. */
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

/** Counts by label values. */
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

/** Sets the chosen label to 1 and the others to 0. */
function oneHot (gauge: Gauge, label: string, choices: readonly string[], chosen: string): void {
  for (const choice of choices) gauge.set({ [label]: choice }, choice === chosen ? 1 : 0)
}

/** Such as `auth (Redis refused user or password); oom (Redis is full)`. */
function meanings (byName: Readonly<Record<string, string>>): string {
  return Object.entries(byName).map(([name, meaning]) => `${name} (${meaning})`).join('; ')
}

function prometheusOptions (
  { name, help, labels, aggregator = 'sum' }: MetricDescription
): { name: string, help: string, labelNames: string[], aggregator: Aggregator } {
  return { name, help, labelNames: [...labels], aggregator }
}
