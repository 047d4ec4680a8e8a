/**
 * A set of addresses and CIDR ranges of both families, each with a value.
 * Finding the entry that covers an address costs one lookup for the exact
 * entries and one for each prefix length in use, however long the list is.
 */
import { type AddressParts, bitsOf, mask, type Network, parseAddress, parseNetwork } from './address.js'

export class AddressList<T> {
  /** exact addresses, by canonical text */
  readonly #exact = new Map<string, T>()
  readonly #ranges: Record<Family, Ranges<T>> = { 32: new Map(), 128: new Map() }
  #rangeCount = 0

  /** number of entries */
  get size (): number {
    return this.#exact.size + this.#rangeCount
  }

  set (network: Network, value: T): void {
    if (isExact(network)) {
      this.#exact.set(network.text, value)
      return
    }
    const ranges = this.#rangesLike(network.parts)
    let ofLength = ranges.get(network.prefixLength)
    if (ofLength === undefined) ranges.set(network.prefixLength, ofLength = new Map())
    const key = rangeKey(network.parts)
    if (!ofLength.has(key)) this.#rangeCount++
    ofLength.set(key, { text: network.text, value })
  }

  /** @returns the value of exactly this entry; a range that covers it does not count */
  get (network: Network): T | undefined {
    if (isExact(network)) return this.#exact.get(network.text)
    return this.#rangesLike(network.parts).get(network.prefixLength)?.get(rangeKey(network.parts))?.value
  }

  /** @returns whether there was exactly this entry */
  delete (network: Network): boolean {
    if (isExact(network)) return this.#exact.delete(network.text)
    const ranges = this.#rangesLike(network.parts)
    const ofLength = ranges.get(network.prefixLength)
    if (ofLength === undefined || !ofLength.delete(rangeKey(network.parts))) return false
    this.#rangeCount--
    if (ofLength.size === 0) ranges.delete(network.prefixLength)
    return true
  }

  /**
   * The value of an entry that covers an address: the exact one first, then
   * the ranges, in the order in which their lengths came into use.
   *
   * @param address  canonical
   * @param accepts  entries that it refuses (such as expired ones) are passed over
   */
  find (address: string, accepts: (value: T) => boolean = always): T | undefined {
    const exact = this.#exact.get(address)
    if (exact !== undefined && accepts(exact)) return exact
    if (this.#rangeCount === 0) return undefined
    const parts = parseAddress(address)
    if (parts === undefined) return undefined
    for (const [prefixLength, ofLength] of this.#rangesLike(parts)) {
      const entry = ofLength.get(rangeKey(mask(parts, prefixLength)))
      if (entry !== undefined && accepts(entry.value)) return entry.value
    }
    return undefined
  }

  /** All entries, as canonical text and value. */
  * entries (): Generator<readonly [text: string, value: T]> {
    yield * this.#exact
    for (const ranges of [this.#ranges[32], this.#ranges[128]]) {
      for (const ofLength of ranges.values()) {
        for (const { text, value } of ofLength.values()) yield [text, value]
      }
    }
  }

  #rangesLike (parts: AddressParts): Ranges<T> {
    return this.#ranges[bitsOf(parts) as Family]
  }
}

/** @returns the list, and the texts that are neither address nor range */
export function parseAddressList (texts: readonly string[]): { list: AddressList<true>, rest: readonly string[] } {
  const list = new AddressList<true>()
  const rest: string[] = []
  for (const text of texts) {
    const network = parseNetwork(text)
    if (network === undefined) rest.push(text)
    else list.set(network, true)
  }
  return { list, rest }
}

/** Bits of an address. */
type Family = 32 | 128
/** By prefix length, then by the masked address. */
type Ranges<T> = Map<number, Map<number | string, { readonly text: string, readonly value: T }>>

function isExact (network: Network): boolean {
  return network.prefixLength === bitsOf(network.parts)
}

function rangeKey (masked: AddressParts): number | string {
  return masked.length === 1 ? masked[0]! : String.fromCharCode(...masked)
}

function always (): boolean {
  return true
}
