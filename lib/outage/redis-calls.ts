/**
 * Asks Redis for a store of the outage layer. A bounded number of calls is under
 * way at once, memory answers where Redis does not, and changes that Redis did
 * not get go to the journal.
 */
import { StoreUnavailableError } from '../errors.js'
import type { Awaitable } from '../runtime/awaitable.js'
import { SentError } from '../store/redis/sequence.js'
import type { Availability } from './availability.js'
import { SingleCallQueue } from './call-queue.js'

/** A change of a store. */
export interface Write<T> {
  readonly call: () => Promise<T>
  /**
   * Keeps the change in the journal. Called if Redis is away.
   *
   * @param sentIn  number of the call that Redis may have run; undefined: there is none, as in a Cluster
   * @param isLost  Redis did not run the call, and never will
   */
  readonly keep: (sentIn: number | undefined, isLost: boolean) => void
  /** Called if Redis rejected the command. Resending it would fail too, so it is not journaled. Default: a no-op */
  readonly rejected?: (error: StoreUnavailableError) => void
}

/**
 * The most calls of one store under way. They take Redis some 5 ms, and decisions about requests wait as long. Each
 * store has its own queue.
 */
const callsAtOnce = 256

export class RedisCalls {
  readonly #availability: Availability
  readonly #queue = new SingleCallQueue(callsAtOnce)

  constructor (availability: Availability) {
    this.#availability = availability
    emptyOnOutage(this.#queue, availability)
  }

  /** @throws what the call threw; StoreUnavailableError  if Redis went before the call was sent */
  async ask<T> (call: () => Promise<T>): Promise<T> {
    return await this.#queue.ask(call)
  }

  /** @returns the answer of Redis, or that of memory if Redis does not answer */
  read<T> (remote: () => Promise<T>, local: () => Awaitable<T>): Awaitable<T> {
    return this.#availability.usesRedis ? this.#readRemote(remote, local) : local()
  }

  /** @returns the answer of Redis; undefined: Redis has not done it, as far as is known */
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

/** Fails the waiting calls when Redis goes: when Redis is back, memory has gone on without them. */
export function emptyOnOutage (queue: { empty (error: Error): void }, availability: Availability): void {
  availability.on('switch', ({ store }) => {
    if (store === 'memory') {
      queue.empty(new StoreUnavailableError('connection', 'Redis went away before the call was sent'))
    }
  })
}
