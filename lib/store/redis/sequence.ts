/**
 * The one sequence of numbers under which this instance sends its hits, refunds, resets, values and events. Redis keeps
 * the last number that ran, and runs none below it, so a fence tells afterwards which calls ran.
 */
import { StoreUnavailableError } from '../../errors.js'
import { isCluster, type RedisClient, type Script, type ScriptCall } from '../../redis/script.js'

/** What Redis reported of an instance's numbers when the instance came back (store/redis/lua/fence.lua). */
export interface Fence {
  /** the last that ran; -1: Redis does not know, so none that would still count */
  readonly last: number
  /** of those below, none will run any more */
  readonly next: number
}

/** In a Cluster calls have no numbers: nobody knows whether one ran. */
export const noNumbers: Fence = { last: 0, next: 0 }

/** ms that Redis keeps what it knows of an instance that is gone; an outage may be as long. */
export const keptMs = 86_400_000

/** The failure of a call that was sent, and that Redis may have run all the same. */
export class SentError extends StoreUnavailableError {
  /** number of the call */
  readonly sentIn: number

  constructor ({ kind, message, cause }: StoreUnavailableError, sentIn: number) {
    super(kind, message, cause as Error | undefined)
    this.name = StoreUnavailableError.name
    this.sentIn = sentIn
  }
}

/** Whoever sends commands to Redis. */
interface Runner {
  run<T> (command: (client: RedisClient) => Promise<T>): Promise<T>
}

export class Sequence {
  /** where Redis keeps the last number */
  readonly key: string
  #last = 0
  #lastAnswered = 0

  constructor (key: string) {
    this.key = key
  }

  /** Number of the last call that Redis has answered; 0: none. */
  get lastAnswered (): number {
    return this.#lastAnswered
  }

  /**
   * Runs a command that sends one call.
   *
   * @throws SentError  when the call was sent under a number, and failed
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

  /** The number to go on from once the earlier ones are void: no instance sends so many in between. */
  leap (): number {
    return this.#last + 2 ** 32
  }

  goOnFrom (number: number): void {
    this.#last = number
  }
}

/** A call under a number of its own. */
class NumberedCall {
  readonly #key: string
  readonly #nextNumber: () => number
  #number: number | undefined

  constructor (key: string, nextNumber: () => number) {
    this.#key = key
    this.#nextNumber = nextNumber
  }

  /** undefined: it has not been sent, or to a Cluster */
  get number (): number | undefined {
    return this.#number
  }

  /**
   * Runs a script whose first argument is the number of the call, and whose last key is that of the sequence; in a
   * Cluster without a number, which is 0, and without that key. A script that is sent twice gets a new number.
   */
  async send (client: RedisClient, script: Script, { keys, args }: ScriptCall): Promise<unknown> {
    if (isCluster(client)) return await script.run(client, keys, [0, ...args])
    return await script.run(client, [...keys, this.#key], () => {
      this.#number = this.#nextNumber()
      return [this.#number, ...args]
    })
  }
}
