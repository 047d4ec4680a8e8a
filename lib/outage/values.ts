/**
 * Plain values over memory and Redis. `set`, `expire` and `del` always change
 * memory too, and memory adopts what `get` and `incr` read, so that it knows the
 * values if Redis goes. Changes that Redis did not get wait in the journal.
 */
import type { Awaitable } from '../runtime/awaitable.js'
import type { MemoryValues } from '../store/memory/values.js'
import type { ChangedValue } from '../store/redis/encodings/values.js'
import type { ValueOperation, ValueStore } from '../store/value-store.js'
import type { Availability, RedisSide } from './availability.js'
import { RedisCalls } from './redis-calls.js'

export interface OutageValuesOptions {
  readonly memory: MemoryValues
  readonly redis: Pick<RedisSide, 'store' | 'journal'>
  readonly availability: Availability
  /** ms since 1970 */
  readonly now: () => number
}

interface Change {
  readonly operation: ValueOperation
  /** changes memory, if Redis does not do it; default: a no-op, since memory is changed already */
  readonly local?: () => void
  /** throw if Redis rejects the command; default: memory alone is changed */
  readonly mustReach?: boolean
}

export class OutageValues implements ValueStore {
  readonly #memory: MemoryValues
  readonly #redis: Pick<RedisSide, 'store' | 'journal'>
  readonly #calls: RedisCalls
  readonly #now: () => number

  constructor ({ memory, redis, availability, now }: OutageValuesOptions) {
    this.#memory = memory
    this.#redis = redis
    this.#calls = new RedisCalls(availability)
    this.#now = now
  }

  get (key: string): Awaitable<string | null> {
    const since = this.#memory.changeCount
    return this.#calls.read(async () => {
      const stored = await this.#redis.store.values.get(key)
      this.#memory.adopt(key, stored, since)
      return stored?.text ?? null
    }, () => this.#memory.get(key))
  }

  async set (key: string, value: string, ttlMs = Infinity, mustReach = false): Promise<void> {
    const atMs = this.#now()
    const operation = { kind: 'set', key, atMs, text: value, expiresAtMs: atMs + ttlMs } as const
    const local = () => this.#memory.set(key, value, ttlMs)
    if (!mustReach) {
      local()
      await this.#change({ operation })
    } else if (await this.#change({ operation, local, mustReach }) !== undefined) {
      local()
    }
  }

  async incr (key: string): Promise<number> {
    const since = this.#memory.changeCount
    let sum = 0
    const changed = await this.#change({
      operation: { kind: 'incr', key, atMs: this.#now(), by: 1 },
      local: () => { sum = this.#memory.incr(key) }
    })
    if (changed?.reported === undefined) return sum
    this.#memory.adopt(key, changed.reported, since)
    return Number(changed.reported.text)
  }

  async expire (key: string, ttlMs: number): Promise<boolean> {
    const atMs = this.#now()
    const local = this.#memory.expire(key, ttlMs)
    const changed = await this.#change({ operation: { kind: 'expire', key, atMs, expiresAtMs: atMs + ttlMs } })
    return changed?.existed ?? local
  }

  async del (key: string): Promise<boolean> {
    const local = this.#memory.del(key)
    const changed = await this.#change({ operation: { kind: 'del', key, atMs: this.#now() } })
    return changed?.existed ?? local
  }

  /**
   * Changes a value in Redis. If Redis is away, the journal keeps the change.
   *
   * @returns the result in Redis; undefined: Redis did not do it
   * @throws ValueError  of Redis, or of `local`
   * @throws StoreUnavailableError  of kind `reply`, if it `mustReach` Redis and Redis rejects it
   */
  async #change ({ operation, local = () => {}, mustReach = false }: Change): Promise<ChangedValue | undefined> {
    const { store, journal } = this.#redis
    const order = journal.nextValueOrder()
    return await this.#calls.write({
      call: async () => await this.#calls.ask(async () => await store.values.change(operation, operation.atMs)),
      keep: sentIn => {
        local()
        journal.addValue(operation, order, sentIn)
      },
      rejected: error => {
        if (mustReach) throw error
        local()
      }
    })
  }
}
