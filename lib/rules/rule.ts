/** What an algorithm is: its limit, its state, and the functions that each of them has. */

export type Algorithm = 'fixed-window' | 'sliding-window' | 'gcra'

/**
 * What a hit beyond max does to the window of a fixed-window: nothing
 * (`none`), it begins anew (`restart`), or anew and twice as long with each, up
 * to a cap (`backoff`). Source: `continueExceeding` and `exponentialBackoff` of
 * @fastify/rate-limit, which has no cap.
 */
export type Excess = 'none' | 'restart' | 'backoff'

export interface Limit {
  readonly algorithm: Algorithm
  /** hits allowed per window; whole number >= 0. Infinity is no limit: stores are never asked to count by it */
  readonly max: number
  /** length of the window; whole number >= 1 */
  readonly windowMs: number
  /** gcra only: hits that may come at once; elsewhere, and without a limit, equal to max */
  readonly burst: number
  /** fixed-window only; elsewhere `none` */
  readonly excess: Excess
  /** the longest window that refusals may make; equal to windowMs unless excess is `backoff` */
  readonly longestMs: number
}

/** The counters of one key. What each means is the algorithm's to say. */
export interface LimitState {
  readonly used: number
  readonly previous: number
  readonly atMs: number
}

export interface Explanation {
  /** hits of cost 1 that would still pass */
  readonly remaining: number
  /** until the whole quota is there again */
  readonly resetMs: number
  /** until a hit of the given cost passes; 0 when it would pass now, Infinity when it never can (see explainHit) */
  readonly retryAfterMs: number
}

/** One algorithm. All functions are pure; a `state` is always the result of `current`, but for `current` itself. */
export interface Rule {
  /**
   * What stored counters are worth at `nowMs`: windows that are over are
   * dropped, and counters from the future (the clock stepped back) are moved
   * to now. `repaired` says the latter, since then they must be written even
   * by a refusal: otherwise each later refusal would start from the future
   * again, and the client stay locked out until the clock has caught up.
   */
  current (stored: LimitState | undefined, nowMs: number, limit: Limit): LimitState
  repaired (stored: LimitState, nowMs: number, limit: Limit): boolean
  fits (state: LimitState, nowMs: number, limit: Limit, cost: number): boolean
  accept (state: LimitState, limit: Limit, cost: number): LimitState
  /** the state after a refusal; the same object when a refusal leaves no trace */
  refuse (state: LimitState, nowMs: number, limit: Limit): LimitState
  /** whether the counters are those of a client that has never come */
  isUnused (state: LimitState): boolean
  explain (state: LimitState, nowMs: number, limit: Limit, cost: number): Explanation
  /** when the counters say nothing any more and may be forgotten */
  expiresAtMs (state: LimitState, limit: Limit): number
}
