/**
 * The memory store's counters, never more than `capacity` of them.
 *
 * When room is needed, keys that have come once are evicted first, as long as
 * they are more than an eighth. Then come the keys that have used the smallest
 * part of their quota, the longest unseen first. A limited key is held until it
 * may pass again, so a flood of new keys does not free it.
 *
 * A client that chooses its own name can fill any table with names, so the room
 * is divided:
 *   by address   an address has a sixteenth for keys other than itself. Beyond
 *                that its keys take only free room, at most half of the table
 *                for all such addresses together. Beyond that the address has
 *                counters that its own keys share
 *   by limit     held keys of one limit take at most three quarters of the
 *                room that held keys of the others leave. Limited keys beyond
 *                that are evicted first when another limit needs room
 * Keys beyond the part of their address stay until they expire. So an address
 * that guesses at a name cannot flood the table to have that name forgotten.
 *
 * A newcomer without room shares a counter with others of its limit: see
 * shared-counters.ts.
 */
import type { HashKey } from '../../addresses/keyed-hash.js'
import { ruleOf } from '../../rules/algorithms.js'
import { usedPart } from '../../rules/rate-limit.js'
import type { LimitState } from '../../rules/rule.js'
import {
  type Entry, EntryList, type Holder, type Kept, newEntry, type OfLimit, type OwnEntry, type SharedEntry, write
} from './counter-entry.js'
import { Levels } from './levels.js'
import { SharedCounters } from './shared-counters.js'

export class CounterTable {
  readonly #capacity: number
  readonly #entries = new Map<string, OwnEntry>()
  /** keys that have come once */
  readonly #fresh = new EntryList()
  /** keys that have come again, by the part of their quota that is used */
  readonly #known = new Levels(leastUsed, () => new EntryList())
  /** keys that are limited, within the part of their limit */
  readonly #held = new EntryList()
  /** how many of them each limit has */
  readonly #heldBy = new Map<string, number>()
  /** keys that are limited, beyond the part of their limit */
  readonly #beyond = new EntryList()
  /** keys beyond the part of their address */
  readonly #borrowed = new EntryList()
  readonly #holders = new Map<string, Holder>()
  readonly #shared: SharedCounters

  /** @param hashKey  see SharedCounters */
  constructor (capacity: number, hashKey: HashKey) {
    this.#capacity = capacity
    this.#shared = new SharedCounters(hashKey)
  }

  get size (): number {
    return this.#entries.size
  }

