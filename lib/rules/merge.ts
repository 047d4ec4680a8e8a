/**
 * What was counted without Redis, in the form in which Redis can add it to
 * what it knows itself: pure arithmetic on the states of rules/rate-limit.ts.
 * store/redis/lua/merge.lua does the adding.
 */
import { type Limit, ruleOf } from './rate-limit.js'
import type { LimitState } from './rule.js'

/** Of one counter. Times are on the clock of who counted. */
export interface Carry {
  /**
   * what Redis had told before, as far as it still counts: where Redis has
   * lost it meanwhile, it is told again
   */
  readonly known: LimitState
  /** what came on top of it */
  readonly used: number
  readonly previous: number
  /** as LimitState has it: end of the window of a fixed-window, start of that of a sliding-window */
  readonly atMs: number
}

/**
 * @param known    as Redis told it last; undefined: never
 * @param counted  what became of it since, counted by the same rules
 * @returns undefined: nothing that would still count
 */
export function carryOf (known: LimitState | undefined, counted: LimitState, nowMs: number, limit: Limit): Carry | undefined {
  const merge = ruleOf(limit).merge(known, counted, nowMs, limit)
  if (merge === undefined) return undefined
  const { baseline, counted: now } = merge
  return {
    known: { used: baseline.used, previous: baseline.previous, atMs: now.atMs },
    used: now.used - baseline.used,
    previous: now.previous - baseline.previous,
    atMs: now.atMs
  }
}
