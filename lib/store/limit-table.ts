/**
 * The memory store's counters, never more than `capacity` of them. When room
 * is needed, keys that have come once go first as long as they are more than
 * an eighth, then those that have used the smallest part of their quota, the
 * longest unseen first: who floods the table with made-up names, to have a
 * counter forgotten that is nearly used up, has to use up as much for each. A key that is limited is held until it may pass again: a flood of
 * fresh keys does not free it.
 *
 * When all keys are held, newcomers share counters: `overflowBuckets` for each
 * limit. Under an attack of that size some of them are limited by each other's
 * hits; none goes uncounted, and memory stays bounded.
 */
import type { Limit, LimitState } from '../rules/rate-limit.js'

export interface Entry {
  readonly key: string
  limit: Limit
  state: LimitState
  expiresAtMs: number
  heldUntilMs: number
  /** one of the counters that newcomers share, outside the lists */
  readonly shared: boolean
  list: List | undefined
  newer: Entry | undefined
  older: Entry | undefined
}

/** What is to be kept of a key. */
export interface Kept {
  readonly limit: Limit
  readonly state: LimitState
  /** ms since 1970 */
  readonly expiresAtMs: number
  /** until when it is limited; not later than now: it is not */
  readonly heldUntilMs: number
  /** part of the quota that is used, 0 to 1 */
  readonly share: number
}

export class LimitTable {
  readonly #capacity: number
  readonly #entries = new Map<string, Entry>()
  /** keys that have come once */
  readonly #fresh = new List()
  /** keys that have come again, by the part of their quota that is used, least first */
  readonly #known = levels.map(() => new List())
  /** keys that are limited */
  readonly #held = new List()
  readonly #overflow = new Map<string, Entry>()
  readonly #seed: number

  /** @param seed  whole number that nobody outside knows, so that nobody can choose whom to share counters with */
  constructor (capacity: number, seed = 0) {
    this.#capacity = capacity
    this.#seed = seed
  }

  get size (): number {
    return this.#entries.size
  }

  /**
   * The counters of a key, and where to keep them.
   *
   * @param limitName  newcomers share counters with others of this limit when
   *   the table is full of limited keys
   * @returns undefined: the key has none, and there is room for it
   */
  find (key: string, limitName: string, nowMs: number): Entry | undefined {
    const entry = this.#entries.get(key)
    if (entry !== undefined) {
      if (nowMs < entry.expiresAtMs) return entry
      this.#remove(entry)
    }
    return this.#makeRoom(nowMs) ? undefined : this.#sharedEntry(key, limitName, nowMs)
  }

  /** The counters of a key; makes no room, and looks at no shared ones. */
  peek (key: string, nowMs: number): LimitState | undefined {
    const entry = this.#entries.get(key)
    return entry !== undefined && nowMs < entry.expiresAtMs ? entry.state : undefined
  }

  /** @returns whether there was such a key, and it had not expired */
  delete (key: string, nowMs: number): boolean {
    const entry = this.#entries.get(key)
    if (entry === undefined) return false
    this.#remove(entry)
    return nowMs < entry.expiresAtMs
  }

  /** All that are kept, some of which may have expired; without shared ones. */
  entries (): Iterable<Readonly<Entry>> {
    return this.#entries.values()
  }

  /** Keeps counters in the entry that `find` gave, or in a new one. */
  keep (entry: Entry | undefined, key: string, limitName: string, kept: Kept, nowMs: number): void {
    const isNew = entry === undefined
    // It may have been evicted since `find`, to make room for another limit of the same hit.
    const isIn = entry !== undefined && (entry.shared || entry.list !== undefined)
    if (!isIn && !this.#makeRoom(nowMs)) {
      entry = this.#sharedEntry(key, limitName, nowMs)
      // What others have counted there is worth more than this one hit.
      if (nowMs < entry.expiresAtMs) return
    }
    entry ??= newEntry(key, kept, false)
    entry.limit = kept.limit
    entry.state = kept.state
    entry.expiresAtMs = kept.expiresAtMs
    entry.heldUntilMs = kept.heldUntilMs
    if (entry.shared) return
    if (!isIn) this.#entries.set(key, entry)
    if (kept.heldUntilMs > nowMs) this.#file(entry, this.#held)
    else this.#file(entry, isNew && kept.share < muchAtOnce ? this.#fresh : this.#known[levels.findLastIndex(least => kept.share >= least)]!)
  }

