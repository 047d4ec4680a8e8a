/**
 * The counters that keys without their own entry share. Such keys may limit each
 * other, but every hit is counted. Each limit has `overflowBuckets` counters for
 * all new keys. An address beyond its part of the table has `bucketsOfAddress`
 * counters for each limit, which no other address shares.
 *
 * Memory stays bounded: all addresses together have at most
 * `mostSharedByAddresses` counters. After that, their keys use the counters of
 * the limit.
 */
import { type HashKey, keyedHashOf } from '../../addresses/keyed-hash.js'
import type { NamedLimit, SharedEntry } from './counter-entry.js'

export class SharedCounters {
  readonly #hashKey: HashKey
  readonly #ofLimits = new Map<string, SharedEntry>()
  readonly #ofAddresses = new Map<string, Map<string, SharedEntry>>()
  /** number of counters of all addresses */
  #count = 0

  /** @param hashKey  secret and random, so that no client can choose with which others it shares a counter */
  constructor (hashKey: HashKey) {
    this.#hashKey = hashKey
  }

  /** The counter that this key shares with other keys of its address; undefined: there is none, or it has expired. */
  find (address: string, key: string, named: NamedLimit, nowMs: number): SharedEntry | undefined {
    const counters = this.#ofAddresses.get(address)
    if (counters === undefined) return undefined
    const entry = counters.get(this.#bucketOf(key, named, bucketsOfAddress))
    return entry !== undefined && nowMs < entry.expiresAtMs ? entry : undefined
  }

  /** The counter that this key shares with other new keys of the limit. */
  ofLimit (key: string, named: NamedLimit, nowMs: number): SharedEntry {
    const bucket = this.#bucketOf(key, named, overflowBuckets)
    const known = this.#ofLimits.get(bucket)
    if (known !== undefined && nowMs < known.expiresAtMs) return known
    const entry = newShared(named, false)
    this.#ofLimits.set(bucket, entry)
    return entry
  }

  /**
   * The counter that this key shares with other keys of its address. If addresses have too many counters, it is the one
   * of `ofLimit`.
   */
  ofAddress (address: string, key: string, named: NamedLimit, nowMs: number): SharedEntry {
    if (this.#count >= mostSharedByAddresses) return this.ofLimit(key, named, nowMs)
    let counters = this.#ofAddresses.get(address)
    if (counters === undefined) this.#ofAddresses.set(address, counters = new Map())
    const bucket = this.#bucketOf(key, named, bucketsOfAddress)
    const known = counters.get(bucket)
    if (known !== undefined && nowMs < known.expiresAtMs) return known
    if (known === undefined) this.#count++
    const entry = newShared(named, true)
    counters.set(bucket, entry)
    return entry
  }

  /** Removes expired counters. */
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

  /** The algorithm is in the name: limits of one name may have several algorithms, which cannot share a counter. */
  #bucketOf (key: string, { name, limit }: NamedLimit, buckets: number): string {
    return `${limit.algorithm}:${name}:${keyedHashOf(key, this.#hashKey) % buckets}`
  }
}

function newShared ({ limit }: NamedLimit, isOfAddress: boolean): SharedEntry {
  return { isShared: true, isOfAddress, limit, state: undefined, expiresAtMs: 0, limitedUntilMs: 0 }
}

/** Shared counters of each limit, for new keys without room. */
export const overflowBuckets = 256

/** Shared counters of one address for each limit. */
export const bucketsOfAddress = 1024

/** The most shared counters of all addresses together. */
export const mostSharedByAddresses = 16 * bucketsOfAddress
