/** The scripts about this instance, and about the guard's own keys. */
import { Script } from '../../../redis/script.js'
import { scripts } from '../lua/scripts.js'
import { clockOf, listOf, textOf, wholeOf } from '../replies.js'
import type { Encoding } from './encoding.js'

/** `next`: the number to go on from. The reply is the last number that ran; -1: Redis does not know it. */
export const fence: Encoding<{ readonly next: number, readonly keptMs: number }, number> = {
  script: new Script(scripts.fence),
  args: ({ next, keptMs }) => [next, keptMs],
  read: reply => wholeOf(reply, -1)
}

export interface Beat {
  /** what is counted once, however many instances it has */
  readonly application: string
  /** of the data that its replay went to; undefined: that is not over */
  readonly epoch: string | undefined
  /** ms after the last heartbeat in which an instance counts as alive */
  readonly aliveMs: number
  /** the epoch to begin where there is none */
  readonly newEpoch: string
  /** a moment by Redis' clock, ms since 1970 */
  readonly sinceMs: number
}

/** The reply of `heartbeat`. */
export interface Heartbeat {
  /** another one than before: Redis has lost its data */
  readonly epoch: string
  /** that are alive, this one among them */
  readonly instances: number
  /** of them, those that have said so since a moment that was asked for */
  readonly since: number
  /** Redis' clock, ms since 1970 */
  readonly nowMs: number
}

export const heartbeat: Encoding<Beat, Heartbeat> = {
  script: new Script(scripts.heartbeat),

  args: ({ application, epoch = '', aliveMs, newEpoch, sinceMs }) =>
    [application, epoch, aliveMs, newEpoch, sinceMs],

  read (reply) {
    const [epoch, instances, since, nowMs] = listOf(reply, 4)
    return { epoch: textOf(epoch), instances: wholeOf(instances, 1), since: wholeOf(since), nowMs: clockOf(nowMs) }
  }
}

/** The type of a key's value. A stream must also take new entries, and a number be safe to increment. */
export type OwnType = 'hash' | 'zset' | 'stream' | 'number' | 'text'

/** The types of keys. The reply says of each key whether it was deleted. */
export const mend: Encoding<readonly OwnType[], readonly boolean[]> = {
  script: new Script(scripts.mend),
  args: types => types,
  read: (reply, types) => listOf(reply, types.length).map(flag => wholeOf(flag, 0, 1) === 1)
}
