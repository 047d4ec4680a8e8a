/**
 * The counters of clients in this process. They answer when there is no Redis,
 * or while it is away. Everything happens at once, so that no promise stands
 * between a request and its answer.
 */
import type { HashKey } from '../../addresses/keyed-hash.js'
import { expiresAtMs, explain, isChanged, type Limit, refund, take, takeAll } from '../../rules/rate-limit.js'
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
  /** @param counted  the counter as the hit left it */
  takeBack (client: string, check: NamedCheck, counted: LimitState): void
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
  takeOne (hit: Hit): Taken {
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
      if (fits) this.takeBack(hit.key, check, state)
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

  adopt (of: Asking, check: NamedCheck, { used, previous, atMs }: LimitState, othersNowMs: number): void {
    const nowMs = this.#now()
    const { key, entry } = this.#find(of, check, nowMs)
    const state = { used, previous, atMs: atMs - othersNowMs + nowMs }
    this.#table.adopt(entry, key, keptOf(of, check, state, nowMs), nowMs)
  }

  takeBack (client: string, check: NamedCheck, counted: LimitState): void {
    const known = this.known(client, check)
    if (known === undefined) return
    this.adopt({ key: client }, check, refund(known, check.limit, check.cost, counted), this.#now())
  }

  counters (): Iterable<{ readonly key: string, readonly limit: Limit, readonly state: LimitState }> {
    return this.#table.entries()
  }

  /** Forgets what has expired. */
  sweep (): void {
    this.#table.sweep(this.#now())
  }

  /** Almost every hit has one limit: it makes no lists. */
  #takeSingle (hit: Hit, check: NamedCheck, nowMs: number): Taken {
    const { limit, cost } = check
    const key = this.#keyOf(hit, check)
    const entry = this.#table.find(key, check, hit.from, nowMs)
    const outcome = take(entry?.state, nowMs, limit, cost)
    if (isChanged(outcome)) this.#table.keep(entry, key, keptOf(hit, check, outcome.state, nowMs), nowMs)
    return { accepted: outcome.fits || check.shadow === true, nowMs, outcomes: [outcome] }
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
  const { retryAfterMs, remaining } = explain(state, nowMs, limit)
  return {
    name,
    limit,
    from,
    state,
    expiresAtMs: expiresAtMs(state, limit),
    heldUntilMs: nowMs + retryAfterMs,
    share: 1 - remaining / Math.max(1, limit.burst)
  }
}
