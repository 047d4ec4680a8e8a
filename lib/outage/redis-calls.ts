/**
 * How a store of the outage layer asks Redis: a bounded number of calls at
 * once, memory in place of an answer that does not come, and the journal for
 * changes that Redis did not get.
 */
import { StoreUnavailableError } from '../errors.js'
import type { Awaitable } from '../runtime/awaitable.js'
import { SentError } from '../store/redis/sequence.js'
import type { Availability } from './availability.js'
import { SingleCallQueue } from './call-queue.js'

/** A change that holds in memory already. */
export interface Write<T> {
  readonly call: () => Promise<T>
  /**
   * Called where Redis is away: keeps the change in the journal.
   *
   * @param sentIn  number of the call that Redis may have run; undefined: there is none, as in a Cluster
   * @param isLost  Redis has not run the call, and will not
   */
  readonly keep: (sentIn: number | undefined, isLost: boolean) => void
  /** Called where Redis rejected the command: resending it would fail too, so it is not journaled. Default: a no-op */
  readonly rejected?: (error: StoreUnavailableError) => void
}

/**
 * The most calls of one store under way: they take Redis some 5 ms. Decisions about requests come between them, and
 * each store has a queue of its own.
 */
const callsAtOnce = 256

export class RedisCalls {
  readonly #availability: Availability
  readonly #queue = new SingleCallQueue(callsAtOnce)

  constructor (availability: Availability) {
    this.#availability = availability
    emptyOnOutage(this.#queue, availability)
  }

  /** @throws what the call threw; StoreUnavailableError  where Redis went before it was sent */
  async ask<T> (call: () => Promise<T>): Promise<T> {
    return await this.#queue.ask(call)
  }

  /** @returns what Redis has, or memory where Redis does not answer */
  read<T> (remote: () => Promise<T>, local: () => Awaitable<T>): Awaitable<T> {
    return this.#availability.usesRedis ? this.#readRemote(remote, local) : local()
  }

  /** @returns the answer of Redis; undefined: Redis has not done it */
  async write<T> ({ call, keep, rejected = () => {} }: Write<T>): Promise<T | undefined> {
    let sentIn: number | undefined
    let isLost = false
    if (this.#availability.usesRedis) {
      try {
        return await call()
      } catch (error) {
        if (!(error instanceof StoreUnavailableError)) throw error
        if (error.kind === 'reply') {
          rejected(error)
          return undefined
        }
        isLost = error.kind === 'lost'
        if (isLost) this.#availability.lostData(error)
        else if (error instanceof SentError) sentIn = error.sentIn
      }
    }
    keep(sentIn, isLost)
    return undefined
  }

  async #readRemote<T> (remote: () => Promise<T>, local: () => Awaitable<T>): Promise<T> {
    try {
      return await this.#queue.ask(remote)
    } catch (error) {
      if (error instanceof StoreUnavailableError) return await local()
      throw error
    }
  }
}

/** Fails calls that wait when Redis goes: by the time that a recovery begins, memory has gone on without them. */
export function emptyOnOutage (queue: { empty (error: Error): void }, availability: Availability): void {
  availability.on('switch', ({ store }) => {
    if (store === 'memory') {
      queue.empty(new StoreUnavailableError('connection', 'Redis went away before the call was sent'))
    }
  })
}
