/**
 * Puts the parts together for one Fastify instance. The only place that knows
 * them all, and that reads the environment and the clock.
 */
import { randomInt, randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { attempt } from './runtime/awaitable.js'
import { steadyClock } from './runtime/clock.js'
import { sendLast } from './startup/closing.js'
import type { CreateRateLimitOptions } from './compat/types.js'
import { ClosedError, RedisRequiredError, StoreUnavailableError } from './errors.js'
import { BlockListFollower } from './outage/block-replica.js'
import { publishDecision, publishSwitch } from './observers/diagnostics.js'
import { ChangeLog } from './observers/change-log.js'
import { DenyCache } from './guard/refusal-cache.js'
import { EventLog } from './observers/event-log.js'
import { Guard } from './guard/guard.js'
import { keyHash } from './guard/key-hash.js'
import { forJson, LimitControl } from './limits/control.js'
import { LimitRegistry } from './limits/registry.js'
import { MemoryWatch } from './startup/memory-watch.js'
import { RedisGuard } from './api/redis-guard.js'
import { registrationsOf } from './startup/registrations.js'
import { checkAtStart } from './startup/checks.js'
import { addMetrics, chooseMetrics } from './startup/metrics.js'
import { WarningLog } from './startup/warning-log.js'
import { infoOfPrimaries } from './redis/info.js'
import { logDecision } from './observers/decision-log.js'
import { foreignValue, trustProxyOf } from './startup/warnings.js'
import { clientReader } from './http/client-address.js'
import { counterMaker } from './compat/custom-store.js'
import { addHooks } from './http/hooks.js'
import type { RateLimiter, RateLimitHandler } from './http/decorators.js'
import type { RedisGuardOptions, RouteRateLimitOptions } from './settings/options.js'
import type { HashKey } from './addresses/keyed-hash.js'
import { resolveOptions, type Settings } from './settings/settings.js'
import { GuardedRedis } from './redis/breaker.js'
import { Connection } from './redis/connection.js'
import { pluginLog, safeLog } from './observers/safe-log.js'
import type { RedisSide } from './outage/availability.js'
import { FailoverStore } from './outage/failover.js'
import { type Carried, Journal } from './outage/journal.js'
import { Keys } from './store/keys.js'
import { MemoryLimits } from './store/memory/limits.js'
import { MemoryStore } from './store/memory/memory-store.js'
import type { OnForeign } from './store/redis/foreign-values.js'
import { RedisStore } from './store/redis/redis-store.js'
import { Shares } from './outage/shares.js'
import { timers } from './runtime/timers.js'

declare module 'fastify' {
  // If one declaration leaves the parameters out, TypeScript does not fill in those of another one, such as that of
  // @fastify/rate-limit.
  // eslint-disable-next-line @typescript-eslint/no-unused-vars
  interface FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider> {
    redisGuard: RedisGuard
    /** A hook that limits whatever it is added to; without options by the plugin's limit, and on its counters. */
    rateLimit (options?: RouteRateLimitOptions): RateLimitHandler
    /** A function that counts a request and says how far its client is. */
    createRateLimit (options?: CreateRateLimitOptions): RateLimiter
  }

  // Inherited, since two declared properties must have the same type, and @fastify/rate-limit declares this one, too.
  interface FastifyContextConfig extends RateLimitContextConfig {}
}

/** What this plugin reads in the `config` of a route. */
export interface RateLimitContextConfig {
  /** This route's own limit; `false`: none. */
  rateLimit?: RouteRateLimitOptions | false
}

/** ms between two log lines about commands that Redis refuses. */
const refusedCommandIntervalMs = 60_000

/** Limits that one log line names. */
const mostNamed = 20

/** How often expired counters, values and blocks are removed from memory, ms. */
const sweepIntervalMs = 30_000

async function redisGuard (fastify: FastifyInstance, options: RedisGuardOptions): Promise<void> {
  const settings = resolveOptions(options, process.env)
  const logger = pluginLog(fastify, settings.environment)
  const log = safeLog(logger)
  const warnings = new WarningLog(log)
  const registrations = registrationsOf(fastify)
  checkAtStart(fastify, { options, settings, registrations }, log, warnings)

  const chosen = chooseMetrics(fastify, settings, registrations)
  const now = steadyClock()
  // Looked up at each call, so that fake timers which come later work.
  const wall = () => Date.now()
  const keys = new Keys(settings.nameSpace)
  const { cache: capacity, maxEvents } = settings
  const memory = new MemoryStore({ keys, capacity, maxEvents, now, wall, hashKey: randomKey() })
  const droppedKinds = new Set<Carried>()
  const onDrop = (kind: Carried, count: number) => {
    metrics?.dropped(kind, count)
    // Logged once for each kind in an outage.
    if (droppedKinds.has(kind)) return
    droppedKinds.add(kind)
    log.warn({ kind }, `the journal is full: some of the ${kind} that Redis has missed will not reach it`)
  }
  const onForeign: OnForeign = (key, fate) => {
    warnings.warnOnce(foreignValue(key, fate))
    // The blocks that were there are known here, too.
    if (key !== keys.blocks || fate !== 'emptied') return
    store.lostData(new StoreUnavailableError('lost', 'Redis has lost its block list'))
  }
  const redis = connect(settings, keys, now, registrations.application, onDrop, onForeign)
  const store = new FailoverStore({ memory, redis, unconfigured: settings.redis.kind === 'none' ? settings.redis.reason : '', keys, now })
  const metrics = addMetrics(fastify, chosen, registrations, { store, memory, redis })

  const eventLog = new EventLog(async events => {
    await store.logEvents(events)
    for (const { type, count } of events) metrics?.recorded(type, count)
  }, count => metrics?.recorded('dropped', count))

  const denyCache = new DenyCache({ keys, capacity: settings.cache, now: timers.monotonicMs, write: async refusals => await store.countRefusals(refusals) })
  // Fastify fills in its default.
  const idLabel = fastify.initialConfig.requestIdLogLabel!
  const limits = new LimitRegistry()
  let isClosed = false
  const checkOpen = () => { if (isClosed) throw new ClosedError() }
  const { hashKeys, nameSpace } = settings
  const hashKey = hashKeys === false ? undefined : keyHash(hashKeys === true ? nameSpace : hashKeys)
  const guard = new Guard({
    store,
    memory,
    denyCache,
    ipv6Subnet: settings.limit.ipv6Subnet,
    allowList: settings.limit.allowList.addresses,
    hashKey,
    refusesBlocked: settings.limit.enforce > 0,
    listeners: [
      event => metrics?.decided(event),
      event => eventLog.record(event, wall()),
      event => logDecision(logger, idLabel, event),
      publishDecision
    ]
  })

  const changeLog = new ChangeLog((details, message) => log.info(details, message))
  const limitControl = new LimitControl({
    registry: limits,
    counters: store,
    values: store,
    forget: (key, checks) => denyCache.forget(key, checks),
    hashKey,
    onForeign: key => onForeign(keys.value(key), 'passed over'),
    checkOpen,
    changeLog,
    onTakenOver: (set, reset) => {
      if (set.length > 0) {
        const limits = set.slice(0, mostNamed).map(forJson)
        log.info({ limits, count: set.length }, 'limits that were set at run time are in force')
      }
      if (reset.length > 0) {
        log.info({ limits: reset.slice(0, mostNamed), count: reset.length }, 'limits are as configured again')
      }
    },
    now: wall
  })
  const isFirst = !fastify.hasDecorator('redisGuard')
  const redisGuard = new RedisGuard({
    store,
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
  if (isFirst) fastify.decorate('redisGuard', redisGuard)
  if (!isFirst) registrations.within++
  const counterFor = counterMaker(options, settings, { memory: memory.limits, commandTimeout: settings.commandTimeout, now })
  addHooks(fastify, {
    guard,
    registry: limits,
    settings,
    namePrefix: isFirst ? '' : `${registrations.within}:`,
    counterFor,
    clientOf: clientReader(trustProxyOf(fastify), guard),
    checkOpen
  })

  const sweep = timers.setInterval(() => {
    memory.sweep()
    redis?.shares.sweep()
    redis?.journal.sweep(now())
  }, sweepIntervalMs).unref()
  const follower = redis === undefined
    ? undefined
    : new BlockListFollower({
      memory,
      redis: redis.store.blockList,
      usable: () => store.usesRedis,
      knowsEpoch: epoch => store.knowsEpoch(epoch),
      onLost: () => store.lostData(new StoreUnavailableError('lost', 'Redis has lost its block list')),
      intervalMs: settings.syncInterval,
      now,
      onError: error => log.warn({ err: error }, 'the block list could not be read from Redis')
    })

  const syncLimits = async () => {
    await limitControl.sync(() => store.usesRedis)
    isSyncFailing = false
  }
  let isSyncFailing = false
  const syncFailed = (error: unknown) => {
    if (!isSyncFailing) log.warn({ err: error }, 'limits that were set at run time could not be read from Redis')
    isSyncFailing = true
  }
  const limitSync = redis === undefined ? undefined : timers.setInterval(() => { syncLimits().catch(syncFailed) }, settings.syncInterval).unref()
  fastify.addHook('onReady', async () => await syncLimits().catch(syncFailed))

  const memoryWatch = redis === undefined
    ? undefined
    : new MemoryWatch({ ask: async () => await infoOfPrimaries(redis.guarded), warn: (warning, details) => warnings.warn(warning, details), now: timers.monotonicMs })

  const close = async () => {
    isClosed = true
    timers.clearInterval(sweep)
    timers.clearInterval(limitSync)
    changeLog.flush()
    follower?.close()
    const flushes = [async () => await denyCache.flush(), async () => await eventLog.flush()]
    const { commandTimeout: limitMs } = settings
    registrations.tryUntilMs ??= timers.monotonicMs() + limitMs
    const lost = await sendLast({ store, redis, flushes, limitMs, tryUntilMs: registrations.tryUntilMs })
    if (lost !== undefined) {
      log.warn({ lost }, 'the application closes before Redis has everything: the rest is lost')
    }
    redis?.guarded.close()
    // Redis may have come back meanwhile, and begun it.
    memoryWatch?.close()
    if (chosen.kind === 'own') {
      await attempt(() => metrics?.close(), error => {
        log.warn({ err: error }, 'the metrics could not be removed from their registry')
      })
    }
  }
  fastify.addHook('onClose', close)

  if (redis === undefined) {
    log.info({ reason: store.status.reason }, 'limits and blocks are kept in memory')
    return
  }
  store.on('switch', status => {
    const { store: now, reason } = status
    publishSwitch(status)
    if (now === 'redis') {
      droppedKinds.clear()
      log.info('Redis answers')
      follower!.sync().catch(() => {})
    } else log.warn({ reason }, 'Redis is away, memory answers')
  })
  store.on('refused', (kind, count, error) => {
    metrics?.dropped(kind, count)
    log.error({ err: error, kind, count }, 'Redis rejected journal entries during replay; they are lost')
  })
  let toldMs = -Infinity
  redis.guarded.on('failure', failure => {
    // Such as for want of a right. Redis stays in use, so that nothing else tells of it.
    if (failure.kind !== 'reply' || !store.usesRedis || timers.monotonicMs() - toldMs < refusedCommandIntervalMs) return
    toldMs = timers.monotonicMs()
    log.warn({ err: failure }, 'Redis refuses a command, memory answers for it')
  })
  redis.guarded.once('up', () => memoryWatch!.start())
  const startUpMs = Math.min(settings.connectTimeout, longestStartUp(fastify))
  const untilMs = timers.monotonicMs() + startUpMs
  await redis.guarded.connect(startUpMs)
  await within(store.settle(), untilMs)
  const waitMs = redis.guarded.isEnded ? 0 : untilMs - timers.monotonicMs()
  if (isRequired(settings) && !await isUsedWithin(store, waitMs)) {
    const { reason } = store.status
    await close()
    throw new RedisRequiredError(startUpMs, reason!)
  }
  // A long list over a slow line goes on loading while the application starts.
  await within(follower!.sync(), untilMs)
  follower!.start()
  const { store: first, reason } = store.status
  if (first === 'memory') log.warn({ reason }, 'Redis cannot be used yet, memory answers')
}

export default fp(redisGuard, { fastify: '5.x', name: 'fastify-redis-guard' })

function connect (
  settings: Settings, keys: Keys, now: () => number, application: string,
  onDrop: (kind: Carried, count: number) => void, onForeign: OnForeign
): RedisSide | undefined {
  if (settings.redis.kind === 'none') return undefined
  const guarded = new GuardedRedis(new Connection(settings.redis, settings), { ...settings, probeKey: keys.probe })
  const { maxEvents, maxJournal: capacity, cache } = settings
  return {
    guarded,
    store: new RedisStore(guarded, { keys, maxEvents, instance: randomUUID(), application, onForeign }),
    journal: new Journal({ capacity, maxEvents: Math.min(capacity, maxEvents), onDrop }),
    // Two counters for each key.
    shares: new Shares(new MemoryLimits({ keys, capacity: 2 * cache, now, hashKey: randomKey() }), now)
  }
}

function randomKey (): HashKey {
  return [randomInt(2 ** 32), randomInt(2 ** 32)]
}

function isRequired ({ redis }: Settings): boolean {
  return redis.kind !== 'none' && redis.required === true
}

/** Waits for it until a moment of the monotonic clock at most. */
async function within (work: Promise<void>, untilMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const over = new Promise<void>(resolve => {
    timer = timers.setTimeout(resolve, Math.max(0, untilMs - timers.monotonicMs())).unref()
  })
  // A timer that is left would keep a closed application in memory.
  await Promise.race([work, over]).finally(() => timers.clearTimeout(timer))
}

/** @returns whether Redis answers by then; a Redis that comes up meanwhile does */
async function isUsedWithin (store: FailoverStore, ms: number): Promise<boolean> {
  const isUsed = () => store.status.store === 'redis'
  return isUsed() || await new Promise(resolve => {
    const settle = () => {
      timers.clearTimeout(timer)
      store.off('switch', settle)
      resolve(isUsed())
    }
    const timer = timers.setTimeout(settle, ms)
    store.on('switch', settle)
  })
}

/** ms: Fastify gives up a plugin that takes longer than its pluginTimeout. */
function longestStartUp ({ initialConfig: { pluginTimeout = 10_000 } }: FastifyInstance): number {
  return pluginTimeout === 0 ? Infinity : pluginTimeout * 0.8
}
