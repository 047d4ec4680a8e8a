/**
 * Decides for one of several instances while none of them can ask Redis, so that
 * all of them together stay within the limit. Each lets pass its part of what
 * was left when Redis went, and never more than its part of the whole limit in
 * one window.
 *
 * Besides the counter of memory, each key has two counters here, and both must
 * let a hit pass:
 *   left  begins at the baseline. A hit counts once for each instance, since all
 *         of them let as many pass
 *   own   counts all hits that this instance lets pass, those before the outage
 *         too. Of the others' latest hits this instance may not have heard, but
 *         they cannot be more than their parts
 */
import { ruleOf } from '../rules/algorithms.js'
import type { Check, Limit } from '../rules/rate-limit.js'
import type { Explanation, LimitState } from '../rules/rule.js'
import type { MemoryLimits } from '../store/memory/limits.js'
import type { Owner, Taken } from '../store/limit-store.js'

/** A counter of a hit, as memory knows it. */
export interface Known {
  readonly check: Check
  /** undefined: memory has none */
  readonly state: LimitState | undefined
}

/** How the shares decide a hit. */
export interface Shared {
  readonly accepted: boolean
  /** ms since 1970 */
  readonly nowMs: number
  /** for each check: whether the parts of this instance would let the hit pass, and what that means to the client */
  readonly parts: readonly (Known & { readonly fits: boolean, readonly explanation: OfShare })[]
}

/** Among how many instances a limit is shared, and in which outage. */
export interface Sharing {
  /** alive at Redis' last report; whole number >= 1 */
  readonly instances: number
  /** its number: each outage begins with a new `left` */
  readonly outage: number
}

/** An explanation without its refusals, which are those of the whole limit. */
export type OfShare = Omit<Explanation, 'refusals'>

export class Shares {
  readonly #counters: MemoryLimits
  readonly #now: () => number

  /**
   * @param counters  used for nothing else: it keeps two counters for each key
   * @param now       ms since 1970; the clock of `counters`
   */
  constructor (counters: MemoryLimits, now: () => number) {
    this.#counters = counters
    this.#now = now
  }

  /** Counts a hit that Redis let pass through this instance. */
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
      // `explainHit` comes later, with the whole limit: a hit that costs more than a part may fit the whole.
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
   * Takes back a hit that was accepted and must not count after all.
   *
   * @param taken  by the clock of this process
   */
  refund (owner: Owner, { source, outcomes, nowMs }: Taken, { instances, outage }: Sharing): void {
    const of = ownerOf(owner)
    for (const { check, fits } of outcomes) {
      if (!fits) continue
      this.#counters.refundAt(of, ownOf(check, instances), nowMs)
      // A hit that Redis counted is only once in `left`, as part of the baseline.
      this.#counters.refundAt(of, leftOf(check, source === 'memory' ? instances : 1, outage), nowMs)
    }
  }

  /** Forgets what has expired. */
  sweep (): void {
    this.#counters.sweep()
  }
}

/** Without `counterKeys`, where the keys of these counters would push out those of the limits. */
function ownerOf ({ clientKey, fromAddress }: Owner): Owner {
  return { clientKey, fromAddress }
}

function leftOf (check: Check, instances: number, outage: number): Check {
  return { ...check, name: `${check.name}#left${outage}`, cost: check.cost * instances }
}

function ownOf (check: Check, instances: number): Check {
  return { ...check, name: `${check.name}#own`, limit: partOf(check.limit, instances) }
}

/** Joins both parts: of what is left, this instance lets its part pass. */
function bothOf (left: Explanation, own: Explanation, fits: boolean, instances: number): OfShare {
  return {
    remaining: Math.min(Math.floor(left.remaining / instances), own.remaining),
    resetMs: Math.max(left.resetMs, own.resetMs),
    retryAfterMs: fits ? 0 : Math.max(left.retryAfterMs, own.retryAfterMs)
  }
}

/** Rounded down, so that all parts together are never more than the whole. */
function partOf (limit: Limit, instances: number): Limit {
  return { ...limit, max: Math.floor(limit.max / instances), burst: Math.floor(limit.burst / instances) }
}