  /** Forgets what has expired. */
  sweep (nowMs: number): void {
    for (const entry of this.#entries.values()) {
      if (nowMs >= entry.expiresAtMs) this.#remove(entry)
    }
    for (const [key, entry] of this.#overflow) {
      if (nowMs >= entry.expiresAtMs) this.#overflow.delete(key)
    }
  }

  #makeRoom (nowMs: number): boolean {
    while (this.#entries.size >= this.#capacity) {
      const victim = this.#victim(nowMs)
      if (victim === undefined) return false
      this.#remove(victim)
    }
    return true
  }

  #victim (nowMs: number): Entry | undefined {
    // Newcomers always have some room, lest those who came twice keep all others out.
    if (this.#fresh.size * 8 > this.#capacity) return this.#fresh.oldest
    const known = this.#known.find(({ size }) => size > 0)
    return known?.oldest ?? this.#fresh.oldest ?? this.#noLongerHeld(nowMs)
  }

  /** Looks at a few held keys at a time, so that a full table does not make each newcomer search it. */
  #noLongerHeld (nowMs: number): Entry | undefined {
    for (let looked = 0; looked < 8; looked++) {
      const entry = this.#held.oldest
      if (entry === undefined || nowMs >= entry.heldUntilMs) return entry
      this.#file(entry, this.#held)
    }
    return undefined
  }

  #sharedEntry (key: string, limitName: string, nowMs: number): Entry {
    const bucket = `${limitName}:${hash(key, this.#seed) % overflowBuckets}`
    const entry = this.#overflow.get(bucket)
    if (entry !== undefined && nowMs < entry.expiresAtMs) return entry
    const shared = newEntry(bucket, { limit: noLimit, state: nothing, expiresAtMs: nowMs, heldUntilMs: 0, share: 0 }, true)
    this.#overflow.set(bucket, shared)
    return shared
  }

  #file (entry: Entry, list: List): void {
    entry.list?.remove(entry)
    list.add(entry)
  }

  #remove (entry: Entry): void {
    entry.list?.remove(entry)
    this.#entries.delete(entry.key)
  }
}

/** Shared counters for each limit, once the table is full of limited keys. */
export const overflowBuckets = 256

/** Field by field: with spreads a fresh key costs 10 us instead of 0.4, and a flood is made of fresh keys. */
function newEntry (key: string, { limit, state, expiresAtMs, heldUntilMs }: Kept, shared: boolean): Entry {
  return { key, limit, state, expiresAtMs, heldUntilMs, shared, list: undefined, newer: undefined, older: undefined }
}

/** Counters that every algorithm reads as over. */
const nothing: LimitState = { used: 0, previous: 0, atMs: 0 }
const noLimit: Limit = { algorithm: 'fixed-window', max: 0, windowMs: 1, burst: 0, excess: 'none' }

/** Entries in the order of their last use, linked, so that moving one costs the same however many there are. */
class List {
  size = 0
  oldest: Entry | undefined
  #newest: Entry | undefined

  add (entry: Entry): void {
    entry.list = this
    entry.older = this.#newest
    entry.newer = undefined
    if (this.#newest === undefined) this.oldest = entry
    else this.#newest.newer = entry
    this.#newest = entry
    this.size++
  }

  remove (entry: Entry): void {
    if (entry.newer === undefined) this.#newest = entry.older
    else entry.newer.older = entry.older
    if (entry.older === undefined) this.oldest = entry.newer
    else entry.older.newer = entry.newer
    entry.list = entry.newer = entry.older = undefined
    this.size--
  }
}

/** Where the levels of use begin, as parts of the quota. */
const levels = [0, 1 / 64, 1 / 16, 1 / 4, 1 / 2, 3 / 4] as const

/** Who uses so much of a quota by the first hit is no newcomer that others may push out. */
const muchAtOnce = levels[2]

/** FNV-1a, 32 bits, from a seed of one's own. */
function hash (text: string, seed: number): number {
  let bits = 0x811c9dc5 ^ seed
  for (let i = 0; i < text.length; i++) bits = Math.imul(bits ^ text.charCodeAt(i), 0x01000193)
  return bits >>> 0
}
