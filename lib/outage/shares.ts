/**
 * What one of several instances lets pass while none of them can ask Redis, so
 * that all of them together stay within the limit: its part of what was left
 * when Redis went, and never more than its part of the whole in one window.
 *
 * Two counters for each key say so, beside the one that memory keeps. Both
 * have to let a hit pass:
 *   left  goes on from what Redis told last; each hit counts once for every
 *         instance, since each of them will let as many pass
 *   own   counts what this instance lets pass, before the outage too: what the
 *         others did meanwhile, and Redis did not tell here any more, cannot
 *         be more than their parts
 */
import { ruleOf } from '../rules/algorithms.js'
import type { Check, Limit } from '../rules/rate-limit.js'
import type { Explanation, LimitState } from '../rules/rule.js'
import type { MemoryLimits } from '../store/memory/limits.js'
import type { Owner, Taken } from '../store/limit-store.js'

/** A counter of a hit, as memory has it. */
export interface Known {
  readonly check: Check
  /** undefined: there is none */
  readonly state: LimitState | undefined
}

/** What the shares say of a hit. */
export interface Shared {
  readonly accepted: boolean
  readonly nowMs: number
  /** of each counter: whether its shares would let the hit pass, and what that means to the client */
  readonly parts: readonly (Known & { readonly fits: boolean, readonly explanation: OfShare })[]
}

/** Instances that were alive when Redis last told, whole number >= 1, and the number of the outage. */
export interface Sharing {
  readonly instances: number
  /** in each outage what is left is known anew */
  readonly outage: number
}

/** Refusals are not shared: they are those of the whole limit. */
export type OfShare = Omit<Explanation, 'refusals'>

export class Shares {
  readonly #counters: MemoryLimits
  readonly #now: () => number

  /**
   * @param counters  for nothing else: it keeps two counters for each key
   * @param now       ms since 1970; the clock of those counters
   */
  constructor (counters: MemoryLimits, now: () => number) {
    this.#counters = counters
    this.#now = now
  }

  /** Takes note of a hit that Redis let pass here. */
  passed (owner: Owner, { outcomes, nowMs: redisNowMs }: Taken, instances: number): void {
    const nowMs = this.#now()
    for (const { check, state: counted } of outcomes) {
      if (check.cost === 0) continue
      const own = ownOf(check, instances)
      const rule = ruleOf(own.limit)
      // Its window is that of Redis' counter.
      const begun = rule.emptied(rule.shift(counted, nowMs - redisNowMs))
      const of = ownerOf(owner)
      const state = rule.accept(this.#counters.known(of, own) ?? begun, nowMs, own.limit, own.cost)
      this.#counters.adopt(of, { check: own, state }, nowMs)
    }
  }

  /** Decides a hit without Redis. */
  take (owner: Owner, known: readonly Known[], { instances, outage }: Sharing): Shared {
    const of = ownerOf(owner)
    const pairs = known.map(counter => {
      const { check, state } = counter
      const left = leftOf(check, instances, outage)
      const isNew = state !== undefined && this.#counters.known(of, left) === undefined
      if (isNew) this.#counters.adopt(of, { check: left, state }, this.#now())
      return { counter, left, own: ownOf(check, instances) }
    })
    const checks = pairs.flatMap(({ left, own }) => [left, own])
    const { accepted, nowMs, outcomes } = this.#counters.take({ ...of, checks })
    const partOf = new Map(outcomes.map(({ check, fits, state }) => {
      const { limit, cost } = check
      // Not what that means to the hit: one beyond a part may fit the whole.
      return [check, { fits, explanation: ruleOf(limit).explain(state, nowMs, limit, cost) }]
    }))
    const parts = pairs.map(({ counter, left, own }) => {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it was asked
      const ofLeft = partOf.get(left)!
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it was asked
      const ofOwn = partOf.get(own)!
      const fits = ofLeft.fits && ofOwn.fits
      return { ...counter, fits, explanation: bothOf(ofLeft.explanation, ofOwn.explanation, fits, instances) }
    })
    return { accepted, nowMs, parts }
  }

  /**
   * Takes back a hit that is not to count after all.
   *
   * @param taken  on the clock of this process
   */
  refund (owner: Owner, { source, outcomes, nowMs }: Taken, { instances, outage }: Sharing): void {
    const of = ownerOf(owner)
    for (const { check, fits } of outcomes) {
      if (!fits) continue
      this.#counters.refundAt(of, ownOf(check, instances), nowMs)
      // What Redis has counted is in what is left only once.
      this.#counters.refundAt(of, leftOf(check, source === 'memory' ? instances : 1, outage), nowMs)
    }
  }

  /** Forgets what has expired. */
  sweep (): void {
    this.#counters.sweep()
  }
}

/** The names of these counters are not kept with the client, where they would push out those of its limits. */
function ownerOf ({ key, from }: Owner): Owner {
  return { key, from }
}

function leftOf (check: Check, instances: number, outage: number): Check {
  return { ...check, name: `${check.name}#left${outage}`, cost: check.cost * instances }
}

function ownOf (check: Check, instances: number): Check {
  return { ...check, name: `${check.name}#own`, limit: partOf(check.limit, instances) }
}

/** Of what is left, each instance lets its part pass. */
function bothOf (left: Explanation, own: Explanation, fits: boolean, instances: number): OfShare {
  return {
    remaining: Math.min(Math.floor(left.remaining / instances), own.remaining),
    resetMs: Math.max(left.resetMs, own.resetMs),
    retryAfterMs: fits ? 0 : Math.max(left.retryAfterMs, own.retryAfterMs)
  }
}

/** Rounded down: all parts together are not to be more than the whole. */
function partOf (limit: Limit, instances: number): Limit {
  return { ...limit, max: Math.floor(limit.max / instances), burst: Math.floor(limit.burst / instances) }
}
