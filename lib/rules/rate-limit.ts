/**
 * The limits that there are, and how a hit is counted against several of them,
 * without I/O, clock or framework.
 *
 * Each algorithm is a rule over its own counters (algorithms.ts). Memory keeps
 * these counters by calling the rule, Redis by store/redis/lua/take.lua, which
 * repeats it step for step.
 */
import { LimitError, show } from '../errors.js'
import { type Algorithm, ruleOf } from './algorithms.js'
import type { Excess, Explanation, Judged, LimitState, RuleLimit } from './rule.js'

export const excesses = ['none', 'restart', 'backoff'] as const satisfies readonly Excess[]

export interface Limit extends RuleLimit {
  readonly algorithm: Algorithm
}

/** One limit that a hit has to pass, and how much of it the hit takes. */
export interface Check {
  /** of the limit; it tells a client's counters apart */
  readonly name: string
  readonly limit: Limit
  /** whole number >= 0; 0: neither counted nor refused */
  readonly cost: number
  /** counted as any other, but refuses nothing */
  readonly shadow?: boolean
}

/** Whether the counters differ from what was stored, so that they must be written. */
export function isChanged ({ left, repaired }: Judged<LimitState>): boolean {
  return left !== 'nothing' || repaired
}

interface JudgedAll<S> {
  readonly accepted: boolean
  readonly judged: readonly { readonly of: S, readonly outcome: Judged<LimitState> }[]
}

/** A check, and the counters that are stored for it. */
export interface Stored {
  readonly check: Pick<Check, 'limit' | 'cost' | 'shadow'>
  /** undefined: there are none */
  readonly state: LimitState | undefined
}

/**
 * Counts one hit against several limits: against all of them when it fits
 * each that is no shadow, else against none. A limit that it does not fit, a
 * shadow too, notes that by its own rule; one that would have let the hit pass
 * stays as it was where another refuses.
 *
 * @returns whether the hit passed, and what became of each counter, in their order
 */
export function takeAll<S extends Stored> (counters: readonly S[], nowMs: number): JudgedAll<S> {
  let accepted = true
  const judged = counters.map(of => {
    const { check: { limit, cost, shadow }, state } = of
    const outcome = ruleOf(limit).take(state, nowMs, limit, cost)
    accepted &&= outcome.fits || shadow === true
    return { of, outcome }
  })
  if (accepted) return { accepted, judged }
  return { accepted, judged: judged.map(({ of, outcome }) => ({ of, outcome: withoutHit(outcome) })) }
}

/** The outcome where another limit has refused the hit. */
function withoutHit (outcome: Judged<LimitState>): Judged<LimitState> {
  if (outcome.left !== 'hit') return outcome
  const { before, repaired } = outcome
  return { fits: true, state: before, before, left: 'nothing', repaired }
}

/** How much of a quota is used, from 0 to 1. @param explanation  of the counters, by `explain` */
export function usedPart ({ remaining }: Explanation, { burst }: Limit): number {
  return 1 - remaining / Math.max(1, burst)
}

/**
 * What counters mean to one hit: a hit of cost 0 passes in any case, and one
 * beyond the whole quota never.
 *
 * @param explanation  of the counters, by `explain`
 */
export function explainHit (explanation: Explanation, limit: Limit, cost: number): Explanation {
  if (cost === 0) return { ...explanation, retryAfterMs: 0 }
  // Where nothing is allowed at all (max 0), a hit is refused like any other: the limit may be raised.
  const canNeverFit = limit.burst > 0 && cost > limit.burst
  return canNeverFit ? { ...explanation, retryAfterMs: Infinity } : explanation
}

/** Numbers that not every limit has. */
export interface LimitExtras {
  /** default: max */
  readonly burst?: number | undefined
  /** default: `none` */
  readonly excess?: Excess | undefined
  /** the cap of a backoff; where it is shorter than the window, the window is the cap; default: a day */
  readonly maxBackoffMs?: number | undefined
}

/**
 * Makes a limit whose arithmetic stays exact.
 *
 * @throws LimitError  naming the number that is out of range
 */
export function defineLimit (
  algorithm: Algorithm, max: number, windowMs: number, extras: LimitExtras = {}
): Limit {
  const { burst = max, excess = 'none', maxBackoffMs = defaultBackoffMs } = extras
  if (max !== Infinity && (!Number.isSafeInteger(max) || max < 0)) {
    throw new LimitError(`max must be a whole number >= 0, or Infinity, got ${show(max)}`)
  }
  if (burst !== max && (!Number.isSafeInteger(burst) || burst < 0)) {
    throw new LimitError(`burst must be a whole number >= 0, got ${show(burst)}`)
  }
  if (!Number.isSafeInteger(windowMs) || windowMs < 1 || windowMs > longestWindowMs) {
    throw new LimitError(`timeWindow must be a whole number of ms from 1 to ${longestWindowMs}, got ${show(windowMs)}`)
  }
  return { algorithm, ...ruleOf({ algorithm }).define({ max, windowMs, burst, excess, longestMs: maxBackoffMs }) }
}

/** A day: without a cap, thirty requests would lock a client for centuries. */
export const defaultBackoffMs = 86_400_000

/** Ten years, leap days included. Longer is a mistake in the unit. */
export const longestWindowMs = 10 * 366 * 86_400_000
