/**
 * A list of addresses and CIDR ranges, IPv4 and IPv6, each with a value.
 * Finding the entry that covers an address costs one lookup for each prefix
 * length in use, however long the list is.
 */
import {
  type Address, type AddressBits, type Family, formatNetwork, lengthOf, maskOf, type Network, parseNetwork
} from './address.js'
import { AddressTable } from './address-table.js'
import type { HashKey } from './keyed-hash.js'

/** Stores the values of entries by index. Indexes have no gaps. */
export interface EntryValues<T> {
  /** @param ip  returns the entry's address or range as text; making the text costs more than finding the entry */
  read (index: number, ip: () => string): T
  /** @param index  one in use, whose value is replaced, or the next free one (`isNew`) */
  write (index: number, value: T, isNew: boolean): void
  /** Deletes a value, and moves the value at `last` to its index. */
  delete (index: number, last: number): void
}

export class AddressList<T, Kept extends EntryValues<T> = EntryValues<T>> {
  readonly #makeValues: () => Kept
  readonly #hashKey: HashKey
  /** exact addresses first, then ranges in the order in which their lengths came into use */
  readonly #layers: Record<Family, Layer<Kept>[]> = { 4: [], 6: [] }

  /**
   * @param makeValues  called for each new prefix length; returns the storage of its values
   * @param hashKey     see AddressTable; a list that only the application writes needs no secret
   */
  constructor (makeValues: () => Kept, hashKey: HashKey = [0, 0]) {
    this.#makeValues = makeValues
    this.#hashKey = hashKey
  }

  get size (): number {
    let size = 0
    for (const { table } of this.#allLayers()) size += table.size
    return size
  }

  /** cheaper than `size` */
  get isEmpty (): boolean {
    return this.#layers[4].length === 0 && this.#layers[6].length === 0
  }

  set (network: Network, value: T): void {
    const { table, values } = this.#layerLike(network) ?? this.#addLayer(network)
    const before = table.size
    const index = table.add(...network.bits)
    values.write(index, value, table.size > before)
  }

  /** @returns the value of exactly this address or range; ranges around it do not count */
  get (network: Network): T | undefined {
    const entry = this.#entryOf(network)
    return entry?.layer.values.read(entry.index, () => network.text)
  }

  /** @returns whether exactly this address or range was in the list */
  delete (network: Network): boolean {
    const entry = this.#entryOf(network)
    if (entry === undefined) return false
    remove(entry.layer, entry.index)
    this.#dropEmpty()
    return true
  }

  /**
   * The value of the first entry that covers an address: the exact address
   * first, then ranges, in the order in which their lengths came into use.
   *
   * @param accepts  gets the storage and index of an entry's value; an entry
   *   that it refuses, such as an expired one, is skipped
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

  /** All entries: canonical text and value. */
  * entries (): Generator<readonly [text: string, value: T]> {
    for (const layer of this.#allLayers()) {
      for (let index = 0; index < layer.table.size; index++) {
        const text = textAt(layer, index)
        yield [text, layer.values.read(index, () => text)]
      }
    }
  }

  /** Deletes all entries for which `isOver` returns true. */
  sweep (isOver: (values: Kept, index: number) => boolean): void {
    for (const layer of this.#allLayers()) {
      // From the end: a deletion moves the last entry to the free index, and that entry has been checked.
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

  /** Drops prefix lengths without entries: each length slows down every lookup and holds memory. */
  #dropEmpty (): void {
    for (const family of [4, 6] as const) {
      this.#layers[family] = this.#layers[family].filter(({ table }) => table.size > 0)
    }
  }
}

/** @returns the list of addresses and ranges, and `rest`, the texts that are neither */
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

/** The values of a list that only says whether an address is in it. */
const alwaysTrue: EntryValues<true> = { read: () => true, write () {}, delete () {} }

function remove<Kept extends EntryValues<unknown>> ({ table, values }: Layer<Kept>, index: number): void {
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
