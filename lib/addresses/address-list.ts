/**
 * A set of addresses and CIDR ranges of both families, each with a value.
 * Finding the entry that covers an address costs one lookup for each prefix
 * length in use, however long the list is.
 */
import {
  type Address, type AddressBits, type Family, formatNetwork, lengthOf, maskOf, type Network, parseNetwork
} from './address.js'
import { AddressTable } from './address-table.js'
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
  /** exact addresses first, then ranges in the order in which their lengths came into use */
  readonly #layers: Record<Family, Layer<Kept>[]> = { 4: [], 6: [] }

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
    for (const { table } of this.#allLayers()) size += table.size
    return size
  }

  /** costs less than the size */
  get isEmpty (): boolean {
    return this.#layers[4].length === 0 && this.#layers[6].length === 0
  }

  set (network: Network, value: T): void {
    const { table, values } = this.#layerLike(network) ?? this.#addLayer(network)
    const before = table.size
    const index = table.add(...network.bits)
    values.write(index, value, table.size > before)
  }

  /** @returns the value of exactly this entry; a range that covers it does not count */
  get (network: Network): T | undefined {
    const entry = this.#entryOf(network)
    return entry?.layer.values.read(entry.index, () => network.text)
  }

  /** @returns whether there was exactly this entry */
  delete (network: Network): boolean {
    const entry = this.#entryOf(network)
    if (entry === undefined) return false
    remove(entry.layer, entry.index)
    this.#dropEmpty()
    return true
  }

  /**
   * The value of an entry that covers an address: the exact one first, then
   * the ranges, in the order in which their lengths came into use.
   *
   * @param accepts  asked by where the entry's value is kept; those that it
   *   refuses (such as expired ones) are passed over
   */
  find (address: Address, accepts: (values: Kept, index: number) => boolean = always): T | undefined {
    const [a, b, c, d] = address.bits
    for (const layer of this.#layers[address.family]) {
      const { mask, table, values } = layer
      const index = table.indexOf((a & mask[0]) >>> 0, (b & mask[1]) >>> 0, (c & mask[2]) >>> 0, (d & mask[3]) >>> 0)
      if (index !== -1 && accepts(values, index)) {
        return values.read(index, () => isRange(layer) ? textAt(layer, index) : address.text)
      }
    }
    return undefined
  }

  /** All entries, as canonical text and value. */
  * entries (): Generator<readonly [text: string, value: T]> {
    for (const layer of this.#allLayers()) {
      for (let index = 0; index < layer.table.size; index++) {
        const text = textAt(layer, index)
        yield [text, layer.values.read(index, () => text)]
      }
    }
  }

  /** Takes out all entries of which `isOver` says so. */
  sweep (isOver: (values: Kept, index: number) => boolean): void {
    for (const layer of this.#allLayers()) {
      // From the end: the last one, which gets the number of one that goes, has been looked at.
      for (let index = layer.table.size - 1; index >= 0; index--) {
        if (isOver(layer.values, index)) remove(layer, index)
      }
    }
    this.#dropEmpty()
  }

  #allLayers (): readonly Layer<Kept>[] {
    return [...this.#layers[4], ...this.#layers[6]]
  }

  #entryOf (network: Network): { readonly layer: Layer<Kept>, readonly index: number } | undefined {
    const layer = this.#layerLike(network)
    const index = layer?.table.indexOf(...network.bits) ?? -1
    return layer === undefined || index === -1 ? undefined : { layer, index }
  }

  #layerLike ({ family, prefixLength }: Network): Layer<Kept> | undefined {
    return this.#layers[family].find(layer => layer.prefixLength === prefixLength)
  }

  #addLayer ({ family, prefixLength }: Network): Layer<Kept> {
    const table = new AddressTable(family === 4 ? 1 : 4, this.#hashKey)
    const layer = { family, prefixLength, mask: maskOf(prefixLength), table, values: this.#makeValues() }
    if (isRange(layer)) this.#layers[family].push(layer)
    else this.#layers[family].unshift(layer)
    return layer
  }

  /** Each length in use costs every lookup: those without entries go, and their memory with them. */
  #dropEmpty (): void {
    for (const family of [4, 6] as const) {
      this.#layers[family] = this.#layers[family].filter(({ table }) => table.size > 0)
    }
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

/** The entries of one prefix length. */
interface Layer<Kept> {
  readonly family: Family
  readonly prefixLength: number
  readonly mask: AddressBits
  readonly table: AddressTable
  readonly values: Kept
}

/** Entries that have nothing to keep. */
const alwaysTrue: Values<true> = { read: () => true, write () {}, delete () {} }

function remove<Kept extends Values<unknown>> ({ table, values }: Layer<Kept>, index: number): void {
  table.delete(index)
  values.delete(index, table.size)
}

function isRange ({ family, prefixLength }: Pick<Layer<unknown>, 'family' | 'prefixLength'>): boolean {
  return prefixLength < lengthOf(family)
}

function textAt ({ family, prefixLength, table }: Layer<unknown>, index: number): string {
  return formatNetwork(family, table.bitsAt(index), prefixLength)
}

function always (): boolean {
  return true
}
