/**
 * A Redis and a breaker that are made up, for moments that a real server shows
 * only by luck. A test replaces the methods whose answers it decides itself.
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
import type { CountedHere, Hit } from '../../lib/store/limit-store.js'
import { MemoryLimits } from '../../lib/store/memory/limits.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import type { Ticket } from '../../lib/store/redis/batch.js'
import type { RedisStore } from '../../lib/store/redis/redis-store.js'
import type { Fence } from '../../lib/store/redis/sequence.js'

export const keys = new Keys('guard:')

/** Why this Redis cannot be used. */
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
  /** what was merged into its counters */
  readonly mergeCalls: { readonly isIntact: boolean, readonly counters: readonly CountedHere[] }[] = []
  readonly applied: BlockOperation[] = []
  listed: Block[] = []

  readonly instance = {
    /** It has run all that was sent so far; what is sent from here on has numbers from 1 on. */
    fence: async (): Promise<Fence> => ({ last: 0, next: 1 }),
    heartbeat: async (isUpToDate: boolean) => {
      this.heartbeats++
      return { epoch: this.epoch, instances: this.instances, since: this.instances, nowMs: this.now() }
    }
  }

  readonly limits = {
    take: async (hits: readonly Hit[], ticket: Ticket): Promise<unknown> => { throw gone },
    peek: async (): Promise<unknown> => { throw gone },
    forget: async (key: string, checks: unknown, ticket: Ticket): Promise<boolean> => { throw gone },
    refund: async (given: unknown, ticket: Ticket): Promise<void> => { throw gone },
    countRefusals: async (): Promise<void> => {},
    merge: async (id: string, counters: readonly CountedHere[], nowMs: number, isIntact: boolean): Promise<void> => {
      this.mergeCalls.push({ isIntact, counters })
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
    logEvents: async (events: unknown, ticket: Ticket): Promise<void> => {},
    replayEvents: async (): Promise<void> => {}
  }

  readonly values = {
    get: async (): Promise<unknown> => { throw gone },
    change: async (operation: unknown, nowMs: number, ticket: Ticket): Promise<unknown> => { throw gone },
    merge: async (): Promise<void> => {}
  }

  /** Counters that were merged, in their order. */
  get merged (): readonly CountedHere[] {
    return this.mergeCalls.flatMap(({ counters }) => counters)
  }
}

/** The outage layer over memory and a made-up Redis that is away. @param capacity  of memory */
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
