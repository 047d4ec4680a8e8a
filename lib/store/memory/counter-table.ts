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
 * A newcomer without room shares a counter with others of its limit. They may
 * limit each other, but every hit is counted. Memory stays bounded:
 * `overflowBuckets` shared counters for each limit, and `mostSharedByAddresses`
 * in all.
 */
import { type HashKey, keyedHashOf } from '../../addresses/keyed-hash.js'
import { type Limit, ruleOf, usedPart } from '../../rules/rate-limit.js'
import type { LimitState } from '../../rules/rule.js'

export interface Entry {
  readonly key: string
  readonly limitName: string
  /** the address that first asked for it; undefined: that is the key itself */
  readonly holder: Holder | undefined
  /** one of the counters that newcomers share, outside the lists */
  readonly shared: boolean
  limit: Limit | undefined
  /** undefined: shared, and nothing is counted yet */
  state: LimitState | undefined
  expiresAtMs: number
  heldUntilMs: number
  list: List | undefined
  newer: Entry | undefined
  older: Entry | undefined
}

/** An entry with counters of a key of its own. */
type OwnEntry = Entry & { limit: Limit, state: LimitState }

/** An address that counts by keys other than itself. */
interface Holder {
  readonly address: string
  /** entries in its part of the table */
  size: number
  /** counters that its own keys share, by limit and bucket; undefined: none, as for almost all addresses */
  shared: Map<string, Entry> | undefined
}

/** What is to be kept of a key. */
export interface Kept {
  readonly limitName: string
  /** the address that asks; undefined: that is the key itself */
  readonly from: string | undefined
  readonly limit: Limit
  readonly state: LimitState
  /** on the same clock as `nowMs` */
  readonly expiresAtMs: number
  /** until when it is limited; not later than now: it is not */
  readonly heldUntilMs: number
  /** part of the quota that is used, 0 to 1 */
  readonly share: number
}

export class LimitTable {
  readonly #capacity: number
  readonly #hashKey: HashKey
  readonly #entries = new Map<string, OwnEntry>()
  /** keys that have come once */
  readonly #fresh = new List()
  /** keys that have come again, by the part of their quota that is used, least first */
  readonly #known = levels.map(() => new List())
  /** keys that are limited, within the part of their limit */
  readonly #held = new List()
  /** how many of them each limit has */
  readonly #heldBy = new Map<string, number>()
  /** keys that are limited, beyond the part of their limit */
  readonly #beyond = new List()
  /** keys beyond the part of their address */
  readonly #borrowed = new List()
  readonly #holders = new Map<string, Holder>()
  readonly #overflow = new Map<string, Entry>()
  #sharedByAddresses = 0

  /** @param hashKey  secret and random, so that no client can choose with whom it shares counters */
  constructor (capacity: number, hashKey: HashKey) {
    this.#capacity = capacity
    this.#hashKey = hashKey
  }

  get size (): number {
    return this.#entries.size
  }

  /** Counters that newcomers share. */
  get sharedSize (): number {
    return this.#overflow.size + this.#sharedByAddresses
  }

