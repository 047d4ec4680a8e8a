/**
 * The interface of an algorithm: its limit, its counters and its functions. All
 * functions are pure. Times are ms since 1970 on the clock of the store that
 * keeps the counters. That clock may step back.
 */
import { LimitError } from '../errors.js'

/**
 * What a hit beyond max does to a fixed window. `none`: nothing. `restart`: the
 * window restarts. `backoff`: the window restarts, twice as long with each such
 * hit, up to a cap. Source: `continueExceeding` and `exponentialBackoff` of
 * @fastify/rate-limit, which has no cap.
 */
export type Excess = 'none' | 'restart' | 'backoff'

/** The numbers of a limit. */
export interface RuleLimit {
  /** hits allowed per window; whole number >= 0. Infinity: no limit; no store ever counts it */
  readonly max: number
  /** length of the window; whole number >= 1 */
  readonly windowMs: number
  /** hits that may come at once, if the algorithm `hasBurst`; otherwise, and if max is Infinity, equal to max */
  readonly burst: number
  /** `none` unless the algorithm `notesRefusals` */
  readonly excess: Excess
  /** the longest window that refusals may make; equal to windowMs unless excess is `backoff` */
  readonly longestMs: number
}

declare const ofItsRule: unique symbol

/** The counters of one key. Only the rule of their limit can read them. */
export interface LimitState {
  readonly [ofItsRule]: never
}

/** What counters mean to a client. */
export interface Explanation {
  /** hits of cost 1 that would still pass */
  readonly remaining: number
  /** ms until the whole quota is available again */
  readonly resetMs: number
  /** ms until a hit of the given cost passes; 0: it would pass now; Infinity: it never can (see explainHit) */
  readonly retryAfterMs: number
  /** refused hits that still count; 0 unless the algorithm `notesRefusals` */
  readonly refusals: number
}

/** The outcome of one hit at one limit. */
export interface Judged<S> {
  /** whether this limit alone would let the hit pass */
  readonly fits: boolean
  /** the counters after the decision */
  readonly state: S
  /** the counters before the hit, brought up to now; they stay if another limit refuses the hit */
  readonly before: S
  /** what the hit leaves in the counters; `nothing` also for a hit of cost 0 */
  readonly left: 'hit' | 'refusal' | 'nothing'
  /**
   * The stored counters were dated in the future (the clock stepped back) and
   * were moved to now. They must be written even if the hit left nothing.
   * Otherwise each later refusal would start from the future again, and the
   * client would stay limited until the clock has caught up.
   */
  readonly repaired: boolean
}

/** Redis adds `counted` minus `baseline` to its own counter once it is back. */
export interface Merge<S> {
  /** the last state that Redis reported; empty if that no longer counts */
  readonly baseline: S
  readonly counted: S
}

/** Counters as three whole numbers. The first two are >= 0. The last is a moment, in ms from `nowMs`. */
export type Encoded = readonly [number, number, number]

/** One algorithm. A stored counter is undefined if the key was never seen, or if its counter has expired. */
export interface Rule<S> extends Members<S> {
  /** Counts one hit against one limit. A hit of cost 0 passes and leaves nothing. */
  take (stored: S | undefined, nowMs: number, limit: RuleLimit, cost: number): Judged<S>
  /** Counts a hit that was accepted by other counters, whether or not it fits these. */
  accept (stored: S | undefined, nowMs: number, limit: RuleLimit, cost: number): S
  /** Counts a hit that was refused by other counters, whether or not it would fit these. */
  refuse (stored: S | undefined, nowMs: number, limit: RuleLimit): S
  /** What the counters mean to a hit of `cost`, which is 1 by default. */
  explain (stored: S | undefined, nowMs: number, limit: RuleLimit, cost?: number): Explanation
  /**
   * What a counter of this process adds to the one in Redis.
   *
   * @param baseline  the last state that Redis reported; undefined: none
   * @param counted   the baseline with all that was counted since, by the same rule
   * @returns undefined: nothing counts any more
   */
  merge (baseline: S | undefined, counted: S, nowMs: number, limit: RuleLimit): Merge<S> | undefined
}

/** The members that an algorithm defines itself; `makeRule` derives the others. */
interface Members<S> {
  /** whether refusals are counted, so that `ban`, `continueExceeding`, `exponentialBackoff` and `maxBackoff` apply */
  readonly notesRefusals: boolean
  /** whether `burst` applies */
  readonly hasBurst: boolean

