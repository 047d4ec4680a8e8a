/**
 * A set of addresses and CIDR ranges of both families, each with a value.
 * Finding the entry that covers an address costs one lookup for each prefix
 * length in use, however long the list is.
 */
import { type AddressParts, bitsOf, formatNetwork, ipv4BitsOf, ipv6WordsOf, type Network, parseNetwork } from './address.js'
import { AddressTable, type AddressWords } from './address-table.js'
import type { HashKey } from './keyed-hash.js'

/** Where values are kept, by numbers that have no gap. */
export interface Values<T> {
  /** @param ip  tells the text of the entry's address or range; costs more than finding it */
  read (index: number, ip: () => string): T
  /** @param index  one that is in use, or the next; what was there is over */
  write (index: number, value: T, isNew: boolean): void
  /** Forgets one; the last one gets its number. */
  delete (index: number, last: number): void
}

export class AddressList<T, Kept extends Values<T> = Values<T>> {
  readonly #makeValues: () => Kept
  readonly #hashKey: HashKey
  /** the IPv6 address that is looked for */
  readonly #words = new Uint32Array(4)
  /** exact addresses first, then ranges in the order in which their lengths came into use */
  readonly #layers: Record<Family, Layer<Kept>[]> = { 32: [], 128: [] }

  /**
   * @param makeValues  called for each prefix length that comes into use
   * @param hashKey     see AddressTable; a list that the application writes itself needs none
   */
  constructor (makeValues: () => Kept, hashKey: HashKey = [0, 0]) {
    this.#makeValues = makeValues
    this.#hashKey = hashKey
  }

  /** number of entries */
  get size (): number {
    let size = 0
    for (const { table } of this.#layers[32]) size += table.size
    for (const { table } of this.#layers[128]) size += table.size
    return size
  }

  /** costs less than the size */
  get isEmpty (): boolean {
    return this.#layers[32].length === 0 && this.#layers[128].length === 0
  }

  set (network: Network, value: T): void {
    const { table, values } = this.#layerLike(network) ?? this.#addLayer(network)
    const before = table.size
    const index = table.add(...wordsOf(network.parts))
    values.write(index, value, table.size > before)
  }

  /** @returns the value of exactly this entry; a range that covers it does not count */
  get (network: Network): T | undefined {
    const layer = this.#layerLike(network)
    const index = layer === undefined ? -1 : layer.table.indexOf(...wordsOf(network.parts))
    return index === -1 ? undefined : layer!.values.read(index, () => network.text)
  }

  /** @returns whether there was exactly this entry */
  delete (network: Network): boolean {
    const layer = this.#layerLike(network)
    const index = layer === undefined ? -1 : layer.table.indexOf(...wordsOf(network.parts))
    if (index === -1) return false
    remove(layer!, index)
    this.#dropEmpty()
    return true
  }

  /**
   * The value of an entry that covers an address: the exact one first, then
   * the ranges, in the order in which their lengths came into use.
   *
   * @param address  canonical
   * @param accepts  asked by where the entry's value is kept; those that it
   *   refuses (such as expired ones) are passed over
   */
  find (address: string, accepts: (values: Kept, index: number) => boolean = always): T | undefined {
    const bits = ipv4BitsOf(address)
    if (bits !== -1) return this.#findIn(this.#layers[32], accepts, address, bits, 0, 0, 0)
    const words = this.#words
    if (this.#layers[128].length === 0 || !ipv6WordsOf(address, words)) return undefined
    return this.#findIn(this.#layers[128], accepts, address, words[0]!, words[1]!, words[2]!, words[3]!)
  }

  /** All entries, as canonical text and value. */
  * entries (): Generator<readonly [text: string, value: T]> {
    for (const layer of [...this.#layers[32], ...this.#layers[128]]) {
      for (let index = 0; index < layer.table.size; index++) {
        const text = textAt(layer, index)
        yield [text, layer.values.read(index, () => text)]
      }
    }
  }

  /** Takes out all entries of which `isOver` says so. */
  sweep (isOver: (values: Kept, index: number) => boolean): void {
    for (const layer of [...this.#layers[32], ...this.#layers[128]]) {
      // From the end: the last one, which gets the number of one that goes, has been looked at.
      for (let index = layer.table.size - 1; index >= 0; index--) {
        if (isOver(layer.values, index)) remove(layer, index)
      }
    }
    this.#dropEmpty()
  }

  #findIn (
    layers: readonly Layer<Kept>[], accepts: (values: Kept, index: number) => boolean, address: string,
    a: number, b: number, c: number, d: number
  ): T | undefined {
    for (const layer of layers) {
      const { mask } = layer
      const index = layer.table.indexOf((a & mask[0]) >>> 0, (b & mask[1]) >>> 0, (c & mask[2]) >>> 0, (d & mask[3]) >>> 0)
      if (index !== -1 && accepts(layer.values, index)) return layer.values.read(index, () => layer.prefixLength === layer.family ? address : textAt(layer, index))
    }
    return undefined
  }

  #layerLike ({ parts, prefixLength }: Network): Layer<Kept> | undefined {
    return this.#layers[bitsOf(parts) as Family].find(layer => layer.prefixLength === prefixLength)
  }

  #addLayer ({ parts, prefixLength }: Network): Layer<Kept> {
    const family = bitsOf(parts) as Family
    const table = new AddressTable(family === 32 ? 1 : 4, this.#hashKey)
    const layer = { family, prefixLength, mask: maskOf(prefixLength), table, values: this.#makeValues() }
    if (prefixLength === family) this.#layers[family].unshift(layer)
    else this.#layers[family].push(layer)
    return layer
  }

  /** Each length in use costs every lookup: those without entries go, and their memory with them. */
  #dropEmpty (): void {
    for (const family of [32, 128] as const) this.#layers[family] = this.#layers[family].filter(({ table }) => table.size > 0)
  }
}

/** @returns the list, and the texts that are neither address nor range */
export function parseAddressList (texts: readonly string[]): { list: AddressList<true>, rest: readonly string[] } {
  const list = new AddressList<true>(() => alwaysTrue)
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

/** The entries of one prefix length. */
interface Layer<Kept> {
  readonly family: Family
  readonly prefixLength: number
  readonly mask: AddressWords
  readonly table: AddressTable
  readonly values: Kept
}

/** Entries that have nothing to keep. */
const alwaysTrue: Values<true> = { read: () => true, write () {}, delete () {} }

function remove<Kept extends Values<unknown>> ({ table, values }: Layer<Kept>, index: number): void {
  table.delete(index)
  values.delete(index, table.size)
}

function textAt ({ family, prefixLength, table }: Layer<unknown>, index: number): string {
  const [a, b, c, d] = table.wordsAt(index)
  const parts = family === 32 ? [a] : [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff, c >>> 16, c & 0xffff, d >>> 16, d & 0xffff]
  return formatNetwork(parts, prefixLength)
}

function wordsOf (parts: AddressParts): AddressWords {
  if (parts.length === 1) return [parts[0]!, 0, 0, 0]
  const word = (i: number) => ((parts[2 * i]! << 16) | parts[2 * i + 1]!) >>> 0
  return [word(0), word(1), word(2), word(3)]
}

function maskOf (prefixLength: number): AddressWords {
  const word = (i: number) => {
    const kept = Math.min(32, Math.max(0, prefixLength - 32 * i))
    return kept === 0 ? 0 : -1 << (32 - kept)
  }
  return [word(0), word(1), word(2), word(3)]
}

function always (): boolean {
  return true
}
