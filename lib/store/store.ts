/**
 * What a store has to do: limits, blocks, events, suspects and plain values.
 * Memory, Redis, and the two behind the breaker do it with equal results;
 * test/store/contract.ts is the suite that each of them runs.
 *
 * Addresses that come in are canonical (addresses/address.ts); arguments are
 * checked by the caller (api/redis-guard.ts). Any method may throw
 * StoreUnavailableError, save those of memory.
 */
import type { Awaitable } from '../runtime/awaitable.js'
import type { Check, Limit } from '../rules/rate-limit.js'
import type { Explanation, LimitState } from '../rules/rule.js'

/** One limit of a hit. The name tells a client's counters apart. */
export interface NamedCheck extends Check {
  readonly name: string
}

/** One request, and all limits that it has to pass together. */
export interface Hit {
  /** whom it is counted against; any text */
  readonly key: string
  readonly checks: readonly NamedCheck[]
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

/** Hits at one fixed-window that were refused without asking the store. */
export interface Refusals {
  readonly client: string
  /** of the limit */
  readonly name: string
  readonly limit: Limit
  /** which window they belong to, by the store's clock; ms since 1970 */
  readonly windowEndsAtMs: number
  readonly count: number
}

/** Hits of one client that were accepted, and are not to count after all. */
export interface Refund {
  readonly hit: Hit
  /** as the store told it of the hit */
  readonly taken: Taken
}

export interface Block {
  /** address or CIDR range, canonical */
  readonly ip: string
  readonly reason: string
  /** who or what placed it */
  readonly origin: string
  readonly blockedAtMs: number
  /** Infinity: until it is lifted */
  readonly expiresAtMs: number
}

export interface BlockRequest {
  readonly ip: string
  /** Infinity: until it is lifted */
  readonly durationMs: number
  readonly reason: string
  readonly origin: string
  /** it stands even where a longer block is in force; default: the longer one stands */
  readonly replace?: boolean
}

export interface RateLimitEvent {
  /** `limited` events make suspects */
  readonly type: 'limited' | 'blocked'
  /** canonical address; undefined where there is none, as on a unix socket */
  readonly ip?: string | undefined
  /** whom it was counted against, where that is not the address */
  readonly key?: string | undefined
  /** name of the limit */
  readonly limit?: string | undefined
  readonly method?: string | undefined
  /** the route's pattern */
  readonly route?: string | undefined
  /** how many requests this one event stands for */
  readonly count: number
  /** when it happened, ms since 1970 */
  readonly atMs: number
}

/** An address that was limited often. */
export interface Suspect {
  readonly ip: string
  /** how many of its requests were limited, in the recorded events */
  readonly count: number
}

/** One counter: as Redis told it, and what became of it here. */
export interface CountedHere {
  /** in Redis */
  readonly key: string
  readonly limit: Limit
  /** undefined: Redis has told nothing of it, or it was forgotten */
  readonly known: LimitState | undefined
  readonly counted: LimitState
  /** this Redis has been told already what was known of it */
  readonly isRestored?: boolean
}

/** A change of the block list, and when it was, ms since 1970. */
export type BlockOperation = { readonly atMs: number } & ({ readonly block: BlockRequest } | { readonly unblock: string })

/** The address or range that an operation is about. */
export function blockedIn (operation: BlockOperation): string {
  return 'block' in operation ? operation.block.ip : operation.unblock
}

/** What Redis told of an instance's numbers when the instance came back (store/redis/lua/fence.lua). */
export interface Fence {
  /** the last that ran; -1: Redis does not know, so none that would still count */
  readonly last: number
  /** of those below, none will run any more */
  readonly next: number
}

/** Something that was done to a plain value. */
export type ValueOperation = {
  readonly key: string
  /** ms since 1970 */
  readonly atMs: number
} & (
  | { readonly kind: 'set', readonly text: string, /** ms since 1970; Infinity: never */ readonly expiresAtMs: number }
  | { readonly kind: 'incr', readonly by: number }
  | { readonly kind: 'expire', readonly expiresAtMs: number }
  | { readonly kind: 'del' }
)

/** What was done to one value, in sum, and when, ms since 1970. */
export interface ValueChange {
  readonly key: string
  /** undefined: it was neither set nor deleted; a text of undefined: deleted */
  readonly base: { readonly atMs: number, readonly text: string | undefined } | undefined
  /** afterwards */
  readonly add: number
  readonly addedAtMs: number
  readonly end: { readonly atMs: number, readonly expiresAtMs: number } | undefined
}

/** A value as Redis has told it. */
export interface ToldValue {
  readonly text: string
  /** ms until it is forgotten; Infinity: never */
  readonly leftMs: number
}

/** Events with the number under which they are written, once. */
export interface EventBatch {
  readonly number: number
  readonly events: readonly RateLimitEvent[]
}

export interface Store {
  /** Decides hits in their order. Atomic per hit, over all of its limits. */
  take (hits: readonly Hit[]): Awaitable<readonly Taken[]>

  /** The counters of a client, unchanged. */
  peek (key: string, checks: readonly NamedCheck[]): Awaitable<Peeked>

  /** Removes counters of a client; @returns whether there were any */
  forget (key: string, checks: readonly NamedCheck[]): Awaitable<boolean>

  get (key: string): Awaitable<string | null>
  /**
   * @param ttlMs      undefined: for good
   * @param mustReach  a command that Redis rejects is an error; default: the value is kept in this process
   */
  set (key: string, value: string, ttlMs: number | undefined, mustReach?: boolean): Awaitable<void>
  /** @throws ValueError  when the value is no whole number, or becomes one of more than 64 bits */
  incr (key: string): Awaitable<number>
  /** @returns whether there was such a key */
  expire (key: string, ttlMs: number): Awaitable<boolean>
  /** @returns whether there was such a key */
  del (key: string): Awaitable<boolean>

  logEvents (events: readonly RateLimitEvent[]): Awaitable<void>
  /** The latest, newest first. */
  events (limit: number): Awaitable<readonly RateLimitEvent[]>
  /** @param olderThanMs  0: all; @returns how many were removed */
  clearEvents (olderThanMs: number): Awaitable<number>
  /** Most limited first; among equals the later in the alphabet first. */
  suspects (limit: number): Awaitable<readonly Suspect[]>

  /**
   * Of two blocks of one address or range the one that ends later stands, with its reason and origin; the earlier of two
   * that end at once. `replace`: this one stands in any case.
   *
   * @returns the block that stands
   */
  block (request: BlockRequest): Awaitable<Block>
  /** @returns whether exactly this address or range was blocked */
  unblock (ip: string): Awaitable<boolean>
  /** Whether a block of the address, or of a range around it, is in force. */
  isBlocked (address: string): Awaitable<boolean>
  /** Those in force, in the order of their addresses' texts. */
  blocks (): Awaitable<readonly Block[]>
}

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
