/**
 * The counters of clients in this process. They answer when there is no Redis,
 * or while it is away. Everything happens at once, so that no promise stands
 * between a request and its answer.
 */
import type { HashKey } from '../../addresses/keyed-hash.js'
import { isChanged, type Limit, type Outcome, ruleOf, takeAll, usedPart } from '../../rules/rate-limit.js'
import type { LimitState } from '../../rules/rule.js'
import type { Keys } from '../keys.js'
import type { Hit, LimitStore, NamedCheck, Peeked, Refund, Taken } from '../limit-store.js'
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

/** The key of a counter, and the address that asks. */
export type Asking = Pick<Hit, 'key' | 'from' | 'counterKeys'>

/** What memory has decided, and what that left in the counters. */
export interface Decided extends Taken {
  readonly outcomes: readonly (Taken['outcomes'][number] & Pick<Outcome, 'left'>)[]
}

/** What only the outage layer needs: memory goes on from what Redis has reported. */
export interface LimitMirror {
  /** A counter, as far as it is known here. */
  known (client: string, check: NamedCheck): LimitState | undefined
  /**
   * Takes over a counter that another store has reported, to go on from there.
   *
   * @param of           the key of the counter, and the address that asked for it
   * @param othersNowMs  the other store's clock at that moment
   */
  adopt (of: Asking, check: NamedCheck, state: LimitState, othersNowMs: number): void
  /**
   * Takes back an accepted hit from a counter whose windows may begin elsewhere.
   *
   * @param countedAtMs  by the clock of this store
   */
  takeBackAt (client: string, check: NamedCheck, countedAtMs: number): void
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

  /** Decides one hit. Atomic over all of its checks. */
  takeOne (hit: Hit): Decided {
    const nowMs = this.#now()
    const [first, second] = hit.checks
    if (first !== undefined && second === undefined) return this.#takeSingle(hit, first, nowMs)
    const found = hit.checks.map(check => this.#find(hit, check, nowMs))
    const { accepted, outcomes } = takeAll(found.map(({ entry }) => entry?.state), nowMs, hit.checks)
    for (const [i, { check, key, entry }] of found.entries()) {
      // `takeAll` gives one outcome for each check.
      const outcome = outcomes[i]!
      if (isChanged(outcome)) this.#table.keep(entry, key, keptOf(hit, check, outcome.state, nowMs), nowMs)
    }
    return { accepted, nowMs, outcomes }
  }

  /** Takes back an accepted hit, as far as its counters are known here. */
  refund ({ hit, taken }: Refund): void {
    for (const [i, check] of hit.checks.entries()) {
      // A hit has one outcome for each check.
      const { fits, state } = taken.outcomes[i]!
      if (fits) this.#change(hit.key, check, known => ruleOf(check.limit).refund(known, check.limit, check.cost, state))
    }
  }

  forget (client: string, checks: readonly NamedCheck[]): boolean {
    const nowMs = this.#now()
    return checks.map(check => this.#table.delete(this.#keyOf({ key: client }, check), nowMs)).includes(true)
  }

  peek (client: string, checks: readonly NamedCheck[]): Peeked {
    return { nowMs: this.#now(), states: checks.map(check => this.known(client, check)) }
  }

  known (client: string, check: NamedCheck): LimitState | undefined {
    return this.#table.peek(this.#keyOf({ key: client }, check), this.#now())
  }

  adopt (of: Asking, check: NamedCheck, reported: LimitState, othersNowMs: number): void {
    const nowMs = this.#now()
    const { key, entry } = this.#find(of, check, nowMs)
    const state = ruleOf(check.limit).shift(reported, nowMs - othersNowMs)
    this.#table.adopt(entry, key, keptOf(of, check, state, nowMs), nowMs)
  }

  takeBackAt (client: string, check: NamedCheck, countedAtMs: number): void {
    const { limit, cost } = check
    this.#change(client, check, known => ruleOf(limit).refundAt(known, limit, cost, countedAtMs))
  }

  counters (): Iterable<{ readonly key: string, readonly limit: Limit, readonly state: LimitState }> {
    return this.#table.entries()
  }

  /** Forgets what has expired. */
  sweep (): void {
    this.#table.sweep(this.#now())
  }

  /** Almost every hit has one limit: it makes no lists. */
  #takeSingle (hit: Hit, check: NamedCheck, nowMs: number): Decided {
    const { limit, cost } = check
    const key = this.#keyOf(hit, check)
    const entry = this.#table.find(key, check, hit.from, nowMs)
    const outcome = ruleOf(limit).take(entry?.state, nowMs, limit, cost)
    if (isChanged(outcome)) this.#table.keep(entry, key, keptOf(hit, check, outcome.state, nowMs), nowMs)
    return { accepted: outcome.fits || check.shadow === true, nowMs, outcomes: [outcome] }
  }

  #change (client: string, check: NamedCheck, changed: (known: LimitState) => LimitState): void {
    const known = this.known(client, check)
    if (known !== undefined) this.adopt({ key: client }, check, changed(known), this.#now())
  }

  #find (of: Asking, check: NamedCheck, nowMs: number): { check: NamedCheck, key: string, entry: Entry | undefined } {
    const key = this.#keyOf(of, check)
    return { check, key, entry: this.#table.find(key, check, of.from, nowMs) }
  }

  #keyOf ({ key, counterKeys }: Asking, { name, limit }: NamedCheck): string {
    return this.#keys.limit(limit.algorithm, name, counterKeys ?? key)
  }
}

function keptOf ({ from }: Asking, { name, limit }: NamedCheck, state: LimitState, nowMs: number): Kept {
  const rule = ruleOf(limit)
  const explanation = rule.explain(state, nowMs, limit)
  return {
    name,
    limit,
    from,
    state,
    expiresAtMs: rule.expiresAtMs(state, limit),
    heldUntilMs: nowMs + explanation.retryAfterMs,
    share: usedPart(explanation, limit)
  }
}
