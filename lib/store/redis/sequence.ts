/**
 * Numbers the calls of this instance: its hits, refunds, resets, values and events share one sequence. Redis keeps the
 * number of the last call that ran, and refuses a call unless its number is higher. So after an outage a fence shows
 * which calls ran.
 */
import { StoreUnavailableError } from '../../errors.js'
import { isCluster, type RedisClient, type Script, type ScriptCall } from '../../redis/script.js'

/** What Redis reported when the instance came back (store/redis/lua/fence.lua). */
export interface Fence {
  /** number of the last call that ran; -1: Redis does not know it, so no call that ran still counts */
  readonly last: number
  /** no call with a lower number will run any more */
  readonly next: number
}

/** The fence in a Cluster, where calls have no numbers. Whether a call ran is unknown there. */
export const noNumbers: Fence = { last: 0, next: 0 }

/** How long Redis keeps the numbers and markers of an instance that is gone. An outage may last as long. */
export const keptMs = 86_400_000

/** A call was sent and failed, but Redis may have run it. */
export class SentError extends StoreUnavailableError {
  /** number of the call */
  readonly sentIn: number

  constructor ({ kind, message, cause }: StoreUnavailableError, sentIn: number) {
    super(kind, message, cause as Error | undefined)
    this.name = StoreUnavailableError.name
    this.sentIn = sentIn
  }
}

/** Sends commands to Redis: GuardedRedis or RepairingRedis. */
interface Runner {
  run<T> (command: (client: RedisClient) => Promise<T>): Promise<T>
}

export class Sequence {
  /** key in Redis of the last number that ran */
  readonly key: string
  #last = 0
  #lastAnswered = 0

  constructor (key: string) {
    this.key = key
  }

  /** Number of the last call that Redis has answered; 0: there is none. */
  get lastAnswered (): number {
    return this.#lastAnswered
  }

  /**
   * Runs a command that sends one call.
   *
   * @throws SentError  if the call was sent with a number, and failed
   */
  async run<T> (redis: Runner, command: (client: RedisClient, call: NumberedCall) => Promise<T>): Promise<T> {
    const call = new NumberedCall(this.key, () => ++this.#last)
    try {
      const answer = await redis.run(async client => await command(client, call))
      this.#lastAnswered = Math.max(this.#lastAnswered, call.number ?? 0)
      return answer
    } catch (error) {
      if (call.number === undefined || !(error instanceof StoreUnavailableError)) throw error
      throw new SentError(error, call.number)
    }
  }

  /** The number for the next fence. It lies far ahead, so that no call sent until then has a higher number. */
  nextFence (): number {
    return this.#last + 2 ** 32
  }

  /** The next call gets the number after this one. */
  continueFrom (number: number): void {
    this.#last = number
  }
}

/** A call with its own number. */
class NumberedCall {
  readonly #key: string
  readonly #nextNumber: () => number
  #number: number | undefined

  constructor (key: string, nextNumber: () => number) {
    this.#key = key
    this.#nextNumber = nextNumber
  }

  /** undefined: the call has not been sent, or was sent to a Cluster */
  get number (): number | undefined {
    return this.#number
  }

  /**
   * Runs a script whose first argument is the number of the call, and whose last key is the key of the sequence. In a
   * Cluster the number is 0, and that key is left out. A script that is sent twice (NOSCRIPT) gets a new number.
   */
  async send (client: RedisClient, script: Script, { keys, args }: ScriptCall): Promise<unknown> {
    if (isCluster(client)) return await script.run(client, keys, [0, ...args])
    return await script.run(client, [...keys, this.#key], () => {
      this.#number = this.#nextNumber()
      return [this.#number, ...args]
    })
  }
}
