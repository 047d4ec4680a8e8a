/**
 * The table of algorithms. To add one, write its rule in this folder, add a row
 * to the table, and write the same rule in Lua under the same name in
 * store/redis/lua/rules/. `npm run lua` then copies it into the scripts.
 * test/store/parity.sized.test.ts compares the two rules.
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

/** The rule of a limit. No other rule can read the limit's counters. */
export function ruleOf ({ algorithm }: { readonly algorithm: Algorithm }): Rule<LimitState> {
  return rules[algorithm]
}

/** The algorithms that have a trait, and so the options that come with it. */
export function algorithmsWith (trait: 'notesRefusals' | 'hasBurst'): readonly Algorithm[] {
  return algorithms.filter(algorithm => rules[algorithm][trait])
}
