/** Connects Redis at the start: how long the application waits, and when it refuses to start without Redis. */
import type { FastifyInstance } from 'fastify'
import { RedisRequiredError } from '../errors.js'
import { publishSwitch } from '../observers/diagnostics.js'
import type { Availability } from '../outage/availability.js'
import { timers } from '../runtime/timers.js'
import type { Settings } from '../settings/settings.js'
import type { Parts } from './assembly.js'
import type { Background } from './background.js'
import type { RedisParts } from './stores.js'

/**
 * Connects, and waits until Redis answers, for `connectTimeout` at most.
 *
 * @param close  called before this throws
 * @throws RedisRequiredError  if Redis is required and does not answer in time
 */
export async function connect (
  fastify: FastifyInstance, parts: Parts, { ofRedis }: Background, close: () => Promise<void>
): Promise<void> {
  const { settings, status, log, outageLog } = parts
  if (ofRedis === undefined) {
    log.info({ reason: status().reason }, 'limits and blocks are kept in memory, by each process on its own')
    return
  }
  const { redis, follower, memoryWatch } = ofRedis
  const { guarded, availability } = redis
  watchRedis(redis, parts)
  availability.on('switch', ({ store }) => { if (store === 'redis') follower.sync().catch(() => {}) })
  guarded.once('up', () => memoryWatch.start())
  const startUpMs = Math.min(settings.connectTimeout, longestStartUp(fastify))
  const untilMs = timers.monotonicMs() + startUpMs
  await guarded.connect(startUpMs)
  await within(availability.settle(), untilMs)
  const waitMs = guarded.isEnded ? 0 : untilMs - timers.monotonicMs()
  const whyAway = isRequired(settings) ? await reasonAfter(availability, waitMs) : undefined
  if (whyAway !== undefined) {
    await close()
    throw new RedisRequiredError(startUpMs, whyAway)
  }
  // A long block list over a slow line goes on loading while the application starts.
  await within(follower.sync(), untilMs)
  follower.start()
  const { reason } = status()
  if (reason !== undefined) outageLog.startedWithoutRedis(reason)
}

/** Logs, counts and publishes outages, failures and losses from now on. */
function watchRedis ({ guarded, availability }: RedisParts, { metrics, outageLog }: Parts): void {
  availability.on('switch', status => {
    publishSwitch(status)
    outageLog.switched(status)
  })
  availability.on('rejected', (kind, count, error) => {
    metrics?.dropped(kind, count)
    outageLog.rejected(kind, count, error)
  })
  guarded.on('failure', failure => {
    if (!guarded.usable) outageLog.stillAway(failure)
    else if (failure.kind === 'reply' && availability.usesRedis) outageLog.commandRejected(failure)
  })
}

function isRequired ({ redis }: Settings): boolean {
  return redis.kind !== 'none' && redis.required === true
}

/** Waits for the work, at most until a moment of the monotonic clock. */
async function within (work: Promise<void>, untilMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const over = new Promise<void>(resolve => {
    timer = timers.setTimeout(resolve, Math.max(0, untilMs - timers.monotonicMs())).unref()
  })
  // Cleared: a timer that still runs would keep a closed application in memory.
  await Promise.race([work, over]).finally(() => timers.clearTimeout(timer))
}

/** Waits for Redis. @returns why memory still answers after this time; undefined: Redis answers */
async function reasonAfter (availability: Availability, ms: number): Promise<string | undefined> {
  if (availability.status.store === 'memory') {
    await new Promise<void>(resolve => {
      const settle = () => {
        timers.clearTimeout(timer)
        availability.off('switch', settle)
        resolve()
      }
      const timer = timers.setTimeout(settle, ms)
      availability.on('switch', settle)
    })
  }
  return availability.status.reason
}

/** ms. Fastify fails a plugin that takes longer than `pluginTimeout`. */
function longestStartUp ({ initialConfig: { pluginTimeout = 10_000 } }: FastifyInstance): number {
  return pluginTimeout === 0 ? Infinity : pluginTimeout * 0.8
}
