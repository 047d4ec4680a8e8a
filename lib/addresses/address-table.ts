/**
 * Gives each address of one family an index, from 0 on without gaps. Callers
 * store what belongs to an address in arrays, by its index. The hash table lies
 * in typed arrays: a million objects would take a hundred megabytes and load
 * the garbage collector.
 *
 * It uses open addressing with linear probing. A deletion leaves no mark, but
 * moves up the entries behind it (Knuth, The Art of Computer Programming 3,
 * 6.4, algorithm R).
 *
 * An attacker may choose addresses that are slow to find, so a keyed hash
 * places them. MurmurHash3 is cheaper, but there are sets of eight IPv6
 * addresses that collide under every seed.
 */
import type { AddressBits } from './address.js'
import { type HashKey, keyedHash } from './keyed-hash.js'

export class AddressTable {
  readonly #width: 1 | 4
  readonly #hashKey: HashKey
  /** input of the hash function, reused for each lookup */
  readonly #hashed: number[]
  /** the words of all addresses, by index */
  #addresses: Uint32Array
  /** index of the entry plus 1; 0: free */
  #cells: Int32Array
  #size = 0

  /**
   * @param width    words of 32 bits in an address: 1 for IPv4, 4 for IPv6
   * @param hashKey  secret and random, so that nobody can choose addresses that are slow to find
   */
  constructor (width: 1 | 4, hashKey: HashKey) {
    this.#width = width
    this.#hashKey = hashKey
    this.#hashed = width === 1 ? [0] : [0, 0, 0, 0]
    this.#addresses = new Uint32Array(leastCapacity * width)
    this.#cells = new Int32Array(leastCapacity * 2)
  }

  get size (): number {
    return this.#size
  }

  /** @returns the index of an address; -1: it is not in the table */
  indexOf (a: number, b: number, c: number, d: number): number {
    return at(this.#cells, this.#cellOf(a, b, c, d)) - 1
  }

  /** @returns the index of the address; for a new one, the size before the call */
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
    const { length } = this.#addresses
    if (index * this.#width === length) this.#addresses = grown(this.#addresses, length * 2)
    this.#write(index, [a, b, c, d])
    this.#cells[cell] = index + 1
    return index
  }

  /**
   * Removes an address. The last address gets its index, so that there is no gap.
   *
   * @param index  below `size`
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
    const words = this.#addresses
    if (this.#width === 1) return [at(words, index), 0, 0, 0]
    const first = index * 4
    return [at(words, first), at(words, first + 1), at(words, first + 2), at(words, first + 3)]
  }

  #write (index: number, bits: AddressBits): void {
    const first = index * this.#width
    for (let word = 0; word < this.#width; word++) this.#addresses[first + word] = at(bits, word)
  }

  /** The cell of an address, or the free cell that it would be put into. */
  #cellOf (a: number, b: number, c: number, d: number): number {
    const words = this.#addresses
    const mask = this.#cells.length - 1
    let cell = this.#hash(a, b, c, d) & mask
    for (let entry = at(this.#cells, cell); entry !== 0; entry = at(this.#cells, cell)) {
      const first = (entry - 1) * this.#width
      const isFirst = words[first] === a
      if (isFirst && this.#width === 1) break
      if (isFirst && words[first + 1] === b && words[first + 2] === c && words[first + 3] === d) break
      cell = (cell + 1) & mask
    }
    return cell
  }

  #hash (a: number, b: number, c: number, d: number): number {
    const words = this.#hashed
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
      // An entry must not move before its home cell, where a lookup begins.
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

/** The element at an index that is within the array, which TypeScript cannot know. */
export function at (array: Numbers, index: number): number {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- see above; a fallback would be dead code
  return array[index]!
}

type Numbers = Uint32Array | Int32Array | Float64Array | AddressBits

/** A copy of an array that has room for `length` elements. */
export function grown<T extends Uint32Array | Float64Array> (array: T, length: number): T {
  const copy = new (array.constructor as new (length: number) => T)(length)
  copy.set(array)
  return copy
}

const leastCapacity = 8
