/**
 * Keys that only the guard may write. If another program has written a value
 * there that the guard cannot use, the key is deleted; otherwise the guard could
 * not use Redis.
 */
import { StoreUnavailableError, ValueError } from '../../errors.js'
import type { GuardedRedis } from '../../redis/breaker.js'
import type { RedisClient } from '../../redis/script.js'
import { mend, type OwnType } from './encodings/instance.js'

/** The fate of a foreign value. */
export type ForeignFate = 'emptied' | 'passed over'

/** Called each time that a foreign value is found at a key of the guard. */
export type OnForeign = (key: string, fate: ForeignFate) => void

export class OwnKeys {
  readonly #redis: GuardedRedis
  readonly #types: Readonly<Record<string, OwnType>>
  readonly #onForeign: OnForeign
  #emptied = 0

  /** @param types  by key; all keys of one slot of a Cluster */
  constructor (redis: GuardedRedis, types: Readonly<Record<string, OwnType>>, onForeign: OnForeign) {
    this.#redis = redis
    this.#types = types
    this.#onForeign = onForeign
  }

  /** How often keys were deleted: parts that were read before and after that do not belong together. */
  get emptied (): number {
    return this.#emptied
  }

  /**
   * One round trip; three if a key has to be deleted first.
   *
   * @param command  uses these keys; it is run again if it failed because of their values
   * @throws StoreUnavailableError  never a ValueError, since no caller has asked for one of these values
   */
  async run<T> (command: (client: RedisClient) => Promise<T>): Promise<T> {
    try {
      return await this.#redis.run(command)
    } catch (error) {
      if (!isOfValue(error)) throw error
    }
    const [names, types] = [Object.keys(this.#types), Object.values(this.#types)]
    const emptied = await this.#redis.run(async client =>
      mend.read(await mend.script.run(client, names, mend.args(types)), types))
    for (const name of names.filter((_, i) => emptied[i])) {
      this.#emptied++
      this.#onForeign(name, 'emptied')
    }
    try {
      return await this.#redis.run(command)
    } catch (error) {
      if (!(error instanceof ValueError)) throw error
      throw new StoreUnavailableError('reply', `Redis cannot be used (reply): ${error.message}`, error)
    }
  }

  /** Reports a foreign entry. The other entries are still used. */
  passedOver (key: string): void {
    this.#onForeign(key, 'passed over')
  }
}

const takesNoMore = /exhausted the last possible ID|equal or smaller than the target stream/

/** Also true for a stream whose last id is the largest possible one: it takes no more entries. */
function isOfValue (error: unknown): boolean {
  return error instanceof ValueError || (error instanceof StoreUnavailableError && takesNoMore.test(error.message))
}
