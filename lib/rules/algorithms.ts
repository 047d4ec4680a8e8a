/**
 * The algorithms that there are. A new one has its rule in a file of this
 * folder, its row in the table below, and the same in Lua in
 * store/redis/lua/rules/, by the same name; `npm run lua` then writes it into
 * the scripts. test/store/parity.sized.test.ts compares the two.
 */
import { fixedWindow } from './fixed-window.js'
import { gcra } from './gcra.js'
import type { LimitState, Rule } from './rule.js'
import { slidingWindow } from './sliding-window.js'

const rules = {
  'fixed-window': fixedWindow,
  'sliding-window': slidingWindow,
  gcra
} as const satisfies Readonly<Record<string, Rule<LimitState>>>

/** How a limit counts: the values of the option `algorithm`. */
export type Algorithm = keyof typeof rules

export const algorithms = Object.keys(rules) as readonly Algorithm[]

/** The rule of a limit; counters of the limit are for no other one. */
export function ruleOf ({ algorithm }: { readonly algorithm: Algorithm }): Rule<LimitState> {
  return rules[algorithm]
}

/** The algorithms for which some options have a meaning. */
export function algorithmsWith (trait: 'notesRefusals' | 'hasBurst'): readonly Algorithm[] {
  return algorithms.filter(algorithm => rules[algorithm][trait])
}
