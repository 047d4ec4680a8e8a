/** Creates the stores of one registration: memory, Redis if it is configured, and the stores over both that answer. */
import { randomInt, randomUUID } from 'node:crypto'
import type { HashKey } from '../addresses/keyed-hash.js'
import { StoreUnavailableError } from '../errors.js'
import { type Availability, type RedisSide, statusOfMemory, type StoreStatus } from '../outage/availability.js'
import { type JournalKind, Journal } from '../outage/journal.js'
import type { OutageLimits } from '../outage/limits.js'
import { Shares } from '../outage/shares.js'
import { outageStores } from '../outage/stores.js'
import { GuardedRedis } from '../redis/breaker.js'
import { Connection } from '../redis/connection.js'
import type { RedisSettings } from '../settings/redis-option.js'
import type { Settings } from '../settings/settings.js'
import type { BlockStore } from '../store/block-store.js'
import type { EventStore } from '../store/event-store.js'
import { Keys } from '../store/keys.js'
import type { LimitStore } from '../store/limit-store.js'
import { MemoryLimits } from '../store/memory/limits.js'
import { MemoryStore } from '../store/memory/memory-store.js'
import type { OnForeign } from '../store/redis/foreign-values.js'
import { RedisStore } from '../store/redis/redis-store.js'
import type { ValueStore } from '../store/value-store.js'

export interface Stores {
  readonly keys: Keys
  readonly memory: MemoryStore
  /** undefined: no Redis is configured */
  readonly redis: RedisParts | undefined
  /** which store answers, and why */
  readonly status: () => StoreStatus
  readonly limits: LimitStore
  readonly blocks: BlockStore
  readonly events: EventStore
  readonly values: ValueStore
}

type ConfiguredRedis = Exclude<RedisSettings, { readonly kind: 'none' }>

/** The parts that exist only if Redis is configured. */
export interface RedisParts extends RedisSide {
  readonly availability: Availability
  readonly limits: OutageLimits
}

export interface StoresOptions {
  readonly settings: Settings
  /** id of this process's application, the same for all of its registrations */
  readonly application: string
  /** ms since 1970; it never steps */
  readonly now: () => number
  /** ms since 1970, by the wall clock */
  readonly wall: () => number
  /** called when the journal drops entries for want of room */
  readonly onDrop: (kind: JournalKind, count: number) => void
  readonly onForeign: OnForeign
}

/** Opens no connection yet. */
export function makeStores (options: StoresOptions): Stores {
  const { settings, now, wall, onForeign } = options
  const keys = new Keys(settings.nameSpace)
  const { cache: capacity, maxEvents } = settings
  const memory = new MemoryStore({ keys, capacity, maxEvents, now, wall, hashKey: randomKey() })
  if (settings.redis.kind === 'none') {
    const status = statusOfMemory(settings.redis.reason)
    const { limits, blocks, events, values } = memory
    return { keys, memory, redis: undefined, status: () => status, limits, blocks, events, values }
  }
  const side = makeRedisSide(settings.redis, keys, {
    ...options,
    onForeign (key, fate) {
      onForeign(key, fate)
      // A deleted block list is a loss of data: memory has the blocks, and a replay restores them.
      if (key !== keys.blocks || fate !== 'deleted') return
      availability.lostData(new StoreUnavailableError('lost', 'Redis has lost its block list'))
    }
  })
  const { availability, limits, ...others } = outageStores({ memory, redis: side, keys, now })
  const redis = { ...side, availability, limits }
  return { keys, memory, redis, status: () => availability.status, limits, ...others }
}

function makeRedisSide (
  place: ConfiguredRedis, keys: Keys, { settings, application, now, onDrop, onForeign }: StoresOptions
): RedisSide {
  const guarded = new GuardedRedis(new Connection(place, settings), { ...settings, probeKey: keys.probe })
  const { maxEvents, maxJournal: capacity, cache } = settings
  return {
    guarded,
    store: new RedisStore(guarded, { keys, maxEvents, instance: randomUUID(), application, onForeign }),
    journal: new Journal({ capacity, maxEvents: Math.min(capacity, maxEvents), onDrop }),
    // Twice the capacity: `Shares` keeps two counters for each key.
    shares: new Shares(new MemoryLimits({ keys, capacity: 2 * cache, now, hashKey: randomKey() }), now)
  }
}

function randomKey (): HashKey {
  return [randomInt(2 ** 32), randomInt(2 ** 32)]
}
