/**
 * What a store does with the counters of clients. Memory, Redis and the outage
 * layer over the two do it with equal results.
 *
 * Each method of a store may throw StoreUnavailableError, except those of memory.
 */
import type { Awaitable } from '../runtime/awaitable.js'
import { ruleOf } from '../rules/algorithms.js'
import { type Check, explainHit, type Limit } from '../rules/rate-limit.js'
import type { Explanation, LimitState } from '../rules/rule.js'
import type { OnOutage } from '../settings/options.js'
import type { CounterKeys } from './keys.js'

/** Whom counters belong to. */
export interface Owner {
  /** any text */
  readonly key: string
  /** where the keys of its counters are kept; undefined: nowhere */
  readonly counterKeys?: CounterKeys | undefined
  /**
   * the address that asks, or its prefix if addresses are counted by prefix;
   * undefined: the key itself. Memory bounds the room for the keys of one address
   */
  readonly from?: string | undefined
}

/** One request, and all limits that it has to pass together. It is not kept after its answer. */
export interface Hit extends Owner {
  /**
   * one at least; the same array for each hit that has the same limits, so that
   * a batch tells Redis about them once
   */
  readonly checks: readonly Check[]
  /** who answers when Redis cannot */
  readonly onOutage: OnOutage
  /** Called once, in a later turn and in the asynchronous context of the call of `take`, if that returned undefined. */
  answered (answer: Answer): void
}

/** How memory answers for Redis: as the only instance, or as one of several. */
export type Fallback = 'memory' | 'share'

export function isFallback (onOutage: OnOutage): onOutage is Fallback {
  return onOutage === 'memory' || onOutage === 'share'
}

export type Answer = Taken | TakenOutside | Unanswered

/** Decided by counters of ours. */
export interface Taken {
  readonly kind: 'taken'
  readonly source: 'redis' | 'memory'
  /** whether the hit passes all limits that are not in shadow */
  readonly accepted: boolean
  /** the store's clock at the decision, ms since 1970 */
  readonly nowMs: number
  /** one for each check, in their order */
  readonly outcomes: readonly CountedOutcome[]
}

/** Decided by a class of the user's, which keeps its counters to itself, or by what this process remembers. */
export interface TakenOutside {
  readonly kind: 'taken'
  readonly source: 'custom' | 'local'
  readonly accepted: boolean
  readonly outcomes: readonly Outcome[]
}

/** Nobody has counted the hit, and memory must not. */
export interface Unanswered {
  readonly kind: 'unanswered'
  readonly failure: Error
  /** number of the call that Redis may have run; undefined: it has not, or there are no numbers, as in a Cluster */
  readonly sentIn: number | undefined
}

/** What one limit says to a hit. */
export interface Outcome {
  readonly check: Check
  /** whether this limit alone would let the hit pass */
  readonly fits: boolean
  /** what that means to the client */
  readonly explanation: Explanation
}

export interface CountedOutcome extends Outcome {
  /** the counters after the decision */
  readonly state: LimitState
}

/** A counter that nobody has added to. */
export interface Peeked extends Outcome {
  /** undefined: there is none */
  readonly state: LimitState | undefined
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

/** One counter, as Redis reported it last. */
export interface CounterBaseline {
  /** in Redis */
  readonly key: string
  readonly limit: Limit
  readonly baseline: LimitState
}

/** One counter: as Redis reported it last, and what became of it here. */
export interface LocalCounter {
  /** in Redis */
  readonly key: string
  readonly limit: Limit
  /** undefined: Redis has reported nothing of it, or it was forgotten */
  readonly baseline: LimitState | undefined
  readonly counted: LimitState
}

export interface LimitStore {
  /**
   * Decides one hit. Atomic over all of its checks.
   *
   * @returns undefined: `hit.answered` is called later
   */
  take (hit: Hit): Answer | undefined

  /** How far a client is with each check; nothing is counted. */
  peek (client: string, checks: readonly Check[]): Awaitable<readonly Outcome[]>

  /** Removes counters of a client; @returns whether there were any */
  forget (client: string, checks: readonly Check[]): Awaitable<boolean>

  /** Takes back a hit that was accepted, and is not to count after all. */
  refund (owner: Owner, taken: Taken): Awaitable<void>
}

/** What counters say to a hit. */
export function outcomeOf (
  check: Check, { fits, state }: Pick<CountedOutcome, 'fits' | 'state'>, nowMs: number
): CountedOutcome {
  const { limit, cost } = check
  return { check, fits, explanation: explainHit(ruleOf(limit).explain(state, nowMs, limit, cost), limit, cost), state }
}

/** What counters say to a client that only asks. */
export function peekedOf (check: Check, state: LimitState | undefined, nowMs: number): Peeked {
  const { limit, cost } = check
  const explanation = explainHit(ruleOf(limit).explain(state, nowMs, limit, cost), limit, cost)
  return { check, fits: explanation.retryAfterMs === 0, explanation, state }
}
