/**
 * Defines a limit, and counts a hit against several limits at once, without
 * I/O, clock or framework.
 *
 * Each algorithm is a rule over its own counters (algorithms.ts). The memory
 * store calls the rule. In Redis, store/redis/lua/take.lua repeats the rule
 * step for step.
 */
import { LimitError, show } from '../errors.js'
import { type Algorithm, ruleOf } from './algorithms.js'
import type { Excess, Explanation, Judged, LimitState, RuleLimit } from './rule.js'

export const excesses = ['none', 'restart', 'backoff'] as const satisfies readonly Excess[]

export interface Limit extends RuleLimit {
  readonly algorithm: Algorithm
}

/** One limit that a hit has to pass, and the cost of the hit. */
export interface Check {
  /** name of the limit; it tells a client's counters apart */
  readonly name: string
  readonly limit: Limit
  /** whole number >= 0; 0: neither counted nor refused */
  readonly cost: number
  /** the limit counts like any other, but refuses nothing */
  readonly shadow?: boolean
}

/** Whether the counters differ from what was stored, so that they must be written. */
export function isChanged ({ left, repaired }: Judged<LimitState>): boolean {
  return left !== 'nothing' || repaired
}

interface JudgedAll<S> {
  readonly accepted: boolean
  /** `of`: the counter that was passed in */
  readonly judged: readonly { readonly of: S, readonly outcome: Judged<LimitState> }[]
}

/** A check, and the counters that are stored for it. */
export interface Stored {
  readonly check: Pick<Check, 'limit' | 'cost' | 'shadow'>
  /** undefined: nothing is stored */
  readonly state: LimitState | undefined
}

/**
 * Counts one hit against several limits: against all of them if it fits every
 * limit that is not in shadow, otherwise against none. A limit that the hit
 * does not fit, in shadow or not, counts the refusal by its own rule. A limit
 * that the hit fits stays unchanged if another limit refuses the hit.
 *
 * @returns whether the hit passed, and the outcome at each limit, in the order of `counters`
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

/** The outcome at a limit if another limit has refused the hit. */
function withoutHit (outcome: Judged<LimitState>): Judged<LimitState> {
  if (outcome.left !== 'hit') return outcome
  const { before, repaired } = outcome
  return { fits: true, state: before, before, left: 'nothing', repaired }
}

/** The used part of the quota, from 0 to 1. @param explanation  of the counters, as `explain` returns it */
export function usedPart ({ remaining }: Explanation, { burst }: Limit): number {
  return 1 - remaining / Math.max(1, burst)
}

/**
 * What counters mean to one hit. A hit of cost 0 always passes, and a hit that
 * costs more than the whole quota never does.
 *
 * @param explanation  of the counters, as `explain` returns it
 */
export function explainHit (explanation: Explanation, limit: Limit, cost: number): Explanation {
  if (cost === 0) return { ...explanation, retryAfterMs: 0 }
  // With max 0 a hit gets a time to retry, like at any other limit: the limit may be raised.
  const canNeverFit = limit.burst > 0 && cost > limit.burst
  return canNeverFit ? { ...explanation, retryAfterMs: Infinity } : explanation
}

/** The optional numbers of a limit. */
export interface LimitExtras {
  /** default: max */
  readonly burst?: number | undefined
  /** default: `none` */
  readonly excess?: Excess | undefined
  /** the longest window of a backoff; if it is shorter than the window, the window is; default: a day */
  readonly maxBackoffMs?: number | undefined
}

/**
 * Makes a limit whose arithmetic stays exact.
 *
 * @throws LimitError  if a number is out of range; the message names it
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
