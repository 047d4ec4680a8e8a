/**
 * The end of an application: what is on its way to Redis arrives, or is
 * counted as lost, and neither takes long.
 */
import type { JournalKind } from '../outage/journal.js'
import { attempt } from '../runtime/awaitable.js'
import { timers } from '../runtime/timers.js'
import type { Parts } from './assembly.js'
import type { Background } from './background.js'
import type { RedisParts } from './stores.js'

/** Ends a registration. It logs what is lost, and does not throw. */
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
    log.warn({ lost }, 'the application closes before Redis has everything: the rest is lost')
  }
  redis?.guarded.close()
  ofRedis?.memoryWatch.close()
  await attempt(() => ownMetrics?.close(), error => {
    log.warn({ err: error }, 'the metrics could not be removed from their registry')
  })
}

export interface LastWrites {
  /** undefined: none is configured */
  readonly redis: Pick<RedisParts, 'availability' | 'guarded' | 'journal'> | undefined
  /** write what waits in this process; none of them begins again by itself */
  readonly flushes: readonly (() => Promise<void>)[]
  /** ms until no further command is begun */
  readonly limitMs: number
  /** until when a Redis that is away is tried once more, by `timers.monotonicMs()` */
  readonly tryUntilMs: number
}

/**
 * Sends all that Redis has not got. With a Redis that hangs, it takes the limit, and as long as a command may take.
 *
 * @returns what is lost, by kind; undefined: nothing
 */
export async function sendLast (
  { redis, flushes, limitMs, tryUntilMs }: LastWrites
): Promise<Readonly<Record<JournalKind, number>> | undefined> {
  const timer = timers.setTimeout(() => redis?.guarded.stop(), limitMs)
  // Writes that fail here wait in the journal.
  await Promise.allSettled(flushes.map(async flush => await flush()))
  await redis?.availability.drain(tryUntilMs)
  timers.clearTimeout(timer)
  redis?.guarded.stop()
  redis?.availability.close()
  return redis === undefined || redis.journal.size === 0 ? undefined : redis.journal.sizes
}
