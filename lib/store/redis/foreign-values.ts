/**
 * Repairs keys that only the guard may write. If another program has written a
 * foreign value, one that the guard cannot use, the key is deleted. Otherwise the
 * guard could not use Redis.
 */
import { StoreUnavailableError, ValueError } from '../../errors.js'
import type { GuardedRedis } from '../../redis/breaker.js'
import type { RedisClient } from '../../redis/script.js'
import { mend, type KeyType } from './encodings/instance.js'

/** What the guard did with a foreign value: it deleted the key, or ignored the entry. */
export type ForeignFate = 'deleted' | 'ignored'

/** Called each time a foreign value is found. @param key  the guard's key in Redis */
export type OnForeign = (key: string, fate: ForeignFate) => void

export class RepairingRedis {
  readonly #redis: GuardedRedis
  readonly #types: Readonly<Record<string, KeyType>>
  readonly #onForeign: OnForeign
  #deletions = 0

  /** @param types  by key: the type that its value must have. All keys lie in one slot of a Cluster */
  constructor (redis: GuardedRedis, types: Readonly<Record<string, KeyType>>, onForeign: OnForeign) {
    this.#redis = redis
    this.#types = types
    this.#onForeign = onForeign
  }

  /** Number of deleted keys. If it changes between two reads, their replies do not belong together. */
  get deletions (): number {
    return this.#deletions
  }

  /**
   * Runs a command: one round trip, or three if a key must be deleted first.
   *
   * @param command  uses only these keys; it runs again if it failed because of a foreign value
   * @throws StoreUnavailableError  never a ValueError, since the value is not one that the caller has set
   */
  async run<T> (command: (client: RedisClient) => Promise<T>): Promise<T> {
    try {
      return await this.#redis.run(command)
    } catch (error) {
      if (!isOfValue(error)) throw error
    }
    const [names, types] = [Object.keys(this.#types), Object.values(this.#types)]
    const deleted = await this.#redis.run(async client =>
      mend.read(await mend.script.run(client, names, mend.args(types)), types))
    for (const name of names.filter((_, i) => deleted[i])) {
      this.#deletions++
      this.#onForeign(name, 'deleted')
    }
    try {
      return await this.#redis.run(command)
    } catch (error) {
      if (!(error instanceof ValueError)) throw error
      throw new StoreUnavailableError('reply', `Redis cannot be used (reply): ${error.message}`, error)
    }
  }

  /** Reports a foreign entry that was ignored. The other entries of the key are still used. */
  reportIgnored (key: string): void {
    this.#onForeign(key, 'ignored')
  }
}

/** Errors of a stream that takes no more entries, because its last id is the largest possible one. */
const takesNoMore = /exhausted the last possible ID|equal or smaller than the target stream/

/** Whether a command failed because of the value at its key. */
function isOfValue (error: unknown): boolean {
  return error instanceof ValueError || (error instanceof StoreUnavailableError && takesNoMore.test(error.message))
}