  /**
   * The counters of a key, and where to keep them.
   *
   * @param from  the address that asks; undefined where that is the key itself
   * @returns undefined: the key has none, and there is room for it
   */
  find (key: string, of: OfLimit, from: string | undefined, nowMs: number): Entry | undefined {
    const entry = this.#entries.get(key)
    if (entry !== undefined) {
      if (nowMs < entry.expiresAtMs) return entry
      this.#remove(entry)
    }
    // Otherwise a name would have a second quota in its own counter when there is room again.
    const shared = from === undefined ? undefined : this.#shared.find(from, key, of, nowMs)
    if (shared !== undefined) return shared
    return this.#makeRoom(of.name, from, nowMs) ? undefined : this.#share(key, of, from, nowMs)
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
  entries (): Iterable<Readonly<OwnEntry>> {
    return this.#entries.values()
  }

  /** Keeps counters in the entry that `find` gave, or in a new one. */
  keep (entry: Entry | undefined, key: string, kept: Kept, nowMs: number): void {
    if (entry?.isShared === true) return write(entry, kept)
    // It may have been evicted since `find`, to make room for another limit of the same hit.
    if (entry?.list !== undefined) {
      write(entry, kept)
      return this.#file(entry, this.#listFor(entry, kept, false, nowMs))
    }
    const { name, from } = kept
    if (this.#makeRoom(name, from, nowMs)) return this.#add(key, kept, entry === undefined, nowMs)
    const shared = this.#share(key, kept, from, nowMs)
    // The hits of others there are worth more than this one.
    if (shared.state === undefined) write(shared, kept)
  }

  /**
   * Like `keep`, for counters that another store has reported. What newcomers share
   * is not for one of them to set; what an address shares with itself becomes
   * tighter only, so that none of its names has a quota here and one there.
   */
  adopt (entry: Entry | undefined, key: string, kept: Kept, nowMs: number): void {
    if (entry?.isShared !== true) this.keep(entry, key, kept, nowMs)
    else if (entry.isOfAddress && isTighter(kept, entry, nowMs)) write(entry, kept)
  }

  /** Forgets what has expired. */
  sweep (nowMs: number): void {
    for (const entry of this.#entries.values()) {
      if (nowMs >= entry.expiresAtMs) this.#remove(entry)
    }
    this.#shared.sweep(nowMs)
  }

  #add (key: string, kept: Kept, isNew: boolean, nowMs: number): void {
    const { from } = kept
    const holder = from === undefined ? undefined : this.#holderOf(from)
    const entry = newEntry(key, kept, holder)
    this.#entries.set(key, entry)
    if (this.#isFull(holder)) return this.#file(entry, this.#borrowed)
    if (holder !== undefined) holder.size++
    this.#file(entry, this.#listFor(entry, kept, isNew, nowMs))
  }

  #listFor (entry: OwnEntry, { name, heldUntilMs, share }: Kept, isNew: boolean, nowMs: number): EntryList {
    if (entry.list === this.#borrowed) return this.#borrowed
    if (heldUntilMs > nowMs) {
      return entry.list !== this.#held && this.#hasItsPart(name) ? this.#beyond : this.#held
    }
    if (isNew && share < muchAtOnce) return this.#fresh
    return this.#known.of(share)
  }

  /** Makes room for a newcomer. @returns whether it gets its own counters */
  #makeRoom (limitName: string, from: string | undefined, nowMs: number): boolean {
    if (from !== undefined && this.#isFull(this.#holders.get(from))) return this.#canLend(nowMs)
    while (this.#entries.size >= this.#capacity) {
      if (this.#hasItsPart(limitName)) this.#loosen(nowMs)
      const victim = this.#hasItsPart(limitName) ? undefined : this.#victim(limitName)
      if (victim === undefined) return false
      this.#evict(victim, nowMs)
    }
    return true
  }

  /** Whether an address has all the room that it may push others out for. */
  #isFull (holder: Holder | undefined): boolean {
    return holder !== undefined && holder.size >= Math.max(1, Math.floor(this.#capacity / 16))
  }

  /** Whether an address beyond its part may have free room. */
  #canLend (nowMs: number): boolean {
    const isLent = () => this.#borrowed.size * 2 >= this.#capacity
    let entry = this.#borrowed.oldest
    for (let looked = 0; entry !== undefined && looked < mostLooks && isLent(); looked++) {
      if (nowMs >= entry.expiresAtMs) this.#remove(entry)
      else this.#file(entry, this.#borrowed)
      entry = this.#borrowed.oldest
    }
    return !isLent() && this.#entries.size < this.#capacity
  }

  /** Whether held keys of a limit take all the room that they may. */
  #hasItsPart (limitName: string): boolean {
    const held = this.#heldBy.get(limitName) ?? 0
    return held >= partOfLimit * (this.#capacity - this.#borrowed.size - (this.#held.size - held))
  }

  /** The entry to evict for a newcomer of a limit; undefined: none may be evicted. */
  #victim (limitName: string): OwnEntry | undefined {
    const beyond = this.#beyond.oldest
    if (beyond !== undefined && beyond.limitName !== limitName) return beyond
    // Newcomers always have some room; otherwise keys that came twice would keep all others out.
    if (this.#fresh.size * 8 > this.#capacity) return this.#fresh.oldest
    return this.#known.all.find(({ size }) => size > 0)?.oldest ?? this.#fresh.oldest
  }

  /**
   * Releases held keys that may pass again. It looks at a few of them at a time,
   * so that newcomers do not search a full table each time.
   */
  #loosen (nowMs: number): void {
    for (let looked = 0; looked < mostLooks; looked++) {
      const entry = this.#held.oldest
      if (entry === undefined) return
      const { expiresAtMs, heldUntilMs } = entry
      // A bucket that lets one hit pass again is still nearly full. There is a list for each level.
      const ordinary = this.#known.of(nowMs < expiresAtMs ? 1 : 0)
      this.#file(entry, nowMs < heldUntilMs ? this.#held : ordinary)
    }
  }

  /** Evicts an entry. If its key is limited, the counter that the key shares from now on is limited, too. */
  #evict (victim: OwnEntry, nowMs: number): void {
    const { key, limitName, limit, heldUntilMs } = victim
    this.#remove(victim)
    if (nowMs >= heldUntilMs) return
    const shared = this.#shared.ofLimit(key, { name: limitName, limit }, nowMs)
    if (shared.heldUntilMs < heldUntilMs) write(shared, victim)
  }

  /** The shared counter of a newcomer without room. */
  #share (key: string, of: OfLimit, from: string | undefined, nowMs: number): SharedEntry {
    if (from === undefined || !this.#isFull(this.#holders.get(from))) return this.#shared.ofLimit(key, of, nowMs)
    return this.#shared.ofAddress(from, key, of, nowMs)
  }

  #holderOf (address: string): Holder {
    let holder = this.#holders.get(address)
    if (holder === undefined) this.#holders.set(address, holder = { address, size: 0 })
    return holder
  }

  #file (entry: OwnEntry, list: EntryList): void {
    if (entry.list !== list) {
      if (entry.list === this.#held) this.#countHeld(entry.limitName, -1)
      if (list === this.#held) this.#countHeld(entry.limitName, 1)
    }
    entry.list?.remove(entry)
    list.add(entry)
  }

  #countHeld (limitName: string, by: 1 | -1): void {
    const held = (this.#heldBy.get(limitName) ?? 0) + by
    if (held === 0) this.#heldBy.delete(limitName)
    else this.#heldBy.set(limitName, held)
  }

  #remove (entry: OwnEntry): void {
    const { key, limitName, list, holder } = entry
    if (list === this.#held) this.#countHeld(limitName, -1)
    list?.remove(entry)
    this.#entries.delete(key)
    if (holder === undefined || list === this.#borrowed) return
    if (--holder.size === 0) this.#holders.delete(holder.address)
  }
}

/** The part of the room left by others that held keys of one limit may take. */
const partOfLimit = 3 / 4

/** The most entries that are looked at for one newcomer. */
const mostLooks = 8

/** Whether a key is limited for longer, or has used more, than a shared counter says. */
function isTighter (kept: Kept, { state, limit, heldUntilMs }: SharedEntry, nowMs: number): boolean {
  if (state === undefined || kept.heldUntilMs > Math.max(nowMs, heldUntilMs)) return true
  return heldUntilMs <= nowMs && kept.share > usedPart(ruleOf(limit).explain(state, nowMs, limit), limit)
}

/** Who uses so much of a quota by the first hit is no newcomer that others may push out. */
const muchAtOnce = 1 / 16

/** Where the levels of use begin, as parts of the quota. */
const leastUsed = [0, 1 / 64, muchAtOnce, 1 / 4, 1 / 2, 3 / 4] as const
