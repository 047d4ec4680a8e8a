/**
 * What an algorithm is: its limit, its counters, and the functions that each
 * algorithm has. All functions are pure. Times are ms since 1970 on the clock of
 * whoever keeps the counters, and that clock may step back.
 */
import { LimitError } from '../errors.js'

/**
 * What a hit beyond max does to the window of a fixed-window: nothing
 * (`none`), it begins anew (`restart`), or anew and twice as long with each, up
 * to a cap (`backoff`). Source: `continueExceeding` and `exponentialBackoff` of
 * @fastify/rate-limit, which has no cap.
 */
export type Excess = 'none' | 'restart' | 'backoff'

/** The numbers of a limit. */
export interface RuleLimit {
  /** hits allowed per window; whole number >= 0. Infinity is no limit: stores are never asked to count by it */
  readonly max: number
  /** length of the window; whole number >= 1 */
  readonly windowMs: number
  /** hits that may come at once, where the algorithm `hasBurst`; elsewhere, and without a limit, equal to max */
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
  /** until the whole quota is there again */
  readonly resetMs: number
  /** until a hit of the given cost passes; 0 when it would pass now, Infinity when it never can (see explainHit) */
  readonly retryAfterMs: number
  /** hits that were refused, as far as they still count; 0 unless the algorithm `notesRefusals` */
  readonly refusals: number
}

/** What became of one hit at one limit. */
export interface Judged<S> {
  /** whether this limit alone would let the hit pass */
  readonly fits: boolean
  /** the counters after the decision */
  readonly state: S
  /** the counters before it, as of now: they stay where another limit refuses the hit */
  readonly before: S
  /** what the hit leaves in the counters; `nothing` also for a hit of cost 0 */
  readonly left: 'hit' | 'refusal' | 'nothing'
  /**
   * The stored counters came from the future (the clock stepped back) and were
   * moved to now. They must be written even if nothing is left. Otherwise each
   * later refusal would start from the future again, and the client stay
   * limited until the clock has caught up.
   */
  readonly repaired: boolean
}

/** What a Redis that is back has to add to its own counter: `counted` less `baseline`. */
export interface Merge<S> {
  /** what Redis last reported, as far as it still counts */
  readonly baseline: S
  readonly counted: S
}

/** Counters as three whole numbers. Each but the last is >= 0; the last is a moment, in ms from now. */
export type Encoded = readonly [number, number, number]

/** One algorithm. A stored counter is undefined where a key was never seen, or where its counter has expired. */
export interface Rule<S> extends Members<S> {
  /** Counts one hit against one limit. A hit of cost 0 passes and leaves nothing. */
  take (stored: S | undefined, nowMs: number, limit: RuleLimit, cost: number): Judged<S>
  /** Counts a hit that was accepted elsewhere, whether or not it fits. */
  accept (stored: S | undefined, nowMs: number, limit: RuleLimit, cost: number): S
  /** Counts a hit that was refused elsewhere, whether or not it would fit. */
  refuse (stored: S | undefined, nowMs: number, limit: RuleLimit): S
  /** What the counters mean to a hit of `cost`, which is 1 by default. */
  explain (stored: S | undefined, nowMs: number, limit: RuleLimit, cost?: number): Explanation
  /**
   * @param baseline  as Redis last reported it; undefined: never
   * @param counted   what became of it since, by the same rule
   * @returns undefined: nothing still counts
   */
  merge (baseline: S | undefined, counted: S, nowMs: number, limit: RuleLimit): Merge<S> | undefined
}

/** What an algorithm says by itself. */
interface Members<S> {
  /** whether refusals are counted: `ban`, `continueExceeding`, `exponentialBackoff` and `maxBackoff` have a meaning */
  readonly notesRefusals: boolean
  /** whether `burst` has a meaning */
  readonly hasBurst: boolean

  /**
   * @returns the limit, with neutral numbers where the algorithm has no use for them
   * @throws LimitError  if its arithmetic would not stay exact
   */
  define (limit: RuleLimit): RuleLimit
  /**
   * Takes back a hit that was accepted, as far as it still counts. Refusals stay what they are.
   *
   * @param counted  the counters as the hit left them; their moment may be that of another clock
   */
  refund (stored: S, limit: RuleLimit, cost: number, counted: S): S
  /** Like `refund`, for counters that say of a hit only when it was counted: their windows may begin elsewhere. */
  refundAt (stored: S, limit: RuleLimit, cost: number, countedAtMs: number): S
  /** Adds refusals to the window that the counters are in. */
  addRefusals (state: S, refusals: number): S
  /** When counters that were just written say nothing any more and may be forgotten. */
  expiresAtMs (state: S, limit: RuleLimit): number
  /** Whether counters belong to one window, whose moment may differ by `withinMs`; without windows always true. */
  isSameWindow (a: S, b: S, withinMs: number): boolean
  /** Whether the counters are those of a client that has never come. */
  isEmpty (state: S): boolean
  /** The same window with nothing counted in it. */
  emptied (state: S): S
  /** The same counters on a clock that is ahead by `byMs`. */
  shift (state: S, byMs: number): S
  encode (state: S, nowMs: number): Encoded
  decode (numbers: Encoded, nowMs: number): S
}

/** The steps that an algorithm decides a hit in. A `state` is the result of `current`. */
interface Steps<S> {
  /** What stored counters are worth now: windows that are over are dropped, counters from the future moved to now. */
  current (stored: S | undefined, nowMs: number, limit: RuleLimit): S
  /** Whether `current` has moved counters from the future. */
  isRepaired (stored: S, state: S): boolean
  fits (state: S, nowMs: number, limit: RuleLimit, cost: number): boolean
  accepted (state: S, limit: RuleLimit, cost: number): S
  /** The same object when a refusal leaves no trace. */
  refused (state: S, nowMs: number, limit: RuleLimit): S
  explained (state: S, nowMs: number, limit: RuleLimit, cost: number): Explanation
}

/**
 * Makes a rule of an algorithm's steps. store/redis/lua/take.lua repeats `take` step for step.
 *
 * Outside of its file, nobody sees the fields of S: counters lie beside their limit, or under a key that names its
 * algorithm, so that no rule gets those of another one.
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
      // In another window nothing of the baseline counts. A window that refusals made longer is still the same.
      const stillCounts = limit.excess !== 'none' || members.isSameWindow(before, now, 0)
      return { baseline: stillCounts ? before : members.emptied(now), counted: now }
    }
  }
  return rule as unknown as Rule<LimitState>
}

/** ms by which one moment may differ on two clocks that were compared over a network */
export const otherClockMs = 1000

/** ms by which one moment of a limit may differ on two clocks; no two of its windows are so near. */
export function sameMomentMs ({ windowMs }: RuleLimit): number {
  return Math.min(otherClockMs, Math.floor((windowMs - 1) / 2))
}

/** @throws LimitError  unless the products of max and window that an algorithm compares are whole numbers below 2^53 */
export function checkProducts (algorithm: string, { max, windowMs, burst }: RuleLimit): void {
  if (max === Infinity || Math.max(max, burst) * windowMs <= Number.MAX_SAFE_INTEGER / 4) return
  const rule = `max times timeWindow must stay below 2^51 for ${algorithm}`
  throw new LimitError(`${rule}, got ${max} per ${windowMs} ms; use fixed-window or a shorter window`)
}
