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
import { type Limit, ruleOf } from '../rules/rate-limit.js'
import type { Explanation, LimitState } from '../rules/rule.js'
import type { MemoryLimits } from '../store/memory/limits.js'
import type { Hit, NamedCheck, Refund, Taken } from '../store/limit-store.js'

/** What the shares say of a hit. */
export interface Shared {
  readonly accepted: boolean
  readonly nowMs: number
  /** of each check: whether it would let the hit pass */
  readonly fits: readonly boolean[]
  readonly explanations: readonly OfShare[]
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
  passed (hit: Hit, taken: Taken, instances: number): void {
    const nowMs = this.#now()
    hit.checks.forEach((check, i) => {
      if (check.cost === 0) return
      const own = ownOf(check, instances)
      const rule = ruleOf(own.limit)
      // Its window is that of Redis' counter.
      const begun = rule.emptied(rule.shift(taken.outcomes[i]!.state, nowMs - taken.nowMs))
      const state = rule.accept(this.#counters.known(hit.key, own) ?? begun, nowMs, own.limit, own.cost)
      this.#counters.adopt(hit, own, state, nowMs)
    })
  }

  /**
   * Decides a hit without Redis.
   *
   * @param known      the counters of its checks as memory has them; undefined: none
   * @param instances  that were alive when Redis last told, whole number >= 1
   * @param outage     its number: in each of them what is left is known anew
   */
  take (hit: Hit, known: readonly (LimitState | undefined)[], instances: number, outage: number): Shared {
    const checks = hit.checks.flatMap((check, i) => {
      const left = leftOf(check, instances, outage)
      const state = known[i]
      const isNew = state !== undefined && this.#counters.known(hit.key, left) === undefined
      if (isNew) this.#counters.adopt(hit, left, state, this.#now())
      return [left, ownOf(check, instances)]
    })
    const { accepted, nowMs, outcomes } = this.#counters.takeOne({ key: hit.key, from: hit.from, checks })
    const explained = outcomes.map(({ state }, i) => {
      const { limit, cost } = checks[i]!
      return ruleOf(limit).explain(state, nowMs, limit, cost)
    })
    const fits = hit.checks.map((_, i) => outcomes[2 * i]!.fits && outcomes[2 * i + 1]!.fits)
    return {
      accepted,
      nowMs,
      fits,
      explanations: fits.map((fit, i) => bothOf(explained[2 * i]!, explained[2 * i + 1]!, fit, instances))
    }
  }

  /**
   * Takes back a hit that is not to count after all.
   *
   * @param given      on the clock of this process
   * @param countedBy  what Redis has counted is in what is left only once
   */
  refund ({ hit, taken }: Refund, countedBy: 'redis' | 'memory', instances: number, outage: number): void {
    hit.checks.forEach((check, i) => {
      if (!taken.outcomes[i]!.fits) return
      this.#counters.takeBackAt(hit.key, ownOf(check, instances), taken.nowMs)
      this.#counters.takeBackAt(hit.key, leftOf(check, countedBy === 'memory' ? instances : 1, outage), taken.nowMs)
    })
  }

  /** Forgets what has expired. */
  sweep (): void {
    this.#counters.sweep()
  }
}

function leftOf (check: NamedCheck, instances: number, outage: number): NamedCheck {
  return { ...check, name: `${check.name}#left${outage}`, cost: check.cost * instances }
}

function ownOf (check: NamedCheck, instances: number): NamedCheck {
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
