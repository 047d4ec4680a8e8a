/**
 * The contract of a store for the counters of clients. Memory, Redis and the
 * outage layer over both implement it with equal results.
 *
 * Each method may throw StoreUnavailableError, except those of the memory store.
 */
import type { Awaitable } from '../runtime/awaitable.js'
import { ruleOf } from '../rules/algorithms.js'
import { type Check, explainHit, type Limit } from '../rules/rate-limit.js'
import type { Explanation, LimitState } from '../rules/rule.js'
import type { OnOutage } from '../settings/options.js'
import type { CounterKeys } from './keys.js'

/** The client that counters belong to. */
export interface Owner {
  /** key of the client: any text */
  readonly clientKey: string
  /** remembers the Redis keys of the client's counters; undefined: nothing does */
  readonly counterKeys?: CounterKeys | undefined
  /**
   * the address that sent the request, or its prefix if addresses are counted by prefix; undefined: the client's key is
   * that address. Memory bounds the room for the keys of one address
   */
  readonly fromAddress?: string | undefined
}

/** One request, and all limits that it has to pass together. Stores do not keep it after they have answered. */
export interface Hit extends Owner {
  /**
   * at least one. Hits with the same limits share one array, so that a batch sends these limits to Redis once
   */
  readonly checks: readonly Check[]
  /** who answers when Redis cannot */
  readonly onOutage: OnOutage
  /**
   * Called once if `take` returned undefined: in a later turn of the event loop, and in the asynchronous context of the
   * caller of `take`.
   */
  answered (answer: Answer): void
}

/** How memory answers in place of Redis: as if it were the only instance, or as one of several. */
export type Fallback = 'memory' | 'share'

export function isFallback (onOutage: OnOutage): onOutage is Fallback {
  return onOutage === 'memory' || onOutage === 'share'
}

export type Answer = Taken | TakenOutside | Unanswered

/** A decision by the guard's own counters. */
export interface Taken {
  readonly kind: 'taken'
  readonly source: 'redis' | 'memory'
  /** whether the hit passes all limits that are not in shadow */
  readonly accepted: boolean
  /** the store's clock at the decision, ms since 1970 */
  readonly nowMs: number
  /** one for each check, in the order of the checks */
  readonly outcomes: readonly CountedOutcome[]
}

/** A decision without counters: by a custom store, which does not show its counters, or by the refusal cache. */
export interface TakenOutside {
  readonly kind: 'taken'
  readonly source: 'custom' | 'local'
  readonly accepted: boolean
  readonly outcomes: readonly Outcome[]
}

/** No decision: the store failed. Only the outage layer may let memory decide in its place. */
export interface Unanswered {
  readonly kind: 'unanswered'
  readonly failure: Error
  /** number of the call, which Redis may have run; undefined: it has not run, or has no number (in a Cluster) */
  readonly sentIn: number | undefined
}

/** The outcome of a hit at one limit. */
export interface Outcome {
  readonly check: Check
  /** whether this limit alone would let the hit pass */
  readonly fits: boolean
  /** what the counters mean to the client */
  readonly explanation: Explanation
}

/** An outcome with the counters that it was decided by. */
export interface CountedOutcome extends Outcome {
  /** the counters after the decision */
  readonly state: LimitState
}

/** The outcome that a hit would have; nothing was counted. */
export interface Peeked extends Outcome {
  /** undefined: there are no counters */
  readonly state: LimitState | undefined
}

/** Refusals at one limit that the store does not know yet, because the refusal cache decided them. */
export interface Refusals {
  /** key of the client */
  readonly client: string
  /** name of the limit */
  readonly name: string
  /** a limit whose rule notes refusals */
  readonly limit: Limit
  /** counters of the window that the refusals belong to, by the store's clock */
  readonly window: LimitState
  readonly count: number
}

/** A counter as Redis last reported it. */
export interface CounterBaseline {
  /** key of the counter in Redis */
  readonly key: string
  readonly limit: Limit
  /** the last state that Redis reported */
  readonly baseline: LimitState
}

/** A counter as Redis last reported it, with what was counted locally since. */
export interface LocalCounter {
  /** key of the counter in Redis */
  readonly key: string
  readonly limit: Limit
  /** the last state that Redis reported; undefined: it reported none, or this process has forgotten it */
  readonly baseline: LimitState | undefined
  /** the baseline with the local hits on top of it */
  readonly counted: LimitState
}

export interface LimitStore {
  /**
   * Decides one hit. Atomic over all of its checks.
   *
   * @returns the answer; undefined: `hit.answered` gets it later
   */
  take (hit: Hit): Answer | undefined

  /** The outcome that each check would have now. Nothing is counted. */
  peek (client: string, checks: readonly Check[]): Awaitable<readonly Outcome[]>

  /** Removes counters of a client. @returns whether there were any */
  forget (client: string, checks: readonly Check[]): Awaitable<boolean>

  /** Refunds an accepted hit: it no longer counts. */
  refund (owner: Owner, taken: Taken): Awaitable<void>
}

/** The outcome of a hit, from the counters after it. */
export function outcomeOf (
  check: Check, { fits, state }: Pick<CountedOutcome, 'fits' | 'state'>, nowMs: number
): CountedOutcome {
  const { limit, cost } = check
  return { check, fits, explanation: explainHit(ruleOf(limit).explain(state, nowMs, limit, cost), limit, cost), state }
}

/** The outcome that a hit would have, from counters that have not counted it. */
export function peekedOf (check: Check, state: LimitState | undefined, nowMs: number): Peeked {
  const { limit, cost } = check
  const explanation = explainHit(ruleOf(limit).explain(state, nowMs, limit, cost), limit, cost)
  return { check, fits: explanation.retryAfterMs === 0, explanation, state }
}
