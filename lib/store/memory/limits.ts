/**
 * The counters of clients in this process. They answer when there is no Redis,
 * or while it is away. Everything happens at once, so that no promise stands
 * between a request and its answer.
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
import type { Entry, Kept } from './counter-entry.js'
import { CounterTable } from './counter-table.js'

export interface MemoryLimitsOptions {
  readonly keys: Keys
  /** the most counters that are kept */
  readonly capacity: number
  /** ms since 1970 */
  readonly now: () => number
  /** 64 random bits, see CounterTable */
  readonly hashKey?: HashKey
}

/** What memory has decided, and what that left in the counters. */
export interface Decided extends Taken {
  readonly source: 'memory'
  readonly outcomes: readonly DecidedOutcome[]
}

export interface DecidedOutcome extends CountedOutcome, Pick<Judged<LimitState>, 'left'> {}

/** A counter, as a store has reported it. */
export interface Reported {
  readonly check: Check
  readonly state: LimitState
  /** what it says to a hit of the check's cost; undefined: nobody has asked */
  readonly explanation?: Explanation | undefined
}

/** What only the outage layer needs: memory goes on from what Redis has reported. */
export interface LimitMirror {
  /** A counter, as far as it is known here. */
  known (of: Owner, check: Check): LimitState | undefined
  /**
   * Takes over a counter that another store has reported, to go on from there.
   *
   * @param othersNowMs  the other store's clock at that moment
   */
  adopt (of: Owner, counter: Reported, othersNowMs: number): void
  /**
   * Takes back an accepted hit from a counter whose windows may begin elsewhere.
   *
   * @param countedAtMs  by the clock of this store
   */
  takeBackAt (of: Owner, check: Check, countedAtMs: number): void
  /** All counters that are known here, by their keys in Redis; some may have expired. */
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

  /** How many counters are kept. */
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
      if (isChanged(outcome)) this.#table.keep(entry, key, keptOf(hit, decided, nowMs), nowMs)
      return decided
    })
    return { kind: 'taken', source: 'memory', accepted, nowMs, outcomes }
  }

  /** Takes back an accepted hit, as far as its counters are known here. */
  refund (of: Owner, { outcomes }: Taken): void {
    for (const { check, fits, state } of outcomes) {
      if (fits) this.#change(of, check, known => ruleOf(check.limit).refund(known, check.limit, check.cost, state))
    }
  }

  forget (client: string, checks: readonly Check[]): boolean {
    const nowMs = this.#now()
    return checks.map(check => this.#table.delete(this.#keys.counter({ key: client }, check), nowMs)).includes(true)
  }

  peek (client: string, checks: readonly Check[]): readonly Peeked[] {
    const nowMs = this.#now()
    return checks.map(check => peekedOf(check, this.known({ key: client }, check), nowMs))
  }

  known (of: Owner, check: Check): LimitState | undefined {
    return this.#table.peek(this.#keys.counter(of, check), this.#now())
  }

  adopt (of: Owner, { check, state: reported, explanation }: Reported, othersNowMs: number): void {
    const nowMs = this.#now()
    const { key, entry } = this.#find(of, check, nowMs)
    const state = ruleOf(check.limit).shift(reported, nowMs - othersNowMs)
    // What it says to a client is the same on both clocks.
    this.#table.adopt(entry, key, keptOf(of, { check, state, explanation }, nowMs), nowMs)
  }

  takeBackAt (of: Owner, check: Check, countedAtMs: number): void {
    const { limit, cost } = check
    this.#change(of, check, known => ruleOf(limit).refundAt(known, limit, cost, countedAtMs))
  }

  counters (): Iterable<{ readonly key: string, readonly limit: Limit, readonly state: LimitState }> {
    return this.#table.entries()
  }

  /** Forgets what has expired. */
  sweep (): void {
    this.#table.sweep(this.#now())
  }

  /** Almost every hit has one limit: it makes no lists. */
  #takeSingle (of: Owner, check: Check, nowMs: number): Decided {
    const { limit, cost } = check
    const key = this.#keys.counter(of, check)
    const entry = this.#table.find(key, check, of.from, nowMs)
    const outcome = ruleOf(limit).take(entry?.state, nowMs, limit, cost)
    const decided = decidedOf(check, outcome, nowMs)
    if (isChanged(outcome)) this.#table.keep(entry, key, keptOf(of, decided, nowMs), nowMs)
    const accepted = outcome.fits || check.shadow === true
    return { kind: 'taken', source: 'memory', accepted, nowMs, outcomes: [decided] }
  }

  #change (of: Owner, check: Check, changed: (known: LimitState) => LimitState): void {
    const known = this.known(of, check)
    if (known !== undefined) this.adopt(of, { check, state: changed(known) }, this.#now())
  }

  #find (of: Owner, check: Check, nowMs: number): Found {
    const key = this.#keys.counter(of, check)
    const entry = this.#table.find(key, check, of.from, nowMs)
    return { check, key, entry, state: entry?.state }
  }
}

/** A hit that only memory is asked about. */
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

function keptOf ({ from }: Owner, { check, state, explanation }: Reported, nowMs: number): Kept {
  const { name, limit, cost } = check
  const rule = ruleOf(limit)
  // What a hit of another cost may do says nothing about the next one.
  const ofOne = explanation !== undefined && cost === 1 ? explanation : rule.explain(state, nowMs, limit)
  return {
    name,
    limit,
    from,
    state,
    expiresAtMs: rule.expiresAtMs(state, limit),
    heldUntilMs: nowMs + ofOne.retryAfterMs,
    share: usedPart(ofOne, limit)
  }
}
