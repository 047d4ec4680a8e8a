/**
 * What a store does with the counters of clients. Memory, Redis and the outage
 * layer over the two do it with equal results.
 *
 * Each method of a store may throw StoreUnavailableError, except those of memory.
 */
import type { Awaitable } from '../runtime/awaitable.js'
import type { Check, Limit } from '../rules/rate-limit.js'
import type { Explanation, LimitState } from '../rules/rule.js'
import type { CounterKeys } from './keys.js'

/** One limit of a hit. The name tells a client's counters apart. */
export interface NamedCheck extends Check {
  readonly name: string
}

/** One request, and all limits that it has to pass together. */
export interface Hit {
  /** whom it is counted against; any text */
  readonly key: string
  readonly checks: readonly NamedCheck[]
  /** where the keys of its counters are kept; undefined: nowhere */
  readonly counterKeys?: CounterKeys | undefined
  /**
   * the address that asks, or its prefix if addresses are counted by prefix;
   * undefined: the key itself. Memory bounds the room for the keys of one address
   */
  readonly from?: string | undefined
}

/** What became of one hit. */
export interface Taken {
  readonly accepted: boolean
  /** the store's clock at the decision, ms since 1970 */
  readonly nowMs: number
  /** one for each check, in their order */
  readonly outcomes: readonly { readonly fits: boolean, readonly state: LimitState }[]
  /** of each check: what it means to the client, where that is more than the counters say */
  readonly explanations?: readonly Explanation[]
}

/** Counters as they are. */
export interface Peeked {
  /** the store's clock, ms since 1970 */
  readonly nowMs: number
  /** one for each check, in their order; undefined: none */
  readonly states: readonly (LimitState | undefined)[]
}

/** Hits at one limit that were refused without asking the store, where its rule notes refusals. */
export interface Refusals {
  readonly client: string
  /** of the limit */
  readonly name: string
  readonly limit: Limit
  /** counters of the window that they belong to, by the store's clock */
  readonly window: LimitState
  readonly count: number
}

/** Hits of one client that were accepted, and are not to count after all. */
export interface Refund {
  readonly hit: Hit
  /** as the store told it of the hit */
  readonly taken: Taken
}

/** One counter: as Redis reported it last, and what became of it here. */
export interface CountedHere {
  /** in Redis */
  readonly key: string
  readonly limit: Limit
  /** undefined: Redis has reported nothing of it, or it was forgotten */
  readonly baseline: LimitState | undefined
  readonly counted: LimitState
}

export interface LimitStore {
  /** The counters of a client, unchanged. */
  peek (key: string, checks: readonly NamedCheck[]): Awaitable<Peeked>

  /** Removes counters of a client; @returns whether there were any */
  forget (key: string, checks: readonly NamedCheck[]): Awaitable<boolean>
}
