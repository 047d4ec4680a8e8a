/** This instance in Redis: which of its calls ran (fence), and that it is alive (heartbeat). */
import { randomUUID } from 'node:crypto'
import type { GuardedRedis } from '../../redis/breaker.js'
import { isCluster } from '../../redis/script.js'
import type { Keys } from '../keys.js'
import { fence, type Heartbeat, heartbeat } from './encodings/instance.js'
import type { RepairingRedis } from './foreign-values.js'
import { type Fence, keptMs, noNumbers, type Sequence } from './sequence.js'

export interface RedisInstanceOptions {
  readonly keys: Keys
  /** Redis for the keys of the block list; the keys of instances lie in the same slot */
  readonly blockRedis: RepairingRedis
  readonly sequence: Sequence
  /** unique id of this instance; a text without braces */
  readonly instance: string
  /** id of the application, which all its registrations share; they count as one instance */
  readonly application: string
}

export class RedisInstance {
  readonly #redis: GuardedRedis
  readonly #options: RedisInstanceOptions

  constructor (redis: GuardedRedis, options: RedisInstanceOptions) {
    this.#redis = redis
    this.#options = options
  }

  /** Number of the last call that Redis has answered; 0: there is none, or Redis is a Cluster. */
  get lastAnswered (): number {
    return this.#options.sequence.lastAnswered
  }

  /**
   * Makes sure that calls that were sent but have not run yet will never run.
   *
   * @returns which calls ran; `noNumbers` in a Cluster
   */
  async fence (): Promise<Fence> {
    const { keys, sequence, instance } = this.#options
    return await this.#redis.run(async client => {
      if (isCluster(client)) return noNumbers
      const given = { next: sequence.nextFence(), keptMs }
      const reply = await fence.script.run(client, [sequence.key, keys.fence(instance)], fence.args(given))
      const last = fence.read(reply, given)
      // A number above `next` is foreign, but Redis will run only calls with larger numbers.
      const next = Math.max(given.next, last)
      sequence.continueFrom(next)
      return { last, next }
    })
  }

  /**
   * Reports that this instance is alive, and asks how many are.
   *
   * @param epoch    epoch of the data that its journal was replayed to. If it is undefined or not that of Redis, the
   *   replay is not over, and Redis does not register the instance as alive
   * @param sinceMs  by Redis' clock, ms since 1970: the reply says how many instances had a heartbeat since
   */
  async heartbeat (epoch?: string, sinceMs = 0): Promise<Heartbeat> {
    const { keys, blockRedis, sequence, application } = this.#options
    const beat = { application, epoch, aliveMs, newEpoch: randomUUID(), sinceMs }
    return await blockRedis.run(async client => {
      const [reply] = await Promise.all([
        heartbeat.script.run(client, [keys.instances, keys.epoch], heartbeat.args(beat)),
        client.pexpire(sequence.key, keptMs)
      ])
      return heartbeat.read(reply, beat)
    })
  }
}

/** How long an instance counts as alive after a heartbeat. It sends one a second. */
export const aliveMs = 5000