  /**
   * The counters of a key, and where to keep them.
   *
   * @param from  the address that asks; undefined where that is the key itself
   * @returns undefined: the key has none, and there is room for it
   */
  find (key: string, limitName: string, from: string | undefined, nowMs: number): Entry | undefined {
    const entry = this.#entries.get(key)
    if (entry !== undefined) {
      if (nowMs < entry.expiresAtMs) return entry
      this.#remove(entry)
    }
    // Otherwise a name would have a second quota in its own counter when there is room again.
    const shared = from === undefined ? undefined : this.#sharedOf(this.#holders.get(from), key, limitName, nowMs)
    if (shared !== undefined) return shared
    return this.#makeRoom(limitName, from, nowMs) ? undefined : this.#share(key, limitName, from, nowMs)
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
    // It may have been evicted since `find`, to make room for another limit of the same hit.
    if (entry !== undefined && (entry.shared || entry.list !== undefined)) {
      write(entry, kept)
      if (!entry.shared) this.#file(entry, this.#listFor(entry, kept, false, nowMs))
      return
    }
    const { limitName, from } = kept
    if (this.#makeRoom(limitName, from, nowMs)) return this.#add(key, kept, entry === undefined, nowMs)
    const shared = this.#share(key, limitName, from, nowMs)
    // The hits of others there are worth more than this one.
    if (shared.state === undefined) write(shared, kept)
  }

  /**
   * Like `keep`, for counters that another store has reported. What newcomers share
   * is not for one of them to set; what an address shares with itself becomes
   * tighter only, so that none of its names has a quota here and one there.
   */
  adopt (entry: Entry | undefined, key: string, kept: Kept, nowMs: number): void {
    if (entry?.shared !== true) this.keep(entry, key, kept, nowMs)
    else if (entry.holder !== undefined && isTighter(kept, entry, nowMs)) write(entry, kept)
  }

  /** Forgets what has expired. */
  sweep (nowMs: number): void {
    for (const entry of this.#entries.values()) {
      if (nowMs >= entry.expiresAtMs) this.#remove(entry)
    }
    for (const [bucket, entry] of this.#overflow) {
      if (nowMs >= entry.expiresAtMs) this.#overflow.delete(bucket)
    }
    for (const holder of this.#holders.values()) this.#sweepShared(holder, nowMs)
  }

  #sweepShared (holder: Holder, nowMs: number): void {
    if (holder.shared === undefined) return
    for (const [bucket, entry] of holder.shared) {
      if (nowMs < entry.expiresAtMs) continue
      holder.shared.delete(bucket)
      this.#sharedByAddresses--
    }
    if (holder.shared.size === 0) holder.shared = undefined
    this.#dropIfEmpty(holder)
  }

  #add (key: string, kept: Kept, isNew: boolean, nowMs: number): void {
    const { from, limitName } = kept
    const holder = from === undefined ? undefined : this.#holderOf(from)
    const entry = newEntry(key, limitName, holder, false)
    write(entry, kept)
    this.#entries.set(key, entry as OwnEntry)
    if (this.#isFull(holder)) return this.#file(entry, this.#borrowed)
    if (holder !== undefined) holder.size++
    this.#file(entry, this.#listFor(entry, kept, isNew, nowMs))
  }

  #listFor (entry: Entry, { limitName, heldUntilMs, share }: Kept, isNew: boolean, nowMs: number): List {
    if (entry.list === this.#borrowed) return this.#borrowed
    if (heldUntilMs > nowMs) {
      return entry.list !== this.#held && this.#hasItsPart(limitName) ? this.#beyond : this.#held
    }
    return isNew && share < muchAtOnce ? this.#fresh : this.#known[levels.findLastIndex(least => share >= least)]!
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
    for (let looked = 0; looked < mostLooks && isLent(); looked++) {
      const entry = this.#borrowed.oldest!
      if (nowMs >= entry.expiresAtMs) this.#remove(entry)
      else this.#file(entry, this.#borrowed)
    }
    return !isLent() && this.#entries.size < this.#capacity
  }

  /** Whether held keys of a limit take all the room that they may. */
  #hasItsPart (limitName: string): boolean {
    const held = this.#heldBy.get(limitName) ?? 0
    return held >= partOfLimit * (this.#capacity - this.#borrowed.size - (this.#held.size - held))
  }

  /** The entry to evict for a newcomer of a limit; undefined: none may be evicted. */
  #victim (limitName: string): Entry | undefined {
    const beyond = this.#beyond.oldest
    if (beyond !== undefined && beyond.limitName !== limitName) return beyond
    // Newcomers always have some room; otherwise keys that came twice would keep all others out.
    if (this.#fresh.size * 8 > this.#capacity) return this.#fresh.oldest
    return this.#known.find(({ size }) => size > 0)?.oldest ?? this.#fresh.oldest
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
      // A bucket that lets one hit pass again is still nearly full.
      const ordinary = this.#known[nowMs < expiresAtMs ? levels.length - 1 : 0]!
      this.#file(entry, nowMs < heldUntilMs ? this.#held : ordinary)
    }
  }

