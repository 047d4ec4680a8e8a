/** What the table of counters keeps of a key, and the lists that order keys by their last use. */
import type { Limit } from '../../rules/rate-limit.js'
import type { LimitState } from '../../rules/rule.js'

/** Whose counter it is: a limit by its name. */
export interface OfLimit {
  readonly name: string
  readonly limit: Limit
}

/** What is to be kept of a key. */
export interface Kept extends OfLimit {
  /** the address that asks; undefined: that is the key itself */
  readonly from: string | undefined
  readonly state: LimitState
  /** on the same clock as `nowMs` */
  readonly expiresAtMs: number
  /** until when it is limited; not later than now: it is not */
  readonly heldUntilMs: number
  /** part of the quota that is used, 0 to 1 */
  readonly share: number
}

/** A key with a counter of its own. */
export interface OwnEntry {
  readonly isShared: false
  readonly key: string
  readonly limitName: string
  /** the address that first asked for it; undefined: that is the key itself */
  readonly holder: Holder | undefined
  limit: Limit
  state: LimitState
  expiresAtMs: number
  heldUntilMs: number
  /** undefined: it has been evicted */
  list: EntryList | undefined
  newer: OwnEntry | undefined
  older: OwnEntry | undefined
}

/** A counter that several keys share. */
export interface SharedEntry {
  readonly isShared: true
  /** by keys of one address only */
  readonly isOfAddress: boolean
  limit: Limit
  /** undefined: nothing is counted yet */
  state: LimitState | undefined
  expiresAtMs: number
  heldUntilMs: number
}

export type Entry = OwnEntry | SharedEntry

type Counted = Pick<Kept, 'limit' | 'state' | 'expiresAtMs' | 'heldUntilMs'>

/** An address that counts by keys other than itself. */
export interface Holder {
  readonly address: string
  /** entries in its part of the table */
  size: number
}

/** Field by field: with spreads a fresh key costs 10 us instead of 0.4, and a flood is made of fresh keys. */
export function newEntry (key: string, kept: Kept, holder: Holder | undefined): OwnEntry {
  return {
    isShared: false,
    key,
    limitName: kept.name,
    holder,
    limit: kept.limit,
    state: kept.state,
    expiresAtMs: kept.expiresAtMs,
    heldUntilMs: kept.heldUntilMs,
    list: undefined,
    newer: undefined,
    older: undefined
  }
}

export function write (entry: Entry, { limit, state, expiresAtMs, heldUntilMs }: Counted): void {
  entry.limit = limit
  entry.state = state
  entry.expiresAtMs = expiresAtMs
  entry.heldUntilMs = heldUntilMs
}

/** Entries in the order of their last use, linked, so that moving one costs the same however many there are. */
export class EntryList {
  size = 0
  oldest: OwnEntry | undefined
  #newest: OwnEntry | undefined

  add (entry: OwnEntry): void {
    entry.list = this
    entry.older = this.#newest
    entry.newer = undefined
    if (this.#newest === undefined) this.oldest = entry
    else this.#newest.newer = entry
    this.#newest = entry
    this.size++
  }

  remove (entry: OwnEntry): void {
    if (entry.newer === undefined) this.#newest = entry.older
    else entry.newer.older = entry.older
    if (entry.older === undefined) this.oldest = entry.newer
    else entry.older.newer = entry.newer
    entry.list = entry.newer = entry.older = undefined
    this.size--
  }
}
