/**
 * The end of an application: what is on its way to Redis arrives, or is
 * counted as lost, and neither takes long.
 */
import type { RedisSide } from '../outage/availability.js'
import type { FailoverStore } from '../outage/failover.js'
import type { Carried } from '../outage/journal.js'
import { timers } from '../runtime/timers.js'

export interface LastWrites {
  readonly store: FailoverStore
  readonly redis: RedisSide | undefined
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
  { store, redis, flushes, limitMs, tryUntilMs }: LastWrites
): Promise<Readonly<Record<Carried, number>> | undefined> {
  const timer = timers.setTimeout(() => redis?.guarded.stop(), limitMs)
  // Writes that fail here wait in the journal.
  await Promise.allSettled(flushes.map(async flush => await flush()))
  await store.drain(tryUntilMs)
  timers.clearTimeout(timer)
  redis?.guarded.stop()
  store.close()
  return redis === undefined || redis.journal.size === 0 ? undefined : redis.journal.sizes
}
