/** The stores in this process, one for each contract. They answer if no Redis is used, or while it is away. */
import type { HashKey } from '../../addresses/keyed-hash.js'
import type { Keys } from '../keys.js'
import { MemoryBlocks } from './blocks.js'
import { MemoryEvents } from './events.js'
import { MemoryLimits } from './limits.js'
import { MemoryValues } from './values.js'

export interface MemoryStoreOptions {
  readonly keys: Keys
  /** the most counters in memory, and the most values */
  readonly capacity: number
  readonly maxEvents: number
  /** ms since 1970; the clock of durations (see runtime/clock.ts) */
  readonly now: () => number
  /** ms since 1970; the clock of times that people see. Default: `now` */
  readonly wall?: () => number
  /** 64 random bits, see CounterTable and AddressTable */
  readonly hashKey?: HashKey
}

export class MemoryStore {
  readonly limits: MemoryLimits
  readonly blocks: MemoryBlocks
  readonly events: MemoryEvents
  readonly values: MemoryValues

  constructor ({ keys, capacity, maxEvents, now, wall = now, hashKey = [0, 0] }: MemoryStoreOptions) {
    this.limits = new MemoryLimits({ keys, capacity, now, hashKey })
    this.blocks = new MemoryBlocks({ now, wall, hashKey })
    this.events = new MemoryEvents({ capacity: maxEvents, wall })
    this.values = new MemoryValues({ capacity, now })
  }

  /** Removes expired counters, blocks and values. */
  sweep (): void {
    this.limits.sweep()
    this.blocks.sweep()
    this.values.sweep()
  }
}
