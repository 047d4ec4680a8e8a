/**
 * Numbers, from 0 on without a gap, for addresses of one length: a hash table
 * in typed arrays, since a million objects would be a hundred megabytes and
 * work for the garbage collector. Whoever keeps something for each address
 * keeps it in arrays by that number.
 *
 * Open addressing with linear probing; an entry that goes leaves no mark
 * behind, those after it move up (Knuth, The Art of Computer Programming 3,
 * 6.4, algorithm R).
 *
 * An attacker may choose addresses that are slow to find, so a keyed hash
 * places them. MurmurHash3 is cheaper, but has sets of eight IPv6 addresses
 * that collide under every seed.
 */
import type { AddressBits } from './address.js'
import { type HashKey, keyedHash } from './keyed-hash.js'

export class AddressTable {
  readonly #width: 1 | 4
  readonly #hashKey: HashKey
  /** the address whose cell is looked for */
  readonly #words: number[]
  #keys: Uint32Array
  /** number of the entry plus 1; 0: free */
  #cells: Int32Array
  #size = 0

  /**
   * @param width    words of an address: 1 for IPv4, 4 for IPv6
   * @param hashKey  secret and random, so that nobody can choose addresses that are slow to find
   */
  constructor (width: 1 | 4, hashKey: HashKey) {
    this.#width = width
    this.#hashKey = hashKey
    this.#words = width === 1 ? [0] : [0, 0, 0, 0]
    this.#keys = new Uint32Array(leastCapacity * width)
    this.#cells = new Int32Array(leastCapacity * 2)
  }

  get size (): number {
    return this.#size
  }

  /** @returns the number of an address; -1: it has none */
  indexOf (a: number, b: number, c: number, d: number): number {
    return at(this.#cells, this.#cellOf(a, b, c, d)) - 1
  }

  /** @returns its number; that of a new address is the size before */
  add (a: number, b: number, c: number, d: number): number {
    let cell = this.#cellOf(a, b, c, d)
    const known = at(this.#cells, cell) - 1
    if (known !== -1) return known
    // At most two thirds of the cells are taken.
    if ((this.#size + 1) * 3 > this.#cells.length * 2) {
      this.#rehash(this.#cells.length * 2)
      cell = this.#cellOf(a, b, c, d)
    }
    const index = this.#size++
    if (index * this.#width === this.#keys.length) this.#keys = grown(this.#keys, this.#keys.length * 2)
    this.#write(index, [a, b, c, d])
    this.#cells[cell] = index + 1
    return index
  }

  /**
   * Takes an address out; the last one gets its number, so that there is no gap.
   *
   * @param index  of an address that is in
   */
  delete (index: number): void {
    this.#free(this.#cellOf(...this.bitsAt(index)))
    const last = --this.#size
    if (last === index) return
    const words = this.bitsAt(last)
    this.#cells[this.#cellOf(...words)] = index + 1
    this.#write(index, words)
  }

  bitsAt (index: number): AddressBits {
    const keys = this.#keys
    if (this.#width === 1) return [at(keys, index), 0, 0, 0]
    const first = index * 4
    return [at(keys, first), at(keys, first + 1), at(keys, first + 2), at(keys, first + 3)]
  }

  #write (index: number, bits: AddressBits): void {
    const first = index * this.#width
    for (let word = 0; word < this.#width; word++) this.#keys[first + word] = at(bits, word)
  }

  /** The cell that an address is in, or the free one that it would be put into. */
  #cellOf (a: number, b: number, c: number, d: number): number {
    const keys = this.#keys
    const mask = this.#cells.length - 1
    let cell = this.#hash(a, b, c, d) & mask
    for (let entry = at(this.#cells, cell); entry !== 0; entry = at(this.#cells, cell)) {
      const first = (entry - 1) * this.#width
      const isFirst = keys[first] === a
      if (isFirst && this.#width === 1) break
      if (isFirst && keys[first + 1] === b && keys[first + 2] === c && keys[first + 3] === d) break
      cell = (cell + 1) & mask
    }
    return cell
  }

  #hash (a: number, b: number, c: number, d: number): number {
    const words = this.#words
    words[0] = a | 0
    if (this.#width === 4) {
      words[1] = b | 0
      words[2] = c | 0
      words[3] = d | 0
    }
    return keyedHash(words, this.#hashKey)
  }

  #free (cell: number): void {
    const mask = this.#cells.length - 1
    let free = cell
    for (let next = (free + 1) & mask; this.#cells[next] !== 0; next = (next + 1) & mask) {
      const entry = at(this.#cells, next)
      const home = this.#hash(...this.bitsAt(entry - 1)) & mask
      // It may not move before the cell where looking for it begins.
      if (((next - home) & mask) < ((next - free) & mask)) continue
      this.#cells[free] = entry
      free = next
    }
    this.#cells[free] = 0
  }

  #rehash (length: number): void {
    this.#cells = new Int32Array(length)
    for (let index = 0; index < this.#size; index++) this.#cells[this.#cellOf(...this.bitsAt(index))] = index + 1
  }
}

/** An element at an index that is inside: the number of an entry or a cell of the table, of which no type knows. */
export function at (array: Numbers, index: number): number {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- see above; a fallback would be dead code
  return array[index]!
}

type Numbers = Uint32Array | Int32Array | Float64Array | AddressBits

/** A copy of an array with more room. */
export function grown<T extends Uint32Array | Float64Array> (array: T, length: number): T {
  const copy = new (array.constructor as new (length: number) => T)(length)
  copy.set(array)
  return copy
}

const leastCapacity = 8
