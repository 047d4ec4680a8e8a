/**
 * The contract again, over the two stores: Redis answers while it can, memory
 * at once when it cannot. Requests that are under way when Redis goes wait for
 * the time limit of a command at most; later ones do not wait.
 */
import { EventEmitter } from 'node:events'
import type { Awaitable } from '../awaitable.js'
import { StoreUnavailableError } from '../errors.js'
import { Batch } from '../redis/batch.js'
import type { BreakerState, GuardedRedis } from '../redis/breaker.js'
import type { MemoryStore } from './memory.js'
import type { RedisStore } from './redis.js'
import type { Block, BlockRequest, Hit, RateLimitEvent, Refusals, Store, Suspect, Taken } from './store.js'

export interface StoreStatus {
  /** which store answers now */
  readonly store: 'redis' | 'memory'
  /** `off`: no Redis is configured */
  readonly breaker: BreakerState | 'off'
  /** why memory answers; undefined while Redis does */
  readonly reason: string | undefined
  /** since when this store answers */
  readonly since: Date
}

export interface FailoverEvents {
  /** The store that answers has changed. */
  switch: [status: StoreStatus]
}

/** Redis as the failover needs it: the store, and the breaker in front of it. */
export interface RedisSide {
  readonly store: RedisStore
  readonly guarded: GuardedRedis
}

/** Called with the failure, or with what became of the hit and who decided. */
export type TakeCallback = (failure: StoreUnavailableError | undefined, taken: Taken | undefined, source: 'redis' | 'memory') => void

export class FailoverStore extends EventEmitter<FailoverEvents> implements Store {
  readonly #memory: MemoryStore
  readonly #redis: RedisSide | undefined
  readonly #unconfigured: string
  readonly #batch: Batch
  #since = new Date()

  /** @param unconfigured  why there is no Redis, where there is none */
  constructor (memory: MemoryStore, redis: RedisSide | undefined, unconfigured = '') {
    super()
    this.#memory = memory
    this.#redis = redis
    this.#unconfigured = unconfigured
    this.#batch = new Batch(hits => redis!.store.take(hits))
    redis?.guarded.on('up', () => this.#switched())
    redis?.guarded.on('down', () => this.#switched())
  }

  get status (): StoreStatus {
    const guarded = this.#redis?.guarded
    if (guarded === undefined) return { store: 'memory', breaker: 'off', reason: this.#unconfigured, since: this.#since }
    const usable = guarded.usable
    return {
      store: usable ? 'redis' : 'memory',
      breaker: guarded.state,
      reason: usable ? undefined : guarded.failure.message,
      since: this.#since
    }
  }

  /**
   * Decides one hit; from memory before it returns, from Redis together with
   * all others of this turn of the event loop.
   *
   * @param strict  with Redis away, fail rather than answer from memory
   * @param done    called once; with a failure only where `strict` asks for it
   */
  takeOne (hit: Hit, strict: boolean, done: TakeCallback): void {
    if (this.#redis === undefined) return done(undefined, this.#memory.takeOne(hit), 'memory')
    const fallBack = (failure: StoreUnavailableError) => {
      if (strict) done(failure, undefined, 'redis')
      else done(undefined, this.#memory.takeOne(hit), 'memory')
    }
    if (!this.#redis.guarded.usable) return fallBack(this.#redis.guarded.failure)
    this.#batch.add(hit, (error, taken) => {
      if (taken === undefined) fallBack(this.#redis!.guarded.report(error))
      else done(undefined, taken, 'redis')
    })
  }

  /** Whether Redis answers now. */
  get usesRedis (): boolean {
    return this.#redis?.guarded.usable === true
  }

  /**
   * Adds refusals that were decided without a store to Redis' counters.
   *
   * @throws StoreUnavailableError
   */
  async countRefusals (refusals: readonly Refusals[]): Promise<void> {
    await this.#redis?.store.countRefusals(refusals)
  }

  take (hits: readonly Hit[]): Awaitable<readonly Taken[]> {
    return this.#either(store => store.take(hits))
  }

  get (key: string): Awaitable<string | null> {
    return this.#either(store => store.get(key))
  }

  set (key: string, value: string, ttlMs: number | undefined): Awaitable<void> {
    return this.#either(store => store.set(key, value, ttlMs))
  }

  incr (key: string): Awaitable<number> {
    return this.#either(store => store.incr(key))
  }

  expire (key: string, ttlMs: number): Awaitable<boolean> {
    return this.#either(store => store.expire(key, ttlMs))
  }

  del (key: string): Awaitable<boolean> {
    return this.#either(store => store.del(key))
  }

  logEvents (events: readonly RateLimitEvent[]): Awaitable<void> {
    return this.#either(store => store.logEvents(events))
  }

  events (limit: number): Awaitable<readonly RateLimitEvent[]> {
    return this.#either(store => store.events(limit))
  }

  clearEvents (olderThanMs: number): Awaitable<number> {
    return this.#either(store => store.clearEvents(olderThanMs))
  }

  suspects (limit: number): Awaitable<readonly Suspect[]> {
    return this.#either(store => store.suspects(limit))
  }

  /** In force here when it returns, and on the other instances as soon as they look. */
  block (request: BlockRequest): Awaitable<Block> {
    const local = this.#memory.block(request)
    return this.#either(store => store === this.#memory ? local : store.block(request))
  }

  unblock (ip: string): Awaitable<boolean> {
    const local = this.#memory.unblock(ip)
    return this.#either(store => store === this.#memory ? local : store.unblock(ip))
  }

  isBlocked (address: string): Awaitable<boolean> {
    return this.#either(store => store.isBlocked(address))
  }

  blocks (): Awaitable<readonly Block[]> {
    return this.#either(store => store.blocks())
  }

  #either<T> (call: (store: Store) => Awaitable<T>): Awaitable<T> {
    return this.usesRedis ? this.#onRedis(this.#redis!.store, call) : call(this.#memory)
  }

  async #onRedis<T> (store: RedisStore, call: (store: Store) => Awaitable<T>): Promise<T> {
    try {
      return await call(store)
    } catch (error) {
      if (error instanceof StoreUnavailableError) return await call(this.#memory)
      throw error
    }
  }

  #switched (): void {
    this.#since = new Date()
    this.emit('switch', this.status)
  }
}
