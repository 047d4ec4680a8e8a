/** Creates the parts of one registration and connects them to each other. It starts no work and no connection. */
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import { RedisGuard } from '../api/redis-guard.js'
import { Clients } from '../guard/clients.js'
import { Guard } from '../guard/guard.js'
import { keyHash } from '../guard/key-hash.js'
import { RefusalCache } from '../guard/refusal-cache.js'
import { LimitControl, type LimitControlParts } from '../limits/control.js'
import { LimitRegistry } from '../limits/registry.js'
import { forJson } from '../limits/stored-change.js'
import { ChangeLog } from '../observers/change-log.js'
import { DecisionLog } from '../observers/decision-log.js'
import { publishDecision } from '../observers/diagnostics.js'
import { EventLog } from '../observers/event-log.js'
import type { Metrics } from '../observers/metrics.js'
import { OutageLog } from '../observers/outage-log.js'
import type { SafeLog } from '../observers/safe-log.js'
import { steadyClock } from '../runtime/clock.js'
import { timers } from '../runtime/timers.js'
import type { Settings } from '../settings/settings.js'
import { Lifetime } from './lifetime.js'
import { addMetrics, chooseMetrics } from './metrics.js'
import type { Registrations } from './registrations.js'
import { makeStores, type Stores } from './stores.js'
import type { WarningLog } from './warning-log.js'
import { foreignValue } from './warnings.js'

/** What `assemble` is given. */
export interface Registration {
  readonly settings: Settings
  /** all registrations of the application, this one included */
  readonly registrations: Registrations
  /** it may throw; `log` is the same logger, but never throws */
  readonly logger: FastifyBaseLogger
  readonly log: SafeLog
  readonly warnings: WarningLog
}

export interface Parts extends Registration, Stores {
  /** ms since 1970; it never steps */
  readonly now: () => number
  readonly lifetime: Lifetime
  readonly outageLog: OutageLog
  readonly changeLog: ChangeLog
  readonly eventLog: EventLog
  /** undefined: metrics are off */
  readonly metrics: Metrics | undefined
  /**
   * the metrics that this registration created and has to remove; undefined also if another registration created them
   */
  readonly ownMetrics: Metrics | undefined
  readonly refusals: RefusalCache
  readonly clients: Clients
  readonly guard: Guard
  readonly registry: LimitRegistry
  readonly limitControl: LimitControl
  readonly redisGuard: RedisGuard
}

/** @throws GuardError  see `chooseMetrics` */
export function assemble (fastify: FastifyInstance, registration: Registration): Parts {
  const { settings, registrations, logger, log, warnings } = registration
  const chosen = chooseMetrics(fastify, settings, registrations)
  const now = steadyClock()
  // Date.now is looked up at each call, so that fake timers work that a test installs later.
  const wall = () => Date.now()
  const outageLog = new OutageLog(log)
  const stores = makeStores({
    settings,
    application: registrations.application,
    now,
    wall,
    onDrop (kind, count) {
      metrics?.dropped(kind, count)
      outageLog.journalFull(kind)
    },
    onForeign: (key, fate) => warnings.warnOnce(foreignValue(key, fate))
  })
  const { keys, memory, redis, status, limits, blocks, events, values } = stores
  const metrics = addMetrics(fastify, chosen, registrations, stores)

  const eventLog = new EventLog(async batch => {
    await events.logEvents(batch)
    for (const { type, count } of batch) metrics?.recorded(type, count)
  }, count => metrics?.recorded('dropped', count))
  const refusals = new RefusalCache({
    keys,
    capacity: settings.cache,
    now: timers.monotonicMs,
    write: async some => await redis?.limits.countRefusals(some)
  })
  const { hashKeys, nameSpace, limit: { ipv6Subnet, allowList } } = settings
  const hashKey = hashKeys === false ? undefined : keyHash(hashKeys === true ? nameSpace : hashKeys)
  const clients = new Clients({ ipv6Subnet, allowList: allowList.addresses, hashKey })
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- Fastify fills in its default
  const decisionLog = new DecisionLog(logger, fastify.initialConfig.requestIdLogLabel!)
  const guard = new Guard({
    limits,
    usesRedis: () => redis?.availability.usesRedis === true,
    blocks: memory.blocks,
    memory: memory.limits,
    refusals,
    refusesBlocked: settings.limit.enforce > 0,
    // One function that names its callees, not a list of functions: V8 inlines it.
    observe (decision, subject) {
      metrics?.decided(decision)
      eventLog.record(decision, subject, wall)
      decisionLog.note(decision, subject)
      publishDecision(decision, subject)
    }
  })

  const lifetime = new Lifetime()
  const { checkOpen } = lifetime
  const changeLog = new ChangeLog((details, message) => log.info(details, message))
  const registry = new LimitRegistry()
  const limitControl = new LimitControl({
    registry,
    counters: limits,
    values,
    forget: (key, checks) => refusals.forget({ clientKey: key }, checks),
    hashKey,
    onForeign: key => warnings.warnOnce(foreignValue(keys.value(key), 'ignored')),
    checkOpen,
    changeLog,
    onAdopted: logAdopted(log),
    now: wall
  })
  const redisGuard = new RedisGuard({
    availability: redis?.availability,
    status,
    blocks,
    events,
    values,
    limits: limitControl,
    eventLog,
    changeLog,
    client: redis?.guarded.client,
    warnings: warnings.found,
    rotate: redis === undefined ? undefined : async () => await redis.guarded.rotate(),
    now: wall,
    checkOpen,
    onListenerError: error => log.error({ err: error }, 'a listener of the switch event failed')
  })
  return {
    ...registration,
    ...stores,
    now,
    lifetime,
    outageLog,
    changeLog,
    eventLog,
    metrics,
    ownMetrics: chosen.kind === 'own' ? metrics : undefined,
    refusals,
    clients,
    guard,
    registry,
    limitControl,
    redisGuard
  }
}

/** How many limits a log line names; its `count` is that of all. */
const mostNamed = 20

function logAdopted (log: SafeLog): LimitControlParts['onAdopted'] {
  return (set, reset) => {
    if (set.length > 0) {
      const limits = set.slice(0, mostNamed).map(forJson)
      log.info({ limits, count: set.length }, 'limits that were set at run time are in force here')
    }
    if (reset.length > 0) {
      const limits = reset.slice(0, mostNamed)
      log.info({ limits, count: reset.length }, 'limits were reset: they are as configured again here')
    }
  }
}
