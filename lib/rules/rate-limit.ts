/**
 * How a hit is counted against limits, without I/O, clock or framework.
 *
 * An algorithm is a few small functions over a state of three integers. Both
 * stores keep that state: memory by calling this file, Redis by
 * store/redis/lua/take.lua, which repeats `take` step for step (parity.sized.test.ts
 * compares the two). What a client is told, `explain`, is written only here.
 */
import { LimitError, show } from '../errors.js'
import { fixedWindow } from './fixed-window.js'
import { gcra, refundBucket } from './gcra.js'
import { slidingWindow } from './sliding-window.js'
import type { Algorithm, Excess, Explanation, Limit, LimitState, Rule } from './rule.js'

export const excesses = ['none', 'restart', 'backoff'] as const satisfies readonly Excess[]

/** One limit that a hit has to pass, and how much of it the hit takes. */
export interface Check {
  readonly limit: Limit
  /** whole number >= 0; 0: neither counted nor refused */
  readonly cost: number
  /** counted as any other, but refuses nothing */
  readonly shadow?: boolean
}

/** What became of one check. */
export interface Outcome {
  /** whether this limit alone would let the hit pass */
  readonly fits: boolean
  /** the counters after the decision */
  readonly state: LimitState
  /** whether the counters differ from what was stored, so that they must be written */
  readonly changed: boolean
}

const rules: Readonly<Record<Algorithm, Rule>> = {
  'fixed-window': fixedWindow,
  'sliding-window': slidingWindow,
  gcra
}

export const algorithms = Object.keys(rules) as readonly Algorithm[]

/**
 * Counts one hit against one limit.
 *
 * @param stored  counters of the key; undefined: never seen, or expired
 * @param nowMs   ms since 1970 from the store's clock; may step back
 * @param cost    whole number >= 0
 */
export function take (stored: LimitState | undefined, nowMs: number, limit: Limit, cost: number): Outcome {
  const rule = rules[limit.algorithm]
  const state = rule.current(stored, nowMs, limit)
  if (cost === 0) return { fits: true, state, changed: isRepaired(rule, stored, nowMs, limit) }
  if (rule.fits(state, nowMs, limit, cost)) return { fits: true, state: rule.accept(state, limit, cost), changed: true }
  return refuse(rule, stored, state, nowMs, limit)
}

/**
 * Counts one hit against several limits: against all of them when it fits
 * each that is no shadow, else against none. A limit that it does not fit, a
 * shadow too, notes that by its own rule; one that would have let the hit pass
 * stays as it was where another refuses.
 *
 * @param stored  counters, one for each check, in their order
 * @returns whether the hit passed, and one outcome for each check
 */
export function takeAll (
  stored: readonly (LimitState | undefined)[], nowMs: number, checks: readonly Check[]
): { readonly accepted: boolean, readonly outcomes: readonly Outcome[] } {
  const states = checks.map(({ limit }, i) => rules[limit.algorithm].current(stored[i], nowMs, limit))
  const fits = checks.map(({ limit, cost }, i) =>
    cost === 0 || rules[limit.algorithm].fits(states[i]!, nowMs, limit, cost))
  const accepted = fits.every((fit, i) => fit || checks[i]!.shadow === true)
  const outcomes = checks.map(({ limit, cost }, i): Outcome => {
    const rule = rules[limit.algorithm]
    const state = states[i]!
    if (!fits[i]) return refuse(rule, stored[i], state, nowMs, limit)
    if (accepted && cost > 0) return { fits: true, state: rule.accept(state, limit, cost), changed: true }
    return { fits: true, state, changed: isRepaired(rule, stored[i], nowMs, limit) }
  })
  return { accepted, outcomes }
}

/** What counters are worth at `nowMs`: see Rule. */
export function current (stored: LimitState | undefined, nowMs: number, limit: Limit): LimitState {
  return rules[limit.algorithm].current(stored, nowMs, limit)
}

/** Counts a hit that was decided elsewhere, whether or not it fits. A hit of cost 0 is never refused. */
export function count (stored: LimitState | undefined, nowMs: number, limit: Limit, cost: number, accepted: boolean): LimitState {
  const rule = rules[limit.algorithm]
  const state = rule.current(stored, nowMs, limit)
  return accepted ? rule.accept(state, limit, cost) : rule.refuse(state, nowMs, limit)
}

/**
 * Takes back a hit that was accepted and is not to count after all, as far as
 * it still counts: from the window in which it was counted, and from a bucket
 * what of it has not drained. Refusals stay what they are.
 *
 * @param counted  the counter as the hit left it; its moment may be that of another clock
 */