  /**
   * @returns the limit, with neutral values for numbers that the algorithm does not use
   * @throws LimitError  if its arithmetic would not stay exact
   */
  define (limit: RuleLimit): RuleLimit
  /**
   * Refunds an accepted hit, as far as it still counts. Refusals stay unchanged.
   *
   * @param counted  the counters right after the hit; they may be dated by another clock
   */
  refund (stored: S, limit: RuleLimit, cost: number, counted: S): S
  /** Like `refund`, if only the time of the hit is known. Its window may have begun at another moment. */
  refundAt (stored: S, limit: RuleLimit, cost: number, countedAtMs: number): S
  /** Adds refusals to the window that the counters are in. */
  addRefusals (state: S, refusals: number): S
  /** When counters that were just written stop counting and may be forgotten. */
  expiresAtMs (state: S, limit: RuleLimit): number
  /** Whether two counters belong to one window. Their moments may differ by `withinMs`. Without windows always true. */
  isSameWindow (a: S, b: S, withinMs: number): boolean
  /** Whether nothing is counted, as for a client that was never seen. */
  isEmpty (state: S): boolean
  /** The same window with nothing counted in it. */
  emptied (state: S): S
  /** The same counters on a clock that is `byMs` ahead. */
  shift (state: S, byMs: number): S
  encode (state: S, nowMs: number): Encoded
  decode (numbers: Encoded, nowMs: number): S
}

/** The steps in which an algorithm decides a hit. A `state` is a result of `current`. */
interface Steps<S> {
  /** Brings stored counters up to now: drops windows that are over, and moves counters from the future to now. */
  current (stored: S | undefined, nowMs: number, limit: RuleLimit): S
  /** Whether `current` has moved counters from the future to now. */
  isRepaired (stored: S, state: S): boolean
  fits (state: S, nowMs: number, limit: RuleLimit, cost: number): boolean
  accepted (state: S, limit: RuleLimit, cost: number): S
  /** @returns the same object if a refusal leaves no trace */
  refused (state: S, nowMs: number, limit: RuleLimit): S
  explained (state: S, nowMs: number, limit: RuleLimit, cost: number): Explanation
}

/**
 * Makes a rule from an algorithm's steps. store/redis/lua/take.lua repeats `take` step for step.
 *
 * Only the algorithm's own file knows the fields of S. Counters are stored with their limit, or under a key that names
 * its algorithm, so no rule gets the counters of another one.
 */
export function makeRule<S> (steps: Steps<S>, members: Members<S>): Rule<LimitState> {
  const { current, isRepaired, fits, accepted, refused, explained } = steps
  const rule: Rule<S> = {
    ...members,

    take (stored, nowMs, limit, cost) {
      const before = current(stored, nowMs, limit)
      const repaired = stored !== undefined && isRepaired(stored, before)
      if (cost === 0) return { fits: true, state: before, before, left: 'nothing', repaired }
      if (fits(before, nowMs, limit, cost)) {
        return { fits: true, state: accepted(before, limit, cost), before, left: 'hit', repaired }
      }
      const state = refused(before, nowMs, limit)
      return { fits: false, state, before, left: state === before ? 'nothing' : 'refusal', repaired }
    },

    accept (stored, nowMs, limit, cost) {
      return accepted(current(stored, nowMs, limit), limit, cost)
    },

    refuse (stored, nowMs, limit) {
      return refused(current(stored, nowMs, limit), nowMs, limit)
    },

    explain (stored, nowMs, limit, cost = 1) {
      return explained(current(stored, nowMs, limit), nowMs, limit, cost)
    },

    merge (baseline, counted, nowMs, limit) {
      const now = current(counted, nowMs, limit)
      const before = current(baseline, nowMs, limit)
      if (members.isEmpty(now) && members.isEmpty(before)) return undefined
      // The baseline of another window no longer counts. A window that refusals have extended is still the same window.
      const stillCounts = limit.excess !== 'none' || members.isSameWindow(before, now, 0)
      return { baseline: stillCounts ? before : members.emptied(now), counted: now }
    }
  }
  return rule as unknown as Rule<LimitState>
}

/** ms by which two clocks that were compared over a network may disagree about one moment */
export const otherClockMs = 1000

/** ms by which two clocks may disagree about one moment of a limit; less than the distance of two of its windows. */
export function sameMomentMs ({ windowMs }: RuleLimit): number {
  return Math.min(otherClockMs, Math.floor((windowMs - 1) / 2))
}

/** @throws LimitError  unless all products of max and window in an algorithm's comparisons stay exact, below 2^53 */
export function checkProducts (algorithm: string, { max, windowMs, burst }: RuleLimit): void {
  if (max === Infinity || Math.max(max, burst) * windowMs <= Number.MAX_SAFE_INTEGER / 4) return
  const [name, hits] = burst > max ? ['burst', burst] : ['max', max]
  const rule = `${name} times timeWindow must stay below 2^51 for ${algorithm}`
  throw new LimitError(`${rule}, got ${hits} per ${windowMs} ms; use fixed-window or a shorter window`)
}
