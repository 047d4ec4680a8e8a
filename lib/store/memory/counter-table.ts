/**
 * The memory store's counters, at most `capacity` of them. A key here is the key
 * of a counter: one client at one limit (store/keys.ts).
 *
 * If the table is full, keys that were used once are evicted first, as long as
 * they take more than an eighth of the table. Then come the keys that have used
 * the smallest part of their quota, the least recently used first. A limited key
 * is held until it may pass again, so a flood of new keys does not free it.
 *
 * A client that chooses its own key could fill any table with keys, so the room
 * is divided:
 *   by address   an address gets a sixteenth of the table for keys other than
 *                itself. More keys of the address borrow free room. All borrowed
 *                room together is at most half of the table. After that, keys of
 *                the address share counters
 *   by limit     held keys of one limit take at most three quarters of the
 *                room that held keys of other limits leave. Limited keys beyond
 *                that are evicted first when another limit needs room
 * Keys in borrowed room stay until they expire. So an address that guesses at a
 * key cannot flood the table to have that key forgotten.
 *
 * A new key without room shares a counter with others of its limit: see
 * shared-counters.ts.
 */
import type { CounterPlace } from '../keys.js'
import type { HashKey } from '../../addresses/keyed-hash.js'
import { ruleOf } from '../../rules/algorithms.js'
import { usedPart } from '../../rules/rate-limit.js'
import type { LimitState } from '../../rules/rule.js'
import {
  type CounterUpdate, type Entry, EntryList, type Holder, type NamedLimit, newEntry, type OwnEntry, type SharedEntry,
  write
} from './counter-entry.js'
import { Levels } from './levels.js'
import { SharedCounters } from './shared-counters.js'

export class CounterTable {
  readonly #capacity: number
  readonly #entries = new Map<string, OwnEntry>()
  /** keys that were used once */
  readonly #fresh = new EntryList()
  /** keys that were used again, by the used part of their quota */
  readonly #known = new Levels(leastUsed, () => new EntryList())
  /** limited keys within the part of their limit; they are never evicted */
  readonly #held = new EntryList()
  /** by limit: number of its keys in `#held` */
  readonly #heldBy = new Map<string, number>()
  /** limited keys beyond the part of their limit */
  readonly #beyondPart = new EntryList()
  /** keys beyond the part of their address, in borrowed room */
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
   * The entry that counts for a key, its own or a shared one. Makes room for a new key.
   *
   * @param place  of the counter; the table leaves the entry there, and finds it again at the next hit
   * @param fromAddress  the address that sent the request; undefined: the client's key is that address
   * @returns undefined: the key is new, and has room for its own entry
   */
  find (place: CounterPlace, named: NamedLimit, fromAddress: string | undefined, nowMs: number): Entry | undefined {
    const { key } = place
    const entry = this.#entryAt(place)
    if (entry !== undefined) {
      if (nowMs < entry.expiresAtMs) return entry
      this.#remove(entry)
    }
    // Used even if there is room again: otherwise the key would get a second quota in its own counter.
    const shared = fromAddress === undefined ? undefined : this.#shared.find(fromAddress, key, named, nowMs)
    if (shared !== undefined) return shared
    return this.#makeRoom(named.name, fromAddress, nowMs) ? undefined : this.#sharedFor(key, named, fromAddress, nowMs)
  }

