/** A store as a whole: the four contracts in one. test/store/contract.ts is the suite that each store runs. */
import type { BlockStore } from './block-store.js'
import type { EventStore } from './event-store.js'
import type { LimitStore } from './limit-store.js'
import type { ValueStore } from './value-store.js'

export interface Store extends LimitStore, BlockStore, EventStore, ValueStore {}

/** Answers with how often a key has come in its window, this time among them, and in how many ms the window ends. */
export type CustomStoreCallback = (error: Error | null, result?: { readonly current: number, readonly ttl: number }) => void

export interface CustomStore {
  /** @param timeWindow  ms */
  incr (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void
  /** the same without counting */
  read? (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void
  /** a store for one route, whose options are those of the plugin and its own */
  child (options: object): CustomStore
}

export type CustomStoreConstructor = new (options: object) => CustomStore
