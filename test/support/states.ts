/** States of counters in tests. Only the rule of a limit knows their fields, so it makes and reads them. */
import { type Algorithm, ruleOf } from '../../lib/rules/algorithms.js'
import type { Encoded, LimitState } from '../../lib/rules/rule.js'

interface Of {
  readonly algorithm: Algorithm
}

/** @param numbers  as the rule's `encode` returns them, with times in ms since 1970 */
export function stateOf (limit: Of, ...numbers: Encoded): LimitState {
  return ruleOf(limit).decode(numbers, 0)
}

/** The opposite of `stateOf`. */
export function numbersOf (limit: Of, state: LimitState): Encoded {
  return ruleOf(limit).encode(state, 0)
}
