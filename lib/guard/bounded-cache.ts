/**
 * A cache with bounded room, in two generations. When the young generation holds half of the capacity, it becomes the
 * old one, and the entries of the old one are dropped. An entry that is found in the old generation moves to the young
 * one, so entries in use stay, however many others come and go.
 *
 * A key is cached when it comes for the second time. The keys of a flood come once. If they were cached, each would
 * outlive several garbage collections, which made a new client cost half as much again.
 *
 * Source: the doorkeeper in Einziger, Friedman and Manes, "TinyLFU" (2017)
 */
export class BoundedCache<V> {
  readonly #most: number
  #young: Generation<V> = new Map()
  #old: Generation<V> = new Map()
  #size = 0
  /** hashes of keys that came lately; a wrong one makes an entry come sooner or later, and changes no answer */
  readonly #doorkeeper = new Int32Array(doorkeeperSize)
  #lastOuter: string | undefined
  /** those of `#lastOuter` in the young generation */
  #lastInners: Map<string, V> | undefined

  /** @param capacity  the most entries that are kept */
  constructor (capacity: number) {
    this.#most = Math.ceil(capacity / 2)
  }

  /** `outer` and `inner` together are the key. Two maps are faster than joining both strings for each look-up. */
  get (outer: string | undefined, inner: string): V | undefined {
    // Almost all requests come through a few proxies, so the last `outer` is often the next one.
    if (outer !== this.#lastOuter) {
      this.#lastOuter = outer
      this.#lastInners = this.#young.get(outer)
    }
    const young = this.#lastInners?.get(inner)
    if (young !== undefined) return young
    const old = this.#old.get(outer)?.get(inner)
    if (old !== undefined) this.#add(outer, inner, old)
    return old
  }

  /** Caches a value that `get` has not found, if its key came before. */
  offer (outer: string | undefined, inner: string, value: V): void {
    const hash = hashOf(inner)
    const place = hash & (doorkeeperSize - 1)
    if (this.#doorkeeper[place] === hash) this.#add(outer, inner, value)
    else this.#doorkeeper[place] = hash
  }

  #add (outer: string | undefined, inner: string, value: V): void {
    if (this.#size >= this.#most) {
      this.#old = this.#young
      this.#young = new Map()
      this.#size = 0
    }
    let inners = this.#young.get(outer)
    if (inners === undefined) this.#young.set(outer, inners = new Map())
    this.#lastOuter = outer
    this.#lastInners = inners
    const before = inners.size
    inners.set(inner, value)
    this.#size += inners.size - before
  }
}

type Generation<V> = Map<string | undefined, Map<string, V>>

/** a power of two, larger than the cache */
const doorkeeperSize = 1 << 14

function hashOf (text: string): number {
  let hash = 1
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash, 31) + text.charCodeAt(i) | 0
  return hash
}
