/** Turns the outcomes of a counted hit into one decision: that of the limit which restricts the client most. */
import type { Check } from '../rules/rate-limit.js'
import type { Explanation } from '../rules/rule.js'
import type { Outcome, Taken, TakenOutside } from '../store/limit-store.js'
import type { Counted, Explained, Shadowed, Source } from './decision.js'

/** @returns undefined: all of the limits are in shadow */
export function countedDecision (key: string, taken: Taken | TakenOutside): Counted | undefined {
  const { accepted, outcomes } = taken
  // Almost every request has one limit. This path allocates no list.
  if (outcomes.length === 1) {
    const outcome = firstOf(outcomes)
    return outcome.check.shadow === true ? undefined : decisionBy(outcome, key, taken)
  }
  let tightest: Outcome | undefined
  for (const outcome of outcomes) {
    if (outcome.check.shadow === true || (!accepted && outcome.fits)) continue
    if (tightest === undefined || isTighter(outcome.explanation, tightest.explanation)) tightest = outcome
  }
  if (tightest === undefined) return undefined
  const others = outcomes.filter(outcome => outcome !== tightest && outcome.check.shadow !== true)
  return decisionBy(tightest, key, taken, others.map(explained))
}

/** The decision with the name and numbers of one limit. */
export function decisionBy (
  outcome: Outcome, key: string, taken: Taken | TakenOutside, others: readonly Explained[] = none
): Counted {
  const { check: { name, limit }, explanation } = outcome
  const { accepted, source } = taken
  return { kind: accepted ? 'allowed' : 'limited', source, key, name, limit, explanation, others, taken }
}

export function shadowed (
  key: string, checks: readonly Check[], source: Source, taken?: Taken | TakenOutside
): Shadowed {
  return { kind: 'shadowed', source, key, name: firstOf(checks).name, taken }
}

/** The first check of a hit, or the first outcome. */
export function firstOf<T> (items: readonly T[]): T {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a hit has one check at least
  return items[0]!
}

/** Whether `a` restricts a client more than `b`: the client has to wait longer, or has less left. */
export function isTighter (a: Explanation, b: Explanation): boolean {
  if (a.retryAfterMs !== b.retryAfterMs) return a.retryAfterMs > b.retryAfterMs
  return a.remaining === b.remaining ? a.resetMs > b.resetMs : a.remaining < b.remaining
}

function explained ({ check: { name, limit }, explanation }: Outcome): Explained {
  return { name, limit, explanation }
}

const none: readonly Explained[] = []