  #entryAt (place: CounterPlace): OwnEntry | undefined {
    const left = place.entry as OwnEntry | undefined
    // An entry that was evicted is in no list.
    if (left?.list !== undefined) return left
    const entry = this.#entries.get(place.key)
    place.entry = entry
    return entry
  }

  /** The counters of a key, unless they are shared. Makes no room. */
  peek (key: string, nowMs: number): LimitState | undefined {
    const entry = this.#entries.get(key)
    return entry !== undefined && nowMs < entry.expiresAtMs ? entry.state : undefined
  }

  /** @returns whether the key was in the table and had not expired */
  delete (key: string, nowMs: number): boolean {
    const entry = this.#entries.get(key)
    if (entry === undefined) return false
    this.#remove(entry)
    return nowMs < entry.expiresAtMs
  }

  /** All entries but the shared ones. Some may have expired. */
  entries (): Iterable<Readonly<OwnEntry>> {
    return this.#entries.values()
  }

  /** Writes counters into the entry that `find` returned, or into a new one. */
  keep (entry: Entry | undefined, key: string, update: CounterUpdate, nowMs: number): void {
    if (entry?.isShared === true) return write(entry, update)
    // The entry may have been evicted since `find`, to make room for another limit of the same hit.
    if (entry?.list !== undefined) {
      write(entry, update)
      return this.#file(entry, this.#listFor(entry, update, false, nowMs))
    }
    const { name, fromAddress } = update
    if (this.#makeRoom(name, fromAddress, nowMs)) return this.#add(key, update, entry === undefined, nowMs)
    const shared = this.#sharedFor(key, update, fromAddress, nowMs)
    // A shared counter that others have counted in stays: their hits are worth more than this one.
    if (shared.state === undefined) write(shared, update)
  }

  /**
   * Like `keep`, for counters that another store has reported. A counter that the
   * new keys of a limit share stays: no single key may set it. A counter that keys
   * of one address share may only become tighter, so that no key has one quota
   * in memory and another in the other store.
   */
  adopt (entry: Entry | undefined, key: string, update: CounterUpdate, nowMs: number): void {
    if (entry?.isShared !== true) this.keep(entry, key, update, nowMs)
    else if (entry.isOfAddress && isTighter(update, entry, nowMs)) write(entry, update)
  }

  /** Removes expired counters. */
  sweep (nowMs: number): void {
    for (const entry of this.#entries.values()) {
      if (nowMs >= entry.expiresAtMs) this.#remove(entry)
    }
    this.#shared.sweep(nowMs)
  }

  #add (key: string, update: CounterUpdate, isNew: boolean, nowMs: number): void {
    const { fromAddress } = update
    const holder = fromAddress === undefined ? undefined : this.#holderOf(fromAddress)
    const entry = newEntry(key, update, holder)
    this.#entries.set(key, entry)
    if (this.#isFull(holder)) return this.#file(entry, this.#borrowed)
    if (holder !== undefined) holder.size++
    this.#file(entry, this.#listFor(entry, update, isNew, nowMs))
  }

  #listFor (
    entry: OwnEntry, { name, limitedUntilMs, quotaUsed }: CounterUpdate, isNew: boolean, nowMs: number
  ): EntryList {
    if (entry.list === this.#borrowed) return this.#borrowed
    if (limitedUntilMs > nowMs) {
      return entry.list !== this.#held && this.#hasItsPart(name) ? this.#beyondPart : this.#held
    }
    if (isNew && quotaUsed < muchAtOnce) return this.#fresh
    return this.#known.of(quotaUsed)
  }

  /** Makes room for a new key. @returns whether the key gets its own entry */
  #makeRoom (limitName: string, fromAddress: string | undefined, nowMs: number): boolean {
    if (fromAddress !== undefined && this.#isFull(this.#holders.get(fromAddress))) return this.#canLend(nowMs)
    while (this.#entries.size >= this.#capacity) {
      if (this.#hasItsPart(limitName)) this.#loosen(nowMs)
      const victim = this.#hasItsPart(limitName) ? undefined : this.#victim(limitName)
      if (victim === undefined) return false
      this.#evict(victim, nowMs)
    }
    return true
  }

  /** Whether an address has used its part of the table, the only room for which others may be evicted. */
  #isFull (holder: Holder | undefined): boolean {
    return holder !== undefined && holder.size >= Math.max(1, Math.floor(this.#capacity / 16))
  }

  /** Whether an address beyond its part may borrow room. */
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

  /** Whether the held keys of a limit use their whole part. */
  #hasItsPart (limitName: string): boolean {
    const held = this.#heldBy.get(limitName) ?? 0
    return held >= partOfLimit * (this.#capacity - this.#borrowed.size - (this.#held.size - held))
  }

  /** The entry to evict for a new key of a limit; undefined: no entry may be evicted. */
  #victim (limitName: string): OwnEntry | undefined {
    const beyond = this.#beyondPart.oldest
    if (beyond !== undefined && beyond.limitName !== limitName) return beyond
    // New keys always keep an eighth; otherwise keys that were used twice would keep all others out.
    if (this.#fresh.size * 8 > this.#capacity) return this.#fresh.oldest
    return this.#known.all.find(({ size }) => size > 0)?.oldest ?? this.#fresh.oldest
  }

  /**
   * Releases held keys that may pass again. It checks only a few of them, so that
   * a new key does not search a full table each time.
   */
  #loosen (nowMs: number): void {
    for (let looked = 0; looked < mostLooks; looked++) {
      const entry = this.#held.oldest
      if (entry === undefined) return
      const { expiresAtMs, limitedUntilMs } = entry
      // Once its time is over, a bucket may pass one hit but is still nearly full; so the key gets the highest level.
      const ordinary = this.#known.of(nowMs < expiresAtMs ? 1 : 0)
      this.#file(entry, nowMs < limitedUntilMs ? this.#held : ordinary)
    }
  }

  /** Evicts an entry. If its key is limited, the counter that the key shares from now on is limited too. */
  #evict (victim: OwnEntry, nowMs: number): void {
    const { key, limitName, limit, limitedUntilMs } = victim
    this.#remove(victim)
    if (nowMs >= limitedUntilMs) return
    const shared = this.#shared.ofLimit(key, { name: limitName, limit }, nowMs)
    if (shared.limitedUntilMs < limitedUntilMs) write(shared, victim)
  }

  /** The shared counter of a new key without room. */
  #sharedFor (key: string, named: NamedLimit, fromAddress: string | undefined, nowMs: number): SharedEntry {
    const isBeyondPart = fromAddress !== undefined && this.#isFull(this.#holders.get(fromAddress))
    if (!isBeyondPart) return this.#shared.ofLimit(key, named, nowMs)
    return this.#shared.ofAddress(fromAddress, key, named, nowMs)
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

/** Held keys of one limit take at most this part of the room that other limits leave. */
const partOfLimit = 3 / 4

/** The most entries that are checked for one new key. */
const mostLooks = 8

/** Whether an update limits a key for longer than a shared counter does, or has used more of the quota. */
function isTighter (update: CounterUpdate, { state, limit, limitedUntilMs }: SharedEntry, nowMs: number): boolean {
  if (state === undefined || update.limitedUntilMs > Math.max(nowMs, limitedUntilMs)) return true
  return limitedUntilMs <= nowMs && update.quotaUsed > usedPart(ruleOf(limit).explain(state, nowMs, limit), limit)
}

/** A key whose first hit uses this part of its quota, or more, does not count as fresh, so it is not evicted first. */
const muchAtOnce = 1 / 16

/** The lower bounds of the levels, as used parts of the quota. */
const leastUsed = [0, 1 / 64, muchAtOnce, 1 / 4, 1 / 2, 3 / 4] as const
