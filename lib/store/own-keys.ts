/**
 * Keys that only the guard writes. Where one of them holds something else that
 * the guard cannot work on, somebody else has put it there: the key is emptied,
 * for as long as it stays there the guard could not use Redis.
 */
import { StoreUnavailableError, ValueError } from '../errors.js'
import type { GuardedRedis } from '../redis/breaker.js'
import { type RedisClient, Script } from '../redis/script.js'
import { listOf, wholeOf } from './replies.js'

const mend = new Script('mend')

/** What a key has to hold; a stream also has to take entries, and a number to be one that can be counted on. */
export type OwnType = 'hash' | 'zset' | 'stream' | 'number' | 'text'

/** What became of what is not the guard's. */
export type ForeignFate = 'emptied' | 'passed over'

/** Called for each key at which something was found that is not the guard's, each time. */
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

  /** How often a key was emptied: what is read of it before and after is not of one piece. */
  get emptied (): number {
    return this.#emptied
  }

  /**
   * One round trip; three where a key has to be emptied first.
   *
   * @param command  works on these keys; run again when it failed because of what they held
   * @throws StoreUnavailableError  never a ValueError: nobody has asked for a value
   */
  async run<T> (command: (client: RedisClient) => Promise<T>): Promise<T> {
    try {
      return await this.#redis.run(command)
    } catch (error) {
      if (!isOfValue(error)) throw error
    }
    const names = Object.keys(this.#types)
    const emptied = await this.#redis.run(async client =>
      listOf(await mend.run(client, names, Object.values(this.#types)), names.length).map(flag => wholeOf(flag, 0, 1)))
    for (const name of names.filter((_, i) => emptied[i] === 1)) {
      this.#emptied++
      this.#onForeign(name, 'emptied')
    }
    return await asFailure(this.#redis.run(command), 'reply')
  }

  /** Takes note of an entry that is not the guard's, and hides none of the others. */
  passedOver (key: string): void {
    this.#onForeign(key, 'passed over')
  }
}

/** Where a value is of a wrong type that nobody has asked for by its key, Redis cannot be used for the command. */
export async function asFailure<T> (answer: Promise<T>, kind: 'reply' | 'lost'): Promise<T> {
  try {
    return await answer
  } catch (error) {
    if (!(error instanceof ValueError)) throw error
    throw new StoreUnavailableError(kind, `Redis cannot be used (${kind}): ${error.message}`, error)
  }
}

const takesNoMore = /exhausted the last possible ID|equal or smaller than the target stream/

/** A stream whose last id is the largest one takes no more entries. */
function isOfValue (error: unknown): boolean {
  return error instanceof ValueError || (error instanceof StoreUnavailableError && takesNoMore.test(error.message))
}
