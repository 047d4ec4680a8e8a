/** The stores of one registration: memory, Redis where it is configured, and the one over both that answers. */
import { randomInt, randomUUID } from 'node:crypto'
import type { HashKey } from '../addresses/keyed-hash.js'
import { StoreUnavailableError } from '../errors.js'
import type { RedisSide } from '../outage/availability.js'
import { FailoverStore } from '../outage/failover.js'
import { type Carried, Journal } from '../outage/journal.js'
import { Shares } from '../outage/shares.js'
import { GuardedRedis } from '../redis/breaker.js'
import { Connection } from '../redis/connection.js'
import type { Settings } from '../settings/settings.js'
import { Keys } from '../store/keys.js'
import { MemoryLimits } from '../store/memory/limits.js'
import { MemoryStore } from '../store/memory/memory-store.js'
import type { OnForeign } from '../store/redis/foreign-values.js'
import { RedisStore } from '../store/redis/redis-store.js'

export interface Stores {
  readonly keys: Keys
  readonly memory: MemoryStore
  /** undefined: none is configured */
  readonly redis: RedisSide | undefined
  readonly store: FailoverStore
}

export interface StoresOptions {
  readonly settings: Settings
  /** tells this application's instance from others, and is the same for all registrations in it */
  readonly application: string
  /** ms since 1970; it never steps */
  readonly now: () => number
  /** ms since 1970, by the wall clock */
  readonly wall: () => number
  /** called with what the journal has no room for */
  readonly onDrop: (kind: Carried, count: number) => void
  readonly onForeign: OnForeign
}

/** Connects nothing yet. */
export function makeStores (options: StoresOptions): Stores {
  const { settings, now, wall, onForeign } = options
  const keys = new Keys(settings.nameSpace)
  const { cache: capacity, maxEvents } = settings
  const memory = new MemoryStore({ keys, capacity, maxEvents, now, wall, hashKey: randomKey() })
  const redis = makeRedis(keys, {
    ...options,
    onForeign (key, fate) {
      onForeign(key, fate)
      // The blocks that were there are known here, too.
      if (key !== keys.blocks || fate !== 'emptied') return
      store.lostData(new StoreUnavailableError('lost', 'Redis has lost its block list'))
    }
  })
  const unconfigured = settings.redis.kind === 'none' ? settings.redis.reason : ''
  const store = new FailoverStore({ memory, redis, unconfigured, keys, now })
  return { keys, memory, redis, store }
}

function makeRedis (
  keys: Keys, { settings, application, now, onDrop, onForeign }: StoresOptions
): RedisSide | undefined {
  if (settings.redis.kind === 'none') return undefined
  const guarded = new GuardedRedis(new Connection(settings.redis, settings), { ...settings, probeKey: keys.probe })
  const { maxEvents, maxJournal: capacity, cache } = settings
  return {
    guarded,
    store: new RedisStore(guarded, { keys, maxEvents, instance: randomUUID(), application, onForeign }),
    journal: new Journal({ capacity, maxEvents: Math.min(capacity, maxEvents), onDrop }),
    // Two counters for each key.
    shares: new Shares(new MemoryLimits({ keys, capacity: 2 * cache, now, hashKey: randomKey() }), now)
  }
}

function randomKey (): HashKey {
  return [randomInt(2 ** 32), randomInt(2 ** 32)]
}