  /** Evicts an entry. If its key is limited, the counter that the key shares from now on is limited, too. */
  #evict (victim: Entry, nowMs: number): void {
    const { key, limitName, limit, state, expiresAtMs, heldUntilMs } = victim
    this.#remove(victim)
    if (nowMs >= heldUntilMs) return
    const shared = this.#share(key, limitName, undefined, nowMs)
    if (shared.heldUntilMs < heldUntilMs) Object.assign(shared, { limit, state, expiresAtMs, heldUntilMs })
  }

  /** The shared counter of a newcomer without room. */
  #share (key: string, limitName: string, from: string | undefined, nowMs: number): Entry {
    const holder = from === undefined ? undefined : this.#holders.get(from)
    const isOwn = holder !== undefined && this.#isFull(holder) && this.#sharedByAddresses < mostSharedByAddresses
    const shared = isOwn ? holder.shared ??= new Map<string, Entry>() : this.#overflow
    const bucket = this.#bucketOf(key, limitName, isOwn ? bucketsOfAddress : overflowBuckets)
    const known = shared.get(bucket)
    if (known !== undefined && nowMs < known.expiresAtMs) return known
    const entry = newEntry(bucket, limitName, isOwn ? holder : undefined, true)
    if (isOwn && known === undefined) this.#sharedByAddresses++
    shared.set(bucket, entry)
    return entry
  }

  /** The counter that an address has for this key and others of its keys; undefined: none, or it has expired. */
  #sharedOf (holder: Holder | undefined, key: string, limitName: string, nowMs: number): Entry | undefined {
    if (holder?.shared === undefined) return undefined
    const shared = holder.shared.get(this.#bucketOf(key, limitName, bucketsOfAddress))
    return shared !== undefined && nowMs < shared.expiresAtMs ? shared : undefined
  }

  #bucketOf (key: string, limitName: string, buckets: number): string {
    return `${limitName}:${keyedHashOf(key, this.#hashKey) % buckets}`
  }

  #holderOf (address: string): Holder {
    let holder = this.#holders.get(address)
    if (holder === undefined) this.#holders.set(address, holder = { address, size: 0, shared: undefined })
    return holder
  }

  #dropIfEmpty ({ address, size, shared }: Holder): void {
    if (size === 0 && shared === undefined) this.#holders.delete(address)
  }

  #file (entry: Entry, list: List): void {
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

  #remove (entry: Entry): void {
    const { key, limitName, list, holder } = entry
    if (list === this.#held) this.#countHeld(limitName, -1)
    list?.remove(entry)
    this.#entries.delete(key)
    if (holder === undefined || list === this.#borrowed) return
    holder.size--
    this.#dropIfEmpty(holder)
  }
}

/** Shared counters for each limit, for newcomers that get no room. */
export const overflowBuckets = 256

/** Shared counters for each limit, for the keys of one address. */
export const bucketsOfAddress = 1024

/** The most such counters of all addresses and limits. Beyond that, an address uses the counters of the limit. */
export const mostSharedByAddresses = 16 * bucketsOfAddress

/** The part of the room left by others that held keys of one limit may take. */
const partOfLimit = 3 / 4

/** The most entries that are looked at for one newcomer. */
const mostLooks = 8

/** Field by field: with spreads a fresh key costs 10 us instead of 0.4, and a flood is made of fresh keys. */
function newEntry (key: string, limitName: string, holder: Holder | undefined, shared: boolean): Entry {
  return {
    key,
    limitName,
    holder,
    shared,
    limit: undefined,
    state: undefined,
    expiresAtMs: 0,
    heldUntilMs: 0,
    list: undefined,
    newer: undefined,
    older: undefined
  }
}

function write (entry: Entry, { limit, state, expiresAtMs, heldUntilMs }: Kept): void {
  entry.limit = limit
  entry.state = state
  entry.expiresAtMs = expiresAtMs
  entry.heldUntilMs = heldUntilMs
}

/** Whether a key is limited for longer, or has used more, than a shared counter says. */
function isTighter (kept: Kept, { state, limit, heldUntilMs }: Entry, nowMs: number): boolean {
  if (state === undefined || limit === undefined || kept.heldUntilMs > Math.max(nowMs, heldUntilMs)) return true
  return heldUntilMs <= nowMs && kept.share > usedPart(ruleOf(limit).explain(state, nowMs, limit), limit)
}

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
