/**
 * Plain values over the two stores. `set`, `expire` and `del` are done in
 * memory in any case, so that it knows them should Redis go; what `get` and
 * `incr` are told is noted there. What Redis does not take waits in the journal.
 */
import type { Awaitable } from '../runtime/awaitable.js'
import { StoreUnavailableError } from '../errors.js'
import type { SingleCallQueue } from './call-queue.js'
import type { Availability } from './availability.js'
import type { Journal } from './journal.js'
import type { MemoryValues } from '../store/memory/values.js'
import type { RedisStore } from '../store/redis/redis-store.js'
import type { ChangedValue } from '../store/redis/values.js'
import type { ValueOperation } from '../store/value-store.js'

export interface FailoverValuesOptions {
  readonly memory: MemoryValues
  readonly redis: { readonly store: RedisStore, readonly journal: Journal }
  /** ms since 1970 */
  readonly now: () => number
  readonly availability: Availability
  readonly calls: SingleCallQueue
}

/** See store/store.ts for what its methods do. */
export class FailoverValues {
  readonly #options: FailoverValuesOptions
  readonly #memory: MemoryValues

  constructor (options: FailoverValuesOptions) {
    this.#options = options
    this.#memory = options.memory
  }

  get (key: string): Awaitable<string | null> {
    return this.#options.availability.usesRedis ? this.#getThere(key) : this.#memory.get(key)
  }

  async set (key: string, value: string, ttlMs = Infinity, mustReach = false): Promise<void> {
    const atMs = this.#options.now()
    const here = () => this.#memory.set(key, value, ttlMs)
    if (!mustReach) here()
    const operation = { kind: 'set', key, atMs, text: value, expiresAtMs: atMs + ttlMs } as const
    const changed = await this.#change(operation, mustReach ? here : undefined, mustReach)
    if (mustReach && changed !== undefined) here()
  }

  async incr (key: string): Promise<number> {
    const since = this.#memory.clock
    let sum = 0
    const changed = await this.#change({ kind: 'incr', key, atMs: this.#options.now(), by: 1 }, () => { sum = this.#memory.incr(key) })
    if (changed === undefined) return sum
    this.#memory.adopt(key, changed.told, since)
    return Number(changed.told!.text)
  }

  async expire (key: string, ttlMs: number): Promise<boolean> {
    const atMs = this.#options.now()
    const local = this.#memory.expire(key, ttlMs)
    const changed = await this.#change({ kind: 'expire', key, atMs, expiresAtMs: atMs + ttlMs })
    return changed?.existed ?? local
  }

  async del (key: string): Promise<boolean> {
    const local = this.#memory.del(key)
    const changed = await this.#change({ kind: 'del', key, atMs: this.#options.now() })
    return changed?.existed ?? local
  }

  async #getThere (key: string): Promise<string | null> {
    const since = this.#memory.clock
    try {
      const told = await this.#options.calls.ask(async () => await this.#options.redis.store.values.get(key))
      this.#memory.adopt(key, told, since)
      return told?.text ?? null
    } catch (error) {
      if (error instanceof StoreUnavailableError) return this.#memory.get(key)
      throw error
    }
  }

  /**
   * Does something to a value in Redis; where that is away, keeps it in the journal.
   *
   * @param here       does it in memory, where Redis does not; left out: that is done
   * @param mustReach  a command that Redis rejects is an error
   * @returns what Redis told; undefined: it did nothing
   * @throws ValueError  of Redis, or of `here`
   * @throws StoreUnavailableError  of kind `reply`, where it must reach Redis, which rejects it
   */
  async #change (operation: ValueOperation, here = () => {}, mustReach = false): Promise<ChangedValue | undefined> {
    const { redis: { store, journal }, availability, calls } = this.#options
    const order = journal.nextValueOrder()
    const ticket = { number: 0 }
    if (availability.usesRedis) {
      try {
        const changed = await calls.ask(async () => await store.values.change(operation, operation.atMs, ticket))
        availability.answered(ticket.number)
        return changed
      } catch (error) {
        if (!(error instanceof StoreUnavailableError)) throw error
        if (error.kind === 'lost') {
          ticket.number = 0
          availability.lostData(error)
        }
        if (error.kind === 'reply') {
          if (mustReach) throw error
          here()
          // Redis rejected the command; resending it would fail too, so it is not journaled.
          return undefined
        }
      }
    }
    here()
    journal.addValue(operation, order, ticket.number > 0 ? ticket.number : undefined)
    return undefined
  }
}
