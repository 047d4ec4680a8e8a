/** Makes the four contracts over memory and Redis, and the part that decides which of the two answers. */
import type { Keys } from '../store/keys.js'
import type { MemoryStore } from '../store/memory/memory-store.js'
import { Availability, type RedisSide } from './availability.js'
import { OutageBlocks } from './blocks.js'
import { OutageEvents } from './events.js'
import { OutageLimits } from './limits.js'
import { OutageValues } from './values.js'

export interface OutageStores {
  readonly availability: Availability
  readonly limits: OutageLimits
  readonly blocks: OutageBlocks
  readonly events: OutageEvents
  readonly values: OutageValues
}

export interface OutageStoresOptions {
  readonly memory: MemoryStore
  readonly redis: RedisSide
  readonly keys: Keys
  /** ms since 1970, of the same clock as `memory` */
  readonly now: () => number
}

export function outageStores ({ memory, redis, keys, now }: OutageStoresOptions): OutageStores {
  const availability = new Availability(redis, memory, now)
  const shared = { redis, availability, now }
  return {
    availability,
    limits: new OutageLimits({ ...shared, memory: memory.limits, keys }),
    blocks: new OutageBlocks({ ...shared, memory: memory.blocks }),
    events: new OutageEvents({ ...shared, memory: memory.events }),
    values: new OutageValues({ ...shared, memory: memory.values })
  }
}
