/** This instance among all others in Redis: what it has sent, and that it is alive. */
import { randomUUID } from 'node:crypto'
import type { GuardedRedis } from '../../redis/breaker.js'
import { isCluster } from '../../redis/script.js'
import type { Keys } from '../keys.js'
import { fence, type Heartbeat, heartbeat } from './encodings/instance.js'
import type { OwnKeys } from './foreign-values.js'
import { type Fence, keptMs, noNumbers, type Sequence } from './sequence.js'

export interface RedisInstanceOptions {
  readonly keys: Keys
  /** the keys of the block list, in whose slot the instances are counted */
  readonly ownKeys: OwnKeys
  readonly sequence: Sequence
  /** tells this instance from all others; a text without braces */
  readonly instance: string
  /** what is counted once, however many instances it has */
  readonly application: string
}

export class RedisInstance {
  readonly #redis: GuardedRedis
  readonly #options: RedisInstanceOptions

  constructor (redis: GuardedRedis, options: RedisInstanceOptions) {
    this.#redis = redis
    this.#options = options
  }

  /** Number of the last call that Redis has answered; 0: none, or Redis is a Cluster. */
  get lastAnswered (): number {
    return this.#options.sequence.lastAnswered
  }

  /**
   * Sees to it that calls which were sent and have not run yet never will.
   *
   * @returns `noNumbers` in a Cluster
   */
  async fence (): Promise<Fence> {
    const { keys, sequence, instance } = this.#options
    return await this.#redis.run(async client => {
      if (isCluster(client)) return noNumbers
      const given = { next: sequence.leap(), keptMs }
      const reply = await fence.script.run(client, [sequence.key, keys.fence(instance)], fence.args(given))
      const last = fence.read(reply, given)
      // A number above `next` is foreign, but only calls with larger numbers run.
      const next = Math.max(given.next, last)
      sequence.goOnFrom(next)
      return { last, next }
    })
  }

  /**
   * Says that this instance is alive.
   *
   * @param epoch    of the data that it has replayed its journal to. Undefined, or not that of Redis: its replay is not
   *   over, so it is not counted as alive
   * @param sinceMs  a moment by Redis' clock, ms since 1970
   */
  async heartbeat (epoch?: string, sinceMs = 0): Promise<Heartbeat> {
    const { keys, ownKeys, sequence, application } = this.#options
    const beat = { application, epoch, aliveMs, newEpoch: randomUUID(), sinceMs }
    return await ownKeys.run(async client => {
      const [reply] = await Promise.all([
        heartbeat.script.run(client, [keys.instances, keys.epoch], heartbeat.args(beat)),
        client.pexpire(sequence.key, keptMs)
      ])
      return heartbeat.read(reply, beat)
    })
  }
}

/** ms since the last heartbeat; one a second is sent. */
export const aliveMs = 5000
