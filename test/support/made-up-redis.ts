/**
 * A simulated Redis and breaker, for moments that a real server shows only by luck. A test replaces the methods whose
 * answers it decides.
 */
import { EventEmitter } from 'node:events'
import type { Test } from 'tap'
import { StoreUnavailableError } from '../../lib/errors.js'
import { Journal } from '../../lib/outage/journal.js'
import { Shares } from '../../lib/outage/shares.js'
import { outageStores } from '../../lib/outage/stores.js'
import type { GuardedRedis } from '../../lib/redis/breaker.js'
import type { Block, BlockOperation } from '../../lib/store/block-store.js'
import { Keys } from '../../lib/store/keys.js'
import { windowOf } from '../../lib/rules/fixed-window.js'
import type { Check } from '../../lib/rules/rate-limit.js'
import {
  type CounterBaseline, type Hit, type LocalCounter, outcomeOf, type Taken
} from '../../lib/store/limit-store.js'
import { MemoryLimits } from '../../lib/store/memory/limits.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import { Batch } from '../../lib/store/redis/batch.js'
import type { MergedInto, UnansweredByRedis } from '../../lib/store/redis/limits.js'
import type { RedisStore } from '../../lib/store/redis/redis-store.js'
import { type Fence, SentError } from '../../lib/store/redis/sequence.js'

export const keys = new Keys('guard:')

/** The reason why this Redis cannot be used. */
export const gone = new StoreUnavailableError('connection', 'gone')

export class MadeUpBreaker extends EventEmitter {
  usable = false
  state = 'open'
  failure = gone
  commandTimeout = 250
  /** ms that each attempt to connect may take */
  readonly attempts: number[] = []
  report (error: unknown): unknown { return error }
  idle = async (): Promise<void> => {}
  connect = async (withinMs: number): Promise<void> => { this.attempts.push(withinMs) }
  up (): void { this.usable = true; this.emit('up') }
  down (): void { this.usable = false; this.emit('down', gone) }
}

export class MadeUpRedis {
  epoch = 'first'
  instances = 1
  heartbeats = 0
  /** its clock, ms since 1970 */
  now = Date.now
  /** the counters merged into it, by call */
  readonly mergeCalls: { readonly hasBaselines: boolean, readonly counters: readonly LocalCounter[] }[] = []
  /** the baselines restored in it */
  readonly restored: CounterBaseline[] = []
  readonly applied: BlockOperation[] = []
  listed: Block[] = []

  readonly instance = {
    lastAnswered: 0,
    /** Everything sent so far has run; later calls are numbered from 1. */
    fence: async (): Promise<Fence> => ({ last: 0, next: 1 }),
    heartbeat: async () => {
      this.heartbeats++
      return { epoch: this.epoch, instances: this.instances, since: this.instances, nowMs: this.now() }
    }
  }

  readonly limits = {
    batch: new Batch(async hits => await this.#answer(hits)),
    take (hit: Hit) { this.batch.add(hit) },
    /** Decides the hits of one turn; it may throw. */
    decide: async (hits: readonly Hit[]): Promise<readonly Taken[]> => { throw gone },
    peek: async (): Promise<unknown> => { throw gone },
    forget: async (): Promise<boolean> => { throw gone },
    refund: async (): Promise<void> => { throw gone },
    countRefusals: async (): Promise<void> => {},
    merge: async (
      id: string, counters: readonly LocalCounter[], nowMs: number, { hasBaselines }: MergedInto
    ): Promise<void> => {
      this.mergeCalls.push({ hasBaselines, counters })
    },
    restore: async (baselines: readonly CounterBaseline[]): Promise<void> => {
      this.restored.push(...baselines)
    }
  }

  readonly blocks = {
    count: async () => this.listed.length,
    isBehind: async () => false,
    hasSeenMore: (sequence: number) => false,
    pages: async function * (this: { listed: () => Block[] }): AsyncGenerator<Block[]> { yield this.listed() },
    listed: () => this.listed,
    apply: async (operations: readonly BlockOperation[]) => { this.applied.push(...operations) },
    change: async (operations: readonly BlockOperation[]): Promise<unknown[]> => { throw gone }
  }

  readonly events = {
    logEvents: async (): Promise<void> => {},
    replayEvents: async (): Promise<void> => {}
  }

  readonly values = {
    get: async (): Promise<unknown> => { throw gone },
    change: async (): Promise<unknown> => { throw gone },
    merge: async (): Promise<void> => {}
  }

  async #answer (hits: readonly Hit[]): Promise<readonly Taken[] | UnansweredByRedis> {
    try {
      return await this.limits.decide(hits)
    } catch (error) {
      const failure = error as StoreUnavailableError
      const mayHaveRun = failure instanceof SentError && failure.kind !== 'lost'
      return { kind: 'unanswered', failure, sentIn: mayHaveRun ? failure.sentIn : undefined }
    }
  }

  /** All merged counters, in order. */
  get merged (): readonly LocalCounter[] {
    return this.mergeCalls.flatMap(({ counters }) => counters)
  }
}

/** Redis' answers to hits of one limit with a window of 1 minute that already contains `used - 1` hits. */
export function countedBy (hits: readonly Hit[], check: Check, used = 1): readonly Taken[] {
  const nowMs = Date.now()
  return hits.map((_, i) => {
    const state = windowOf(used + i, 0, nowMs + 60_000)
    const outcomes = [outcomeOf(check, { fits: true, state }, nowMs)]
    return { kind: 'taken', source: 'redis', accepted: true, nowMs, outcomes }
  })
}

/** The outage layer on memory and a simulated Redis that is away. @param capacity  of memory */
export function madeUpStores (t: Test, capacity = 1000) {
  const now = Date.now
  const memory = new MemoryStore({ keys, capacity, maxEvents: 10, now })
  const breaker = new MadeUpBreaker()
  const redis = new MadeUpRedis()
  const journal = new Journal({ capacity: 10_000, maxEvents: 10, onDrop: () => {} })
  const shares = new Shares(new MemoryLimits({ keys, capacity: 10, now }), now)
  const side = { shares, guarded: breaker as unknown as GuardedRedis, store: redis as unknown as RedisStore, journal }
  const stores = outageStores({ memory, redis: side, keys, now })
  t.teardown(() => stores.availability.close())
  return { memory, breaker, redis, journal, stores }
}