export function refund (stored: LimitState, limit: Limit, cost: number, counted: LimitState): LimitState {
  const { algorithm, windowMs, excess } = limit
  const { used, previous, atMs } = stored
  const withinMs = sameMomentMs(limit)
  const isAt = (otherMs: number) => Math.abs(atMs - otherMs) <= withinMs
  switch (algorithm) {
    case 'gcra': return refundBucket(stored, limit, cost, counted)
    case 'fixed-window': {
      // Where refusals begin the window anew, they lock it until it ends.
      const isLocked = excess !== 'none' && previous > 0
      return isAt(counted.atMs) && !isLocked ? { used: Math.max(0, used - cost), previous, atMs } : stored
    }
    case 'sliding-window':
      if (isAt(counted.atMs)) return { used: Math.max(0, used - cost), previous, atMs }
      return isAt(counted.atMs + windowMs) ? { used, previous: Math.max(0, previous - cost), atMs } : stored
  }
}

/** Hits that were refused, as far as the counter tells: those in the window of a fixed-window. */
export function refusalsOf (state: LimitState, limit: Limit): number {
  return limit.algorithm === 'fixed-window' ? state.previous : 0
}

/** Whether counters are those of a client that has never come. */
export function isUnused (state: LimitState, limit: Limit): boolean {
  return rules[limit.algorithm].isUnused(state)
}

/** ms by which one moment of a limit may differ on two clocks; no two of its windows are so near. */
export function sameMomentMs ({ windowMs }: Limit): number {
  return Math.min(otherClockMs, Math.floor((windowMs - 1) / 2))
}

/** ms by which one moment may differ on two clocks that were compared over a network */
export const otherClockMs = 1000

/** What the counters of one key mean to a client at `nowMs`, for a hit of `cost`. */
export function explain (stored: LimitState | undefined, nowMs: number, limit: Limit, cost = 1): Explanation {
  const rule = rules[limit.algorithm]
  return rule.explain(rule.current(stored, nowMs, limit), nowMs, limit, cost)
}

/**
 * What counters mean to one hit: a hit of cost 0 passes in any case, and one
 * beyond the whole quota never.
 *
 * @param explanation  of the counters, by `explain`
 */
export function explainHit (explanation: Explanation, limit: Limit, cost: number): Explanation {
  if (cost === 0) return { ...explanation, retryAfterMs: 0 }
  return canNeverFit(limit, cost) ? { ...explanation, retryAfterMs: Infinity } : explanation
}

/** Where nothing is allowed at all (max 0), a hit is refused like any other: the limit may be raised. */
function canNeverFit ({ burst }: Limit, cost: number): boolean {
  return burst > 0 && cost > burst
}

/** When counters that were just written may be forgotten, ms since 1970. */
export function expiresAtMs (state: LimitState, limit: Limit): number {
  return rules[limit.algorithm].expiresAtMs(state, limit)
}

/**
 * Makes a limit whose arithmetic stays exact: the products of max and window
 * that sliding-window and gcra compare must be whole numbers below 2^53.
 *
 * @param maxBackoffMs  where this is shorter than the window, the window is the cap
 * @throws LimitError  naming the number that is out of range
 */
export function defineLimit (
  algorithm: Algorithm, max: number, windowMs: number, burst = max, excess: Excess = 'none', maxBackoffMs = defaultBackoffMs
): Limit {
  if (max !== Infinity && (!Number.isSafeInteger(max) || max < 0)) {
    throw new LimitError(`max must be a whole number >= 0, or Infinity, got ${show(max)}`)
  }
  if (burst !== max && (!Number.isSafeInteger(burst) || burst < 0)) throw new LimitError(`burst must be a whole number >= 0, got ${show(burst)}`)
  if (!Number.isSafeInteger(windowMs) || windowMs < 1 || windowMs > longestWindowMs) {
    throw new LimitError(`timeWindow must be a whole number of ms from 1 to ${longestWindowMs}, got ${show(windowMs)}`)
  }
  if (algorithm !== 'fixed-window' && max !== Infinity && Math.max(max, burst) * windowMs > Number.MAX_SAFE_INTEGER / 4) {
    throw new LimitError(`max times timeWindow must stay below 2^51 for ${algorithm}, got ${max} per ${windowMs} ms; use fixed-window or a shorter window`)
  }
  const isFixed = algorithm === 'fixed-window'
  return {
    algorithm,
    max,
    windowMs,
    burst: algorithm === 'gcra' && max !== Infinity ? burst : max,
    excess: isFixed ? excess : 'none',
    longestMs: isFixed && excess === 'backoff' ? Math.max(windowMs, maxBackoffMs) : windowMs
  }
}

/** A day: without a cap, thirty requests would lock a client for centuries. */
export const defaultBackoffMs = 86_400_000

/** Ten years, leap days included. Longer is a mistake in the unit. */
export const longestWindowMs = 10 * 366 * 86_400_000

function refuse (rule: Rule, stored: LimitState | undefined, state: LimitState, nowMs: number, limit: Limit): Outcome {
  const refused = rule.refuse(state, nowMs, limit)
  return { fits: false, state: refused, changed: refused !== state || isRepaired(rule, stored, nowMs, limit) }
}

function isRepaired (rule: Rule, stored: LimitState | undefined, nowMs: number, limit: Limit): boolean {
  return stored !== undefined && rule.repaired(stored, nowMs, limit)
}
