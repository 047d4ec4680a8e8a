/**
 * The counters of clients in this process. They answer if no Redis is used, or
 * while it is away. All methods are synchronous, so a request waits for no
 * promise.
 */
import type { HashKey } from '../../addresses/keyed-hash.js'
import { ruleOf } from '../../rules/algorithms.js'
import {
  type Check, explainHit, isChanged, type Limit, type Stored, takeAll, usedPart
} from '../../rules/rate-limit.js'
import type { Explanation, Judged, LimitState } from '../../rules/rule.js'
import type { Keys } from '../keys.js'
import {
  type CountedOutcome, type Hit, type LimitStore, type Owner, type Peeked, peekedOf, type Taken
} from '../limit-store.js'
import type { Entry, CounterUpdate } from './counter-entry.js'
import { CounterTable } from './counter-table.js'

export interface MemoryLimitsOptions {
  readonly keys: Keys
  /** the most counters in memory */
  readonly capacity: number
  /** ms since 1970 */
  readonly now: () => number
  /** 64 random bits, see CounterTable */
  readonly hashKey?: HashKey
}

/** A decision of memory, and what it left in the counters. */
export interface Decided extends Taken {
  readonly source: 'memory'
  readonly outcomes: readonly DecidedOutcome[]
}

export interface DecidedOutcome extends CountedOutcome, Pick<Judged<LimitState>, 'left'> {}

/** A counter as a store has reported it. */
export interface Reported {
  readonly check: Check
  readonly state: LimitState
  /** what the counter means to a hit of the check's cost; undefined: not computed yet */
  readonly explanation?: Explanation | undefined
}

/** Methods for the outage layer, with which memory continues from the counters that Redis has reported. */
export interface LimitMirror {
  /** The counter in memory; undefined: none, or it is shared. */
  known (owner: Owner, check: Check): LimitState | undefined
  /**
   * Adopts a counter that another store has reported.
   *
   * @param othersNowMs  the other store's clock at that moment
   */
  adopt (owner: Owner, counter: Reported, othersNowMs: number): void
  /**
   * Refunds an accepted hit that was counted in a window that may have begun at another moment.
   *
   * @param countedAtMs  by the clock of this store
   */
  refundAt (owner: Owner, check: Check, countedAtMs: number): void
  /** All counters in memory that are not shared, with their keys in Redis. Some may have expired. */
  counters (): Iterable<{ readonly key: string, readonly limit: Limit, readonly state: LimitState }>
}

export class MemoryLimits implements LimitStore, LimitMirror {
  readonly #keys: Keys
  readonly #now: () => number
  readonly #table: CounterTable

  constructor ({ keys, capacity, now, hashKey = [0, 0] }: MemoryLimitsOptions) {
    this.#keys = keys
    this.#now = now
    this.#table = new CounterTable(capacity, hashKey)
  }

  /** number of counters in memory */
  get size (): number {
    return this.#table.size
  }

