/** Closes a registration: it sends Redis what still waits, within `commandTimeout`, and logs what is lost. */
import type { JournalKind } from '../outage/journal.js'
import { attempt } from '../runtime/awaitable.js'
import { timers } from '../runtime/timers.js'
import type { Parts } from './assembly.js'
import type { Background } from './background.js'
import type { RedisParts } from './stores.js'

/** Never throws. */
export async function close (parts: Parts, { ofRedis, stop }: Background): Promise<void> {
  const { settings, registrations, lifetime, redis, refusals, eventLog, changeLog, ownMetrics, log } = parts
  lifetime.end()
  stop()
  changeLog.flush()
  const flushes = [async () => await refusals.flush(), async () => await eventLog.flush()]
  const { commandTimeout: limitMs } = settings
  registrations.tryUntilMs ??= timers.monotonicMs() + limitMs
  const lost = await sendLast({ redis, flushes, limitMs, tryUntilMs: registrations.tryUntilMs })
  if (lost !== undefined) {
    log.warn({ lost }, 'the application closes before Redis has everything: the rest is lost. `lost` counts it by ' +
      'kind. If Redis was only slow, raise commandTimeout')
  }
  redis?.guarded.close()
  ofRedis?.memoryWatch.close()
  await attempt(() => ownMetrics?.close(), error => {
    log.warn({ err: error }, 'the metrics could not be removed from their registry')
  })
}

export interface LastWrites {
  /** undefined: no Redis is configured */
  readonly redis: Pick<RedisParts, 'availability' | 'guarded' | 'journal'> | undefined
  /** each writes what waits in this process, once */
  readonly flushes: readonly (() => Promise<void>)[]
  /** time after which no further command begins */
  readonly limitMs: number
  /** end of the one further try of a Redis that is away, by `timers.monotonicMs()` */
  readonly tryUntilMs: number
}

/**
 * Sends everything that Redis does not have yet. With a Redis that hangs, this takes `limitMs` and the time limit of a
 * command.
 *
 * @returns how many entries are lost, by kind; undefined: none
 */
export async function sendLast (
  { redis, flushes, limitMs, tryUntilMs }: LastWrites
): Promise<Readonly<Record<JournalKind, number>> | undefined> {
  const timer = timers.setTimeout(() => redis?.guarded.stop(), limitMs)
  // A write that fails here is in the journal afterwards.
  await Promise.allSettled(flushes.map(async flush => await flush()))
  await redis?.availability.drain(tryUntilMs)
  timers.clearTimeout(timer)
  redis?.guarded.stop()
  redis?.availability.close()
  return redis === undefined || redis.journal.size === 0 ? undefined : redis.journal.sizes
}
