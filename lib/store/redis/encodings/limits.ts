/**
 * The scripts of counters. A limit takes six arguments. A counter takes three
 * whole numbers, the last of which is a moment: see `Encoded` in rules/rule.ts.
 */
import { OutOfStepError } from '../../../redis/failure.js'
import { type Arguments, Script } from '../../../redis/script.js'
import { ruleOf } from '../../../rules/algorithms.js'
import type { Check, Limit } from '../../../rules/rate-limit.js'
import type { Encoded, LimitState, Merge } from '../../../rules/rule.js'
import {
  type CountedOutcome, type CounterBaseline, type Hit, outcomeOf, type Peeked, peekedOf, type Refusals, type Taken
} from '../../limit-store.js'
import { scripts } from '../lua/scripts.js'
import { clockOf, listOf, unreadable, wholeOf } from '../replies.js'
import type { Command, Encoding } from './encoding.js'

export interface SentHits {
  readonly hits: readonly Hit[]
  /** number of the call; undefined: it has none */
  readonly number?: number
}

export const take: Encoding<SentHits, readonly Taken[]> = {
  script: new Script(scripts.take),

  args ({ hits }) {
    const shapes: (readonly Check[])[] = []
    /** shape and length of each run of hits with the same checks */
    const runs: number[] = []
    let last: readonly Check[] | undefined
    for (const { checks } of hits) {
      if (checks === last) {
        runs.push(runs.pop() as number + 1)
        continue
      }
      last = checks
      let shape = shapes.indexOf(checks) + 1
      if (shape === 0) shape = shapes.push(checks)
      runs.push(shape, 1)
    }
    const args: (string | number)[] = [shapes.length]
    for (const checks of shapes) {
      args.push(checks.length)
      for (const { limit, cost, shadow } of checks) args.push(...limitRow(limit), cost, shadow === true ? 1 : 0)
    }
    args.push(...runs)
    return args
  },

  read (reply, { hits, number }) {
    const values = listOf(reply)
    const nowMs = clockOf(values[0])
    let at = 1
    const taken: Taken[] = []
    for (const { checks } of hits) {
      let accepted = true
      const outcomes: CountedOutcome[] = []
      for (const check of checks) {
        const { limit, shadow } = check
        const first = wholeOf(values[at], -Number.MAX_SAFE_INTEGER)
        const fits = first >= 0
        accepted &&= fits || shadow === true
        // The moment of a counter is at most the longest window away from now.
        const offsetMs = wholeOf(values[at + 2], -limit.longestMs, limit.longestMs)
        const state = ruleOf(limit).decode([fits ? first : -1 - first, wholeOf(values[at + 1]), offsetMs], nowMs)
        at += 3
        outcomes.push(outcomeOf(check, { fits, state }, nowMs))
      }
      taken.push({ kind: 'taken', source: 'redis', accepted, nowMs, outcomes })
    }
    const repliedNumber = number === undefined ? undefined : wholeOf(values[at++])
    if (at !== values.length) throw unreadable()
    // The reply to another batch would limit the wrong clients.
    if (repliedNumber !== number) throw new OutOfStepError()
    return taken
  }
}

export const peek: Encoding<readonly Check[], readonly Peeked[]> = {
  script: new Script(scripts.peek),

  args: checks => checks.flatMap(({ limit }) => limitRow(limit)),

  /** The reply holds the counters as stored; they may have expired long ago. */
  read (reply, checks) {
    const values = listOf(reply, 1 + 3 * checks.length)
    const nowMs = clockOf(values[0])
    return checks.map((check, i) => {
      const [first, second, offsetMs] = values.slice(1 + 3 * i)
      if (first === '') return peekedOf(check, undefined, nowMs)
      const numbers: Encoded = [wholeOf(first), wholeOf(second), wholeOf(offsetMs, -Number.MAX_SAFE_INTEGER)]
      return peekedOf(check, ruleOf(check.limit).decode(numbers, nowMs), nowMs)
    })
  }
}

export const forget: Encoding<readonly Check[], number> = {
  script: new Script(scripts.forget),
  args: () => [],
  read: (reply, checks) => wholeOf(reply, 0, checks.length)
}

export const refund: Command<Taken> = {
  script: new Script(scripts.refund),
  args: ({ outcomes }) => outcomes.flatMap(({ check: { limit, cost }, fits, state }) =>
    [...limitRow(limit), fits ? cost : 0, ...stateRow(state, limit, 0)])
}

export const countRefusals: Command<readonly Refusals[]> = {
  script: new Script(scripts['count-refusals']),
  args: refusals => refusals.flatMap(({ limit, window, count }) =>
    [...limitRow(limit), count, ...stateRow(window, limit, 0)])
}

export interface Merges {
  readonly keptMs: number
  /** see MergedInto in store/redis/limits.ts; '' in a Cluster */
  readonly epoch: string
  readonly hasBaselines: boolean
  readonly counters: readonly { readonly limit: Limit, readonly merge: Merge<LimitState> }[]
  /** now, by the clock of the counters */
  readonly nowMs: number
}

export const merge: Command<Merges> = {
  script: new Script(scripts.merge),
  args: ({ keptMs, epoch, hasBaselines, counters, nowMs }) => [
    keptMs, epoch, hasBaselines ? 1 : 0,
    ...counters.flatMap(({ limit, merge: { baseline, counted } }) =>
      [...limitRow(limit), ...stateRow(baseline, limit, nowMs), ...stateRow(counted, limit, nowMs)])
  ]
}

export interface Restores {
  /** as Redis reported it after the loss */
  readonly epoch: string
  readonly counters: readonly Omit<CounterBaseline, 'key'>[]
  /** now, by the clock of the counters */
  readonly nowMs: number
}

export const restore: Command<Restores> = {
  script: new Script(scripts.restore),
  args: ({ epoch, counters, nowMs }) =>
    [epoch, ...counters.flatMap(({ limit, baseline }) => [...limitRow(limit), ...stateRow(baseline, limit, nowMs)])]
}

function limitRow ({ algorithm, max, windowMs, burst, excess, longestMs }: Limit): Arguments {
  return [algorithm, max, windowMs, burst, excess, longestMs]
}

function stateRow (state: LimitState, limit: Limit, nowMs: number): Arguments {
  return ruleOf(limit).encode(state, nowMs)
}