  take (hit: Hit | CountedAlone): Decided {
    const nowMs = this.#now()
    const [first] = hit.checks
    if (first !== undefined && hit.checks.length === 1) return this.#takeSingle(hit, first, nowMs)
    const { accepted, judged } = takeAll(hit.checks.map(check => this.#find(hit, check, nowMs)), nowMs)
    const outcomes = judged.map(({ of: { check, key, entry }, outcome }) => {
      const decided = decidedOf(check, outcome, nowMs)
      if (isChanged(outcome)) this.#table.keep(entry, key, updateOf(hit, decided, nowMs), nowMs)
      return decided
    })
    return { kind: 'taken', source: 'memory', accepted, nowMs, outcomes }
  }

  /** Refunds an accepted hit at those limits whose counters are in memory. */
  refund (owner: Owner, { outcomes }: Taken): void {
    for (const { check, fits, state } of outcomes) {
      if (fits) this.#change(owner, check, known => ruleOf(check.limit).refund(known, check.limit, check.cost, state))
    }
  }

  forget (client: string, checks: readonly Check[]): boolean {
    const nowMs = this.#now()
    const owner = { clientKey: client }
    return checks.map(check => this.#table.delete(this.#keys.counter(owner, check), nowMs)).includes(true)
  }

  peek (client: string, checks: readonly Check[]): readonly Peeked[] {
    const nowMs = this.#now()
    return checks.map(check => peekedOf(check, this.known({ clientKey: client }, check), nowMs))
  }

  known (owner: Owner, check: Check): LimitState | undefined {
    return this.#table.peek(this.#keys.counter(owner, check), this.#now())
  }

  adopt (owner: Owner, { check, state: reported, explanation }: Reported, othersNowMs: number): void {
    const nowMs = this.#now()
    const { key, entry } = this.#find(owner, check, nowMs)
    const state = ruleOf(check.limit).shift(reported, nowMs - othersNowMs)
    // The explanation holds durations, so it is the same on both clocks.
    this.#table.adopt(entry, key, updateOf(owner, { check, state, explanation }, nowMs), nowMs)
  }

  refundAt (owner: Owner, check: Check, countedAtMs: number): void {
    const { limit, cost } = check
    this.#change(owner, check, known => ruleOf(limit).refundAt(known, limit, cost, countedAtMs))
  }

  counters (): Iterable<{ readonly key: string, readonly limit: Limit, readonly state: LimitState }> {
    return this.#table.entries()
  }

  /** Removes expired counters. */
  sweep (): void {
    this.#table.sweep(this.#now())
  }

  /** Almost every hit has one limit, so this way makes no lists. */
  #takeSingle (owner: Owner, check: Check, nowMs: number): Decided {
    const { limit, cost } = check
    const place = this.#keys.place(owner, check)
    const entry = this.#table.find(place, check, owner.fromAddress, nowMs)
    const outcome = ruleOf(limit).take(entry?.state, nowMs, limit, cost)
    const decided = decidedOf(check, outcome, nowMs)
    if (isChanged(outcome)) this.#table.keep(entry, place.key, updateOf(owner, decided, nowMs), nowMs)
    const accepted = outcome.fits || check.shadow === true
    return { kind: 'taken', source: 'memory', accepted, nowMs, outcomes: [decided] }
  }

  #change (owner: Owner, check: Check, changed: (known: LimitState) => LimitState): void {
    const known = this.known(owner, check)
    if (known !== undefined) this.adopt(owner, { check, state: changed(known) }, this.#now())
  }

  #find (owner: Owner, check: Check, nowMs: number): Found {
    const place = this.#keys.place(owner, check)
    const { key } = place
    const entry = this.#table.find(place, check, owner.fromAddress, nowMs)
    return { check, key, entry, state: entry?.state }
  }
}

/** A hit that only memory decides. */
export type CountedAlone = Owner & Pick<Hit, 'checks'>

interface Found extends Stored {
  readonly check: Check
  readonly key: string
  readonly entry: Entry | undefined
}

function decidedOf (check: Check, { fits, state, left }: Judged<LimitState>, nowMs: number): DecidedOutcome {
  const { limit, cost } = check
  const explanation = explainHit(ruleOf(limit).explain(state, nowMs, limit, cost), limit, cost)
  return { check, fits, explanation, state, left }
}

function updateOf (
  { fromAddress }: Owner, { check, state, explanation }: Reported, nowMs: number
): CounterUpdate {
  const { name, limit, cost } = check
  const rule = ruleOf(limit)
  // An explanation for a hit of another cost does not tell when a hit of cost 1 passes.
  const ofOne = explanation !== undefined && cost === 1 ? explanation : rule.explain(state, nowMs, limit)
  return {
    name,
    limit,
    fromAddress,
    state,
    expiresAtMs: rule.expiresAtMs(state, limit),
    limitedUntilMs: nowMs + ofOne.retryAfterMs,
    quotaUsed: usedPart(ofOne, limit)
  }
}
