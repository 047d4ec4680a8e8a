/** The scripts of an instance (fence and heartbeat), and the script that deletes foreign values. */
import { Script } from '../../../redis/script.js'
import { scripts } from '../lua/scripts.js'
import { clockOf, listOf, textOf, wholeOf } from '../replies.js'
import type { Encoding } from './encoding.js'

/** `next`: only calls with higher numbers will run. The reply is the last number that ran; -1: Redis does not know. */
export const fence: Encoding<{ readonly next: number, readonly keptMs: number }, number> = {
  script: new Script(scripts.fence),
  args: ({ next, keptMs }) => [next, keptMs],
  read: reply => wholeOf(reply, -1)
}

/** The arguments of `heartbeat`. */
export interface Beat {
  /** id of the application, which all its registrations share; they count as one instance */
  readonly application: string
  /** epoch of the data that the journal was replayed to; if undefined or not that of Redis, nothing is registered */
  readonly epoch: string | undefined
  /** how long an instance counts as alive after a heartbeat */
  readonly aliveMs: number
  /** the epoch to set if Redis has none */
  readonly newEpoch: string
  /** a moment by Redis' clock, ms since 1970 */
  readonly sinceMs: number
}

/** The reply of `heartbeat`. */
export interface Heartbeat {
  /** a different one than before means that Redis has lost its data */
  readonly epoch: string
  /** number of instances that are alive, including this one */
  readonly instances: number
  /** number of instances that had a heartbeat since `sinceMs` */
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

/** The type of a key's value. A stream must also take new entries, and a number must be safe to increment. */
export type KeyType = 'hash' | 'zset' | 'stream' | 'number' | 'text'

/** Deletes foreign values. The argument is the type of each key; the reply says for each key whether it was deleted. */
export const mend: Encoding<readonly KeyType[], readonly boolean[]> = {
  script: new Script(scripts.mend),
  args: types => types,
  read: (reply, types) => listOf(reply, types.length).map(flag => wholeOf(flag, 0, 1) === 1)
}
