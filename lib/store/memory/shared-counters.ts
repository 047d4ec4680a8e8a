/**
 * The counters that keys without room of their own share. They may limit each
 * other, but every hit is counted. A limit has `overflowBuckets` of them for
 * all newcomers; an address beyond its part of the table has
 * `bucketsOfAddress` for each limit, which no other address shares.
 *
 * Memory stays bounded: all addresses together have `mostSharedByAddresses`.
 * Beyond that, an address uses the counters of the limit.
 */
import { type HashKey, keyedHashOf } from '../../addresses/keyed-hash.js'
import type { OfLimit, SharedEntry } from './counter-entry.js'

export class SharedCounters {
  readonly #hashKey: HashKey
  readonly #ofLimits = new Map<string, SharedEntry>()
  readonly #ofAddresses = new Map<string, Map<string, SharedEntry>>()
  /** how many counters all addresses have */
  #count = 0

  /** @param hashKey  secret and random, so that no client can choose with whom it shares counters */
  constructor (hashKey: HashKey) {
    this.#hashKey = hashKey
  }

  /** The counter that an address has for this key and others of its keys; undefined: none, or it has expired. */
  find (address: string, key: string, of: OfLimit, nowMs: number): SharedEntry | undefined {
    const counters = this.#ofAddresses.get(address)
    if (counters === undefined) return undefined
    const entry = counters.get(this.#bucketOf(key, of, bucketsOfAddress))
    return entry !== undefined && nowMs < entry.expiresAtMs ? entry : undefined
  }

  /** The counter of a limit that this key shares with other newcomers. */
  ofLimit (key: string, of: OfLimit, nowMs: number): SharedEntry {
    const bucket = this.#bucketOf(key, of, overflowBuckets)
    const known = this.#ofLimits.get(bucket)
    if (known !== undefined && nowMs < known.expiresAtMs) return known
    const entry = newShared(of, false)
    this.#ofLimits.set(bucket, entry)
    return entry
  }

  /** The counter that this key shares with others of its address; with other newcomers, where there are too many. */
  ofAddress (address: string, key: string, of: OfLimit, nowMs: number): SharedEntry {
    if (this.#count >= mostSharedByAddresses) return this.ofLimit(key, of, nowMs)
    let counters = this.#ofAddresses.get(address)
    if (counters === undefined) this.#ofAddresses.set(address, counters = new Map())
    const bucket = this.#bucketOf(key, of, bucketsOfAddress)
    const known = counters.get(bucket)
    if (known !== undefined && nowMs < known.expiresAtMs) return known
    if (known === undefined) this.#count++
    const entry = newShared(of, true)
    counters.set(bucket, entry)
    return entry
  }

  /** Forgets what has expired. */
  sweep (nowMs: number): void {
    for (const [bucket, entry] of this.#ofLimits) {
      if (nowMs >= entry.expiresAtMs) this.#ofLimits.delete(bucket)
    }
    for (const [address, counters] of this.#ofAddresses) {
      for (const [bucket, entry] of counters) {
        if (nowMs < entry.expiresAtMs) continue
        counters.delete(bucket)
        this.#count--
      }
      if (counters.size === 0) this.#ofAddresses.delete(address)
    }
  }

  /** Limits of one name may count by several algorithms, whose counters cannot be one. */
  #bucketOf (key: string, { name, limit }: OfLimit, buckets: number): string {
    return `${limit.algorithm}:${name}:${keyedHashOf(key, this.#hashKey) % buckets}`
  }
}

function newShared ({ limit }: OfLimit, isOfAddress: boolean): SharedEntry {
  return { isShared: true, isOfAddress, limit, state: undefined, expiresAtMs: 0, heldUntilMs: 0 }
}

/** Shared counters for each limit, for newcomers that get no room. */
export const overflowBuckets = 256

/** Shared counters for each limit, for the keys of one address. */
export const bucketsOfAddress = 1024

/** The most such counters of all addresses and limits. */
export const mostSharedByAddresses = 16 * bucketsOfAddress
