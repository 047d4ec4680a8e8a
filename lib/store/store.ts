/** A store as a whole: the four contracts in one. test/store/contract.ts is the suite that each store runs. */
import type { BlockStore } from './block-store.js'
import type { EventStore } from './event-store.js'
import type { LimitStore } from './limit-store.js'
import type { ValueStore } from './value-store.js'

export interface Store extends LimitStore, BlockStore, EventStore, ValueStore {}
