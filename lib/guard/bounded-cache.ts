/**
 * A cache with bounded room, in two generations. When the young generation holds half of the capacity, it becomes the
 * old one, and the entries of the old one are dropped. An entry that is found in the old generation moves to the young
 * one, so entries in use stay, however many others come and go.
 */
export class BoundedCache<V> {
  readonly #most: number
  #young: Generation<V> = new Map()
  #old: Generation<V> = new Map()
  #size = 0
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
    if (old !== undefined) this.set(outer, inner, old)
    return old
  }

  set (outer: string | undefined, inner: string, value: V): void {
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
