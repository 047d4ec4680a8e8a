/**
 * Numbers, from 0 on without a gap, for addresses of one length: a hash table
 * in typed arrays, since a million objects would be a hundred megabytes and
 * work for the garbage collector. Whoever keeps something for each address
 * keeps it in arrays by that number.
 *
 * Open addressing with linear probing; an entry that goes leaves no mark
 * behind, those after it move up (Knuth, The Art of Computer Programming 3,
 * 6.4, algorithm R).
 */

/** 32 bits of an address each, the first ones first; IPv4 has only the first. */
export type AddressWords = readonly [number, number, number, number]

export class AddressTable {
  readonly #width: 1 | 4
  readonly #seed: number
  #keys: Uint32Array
  /** number of the entry plus 1; 0: free */
  #cells: Int32Array
  #size = 0

  /**
   * @param width  words of an address: 1 for IPv4, 4 for IPv6
   * @param seed   whole number that nobody outside knows, so that nobody can choose addresses that are slow to find
   */
  constructor (width: 1 | 4, seed: number) {
    this.#width = width
    this.#seed = seed
    this.#keys = new Uint32Array(leastCapacity * width)
    this.#cells = new Int32Array(leastCapacity * 2)
  }

  get size (): number {
    return this.#size
  }

  /** @returns the number of an address; -1: it has none */
  indexOf (a: number, b: number, c: number, d: number): number {
    return this.#cells[this.#cellOf(a, b, c, d)]! - 1
  }

  /** @returns its number; that of a new address is the size before */
  add (a: number, b: number, c: number, d: number): number {
    let cell = this.#cellOf(a, b, c, d)
    const known = this.#cells[cell]! - 1
    if (known !== -1) return known
    // At most two thirds of the cells are taken.
    if ((this.#size + 1) * 3 > this.#cells.length * 2) {
      this.#rehash(this.#cells.length * 2)
      cell = this.#cellOf(a, b, c, d)
    }
    const index = this.#size++
    if (index * this.#width === this.#keys.length) this.#keys = grown(this.#keys, this.#keys.length * 2)
    this.#write(index, a, b, c, d)
    this.#cells[cell] = index + 1
    return index
  }

  /**
   * Takes an address out; the last one gets its number, so that there is no gap.
   *
   * @param index  of an address that is in
   */
  delete (index: number): void {
    this.#free(this.#cellOf(...this.wordsAt(index)))
    const last = --this.#size
    if (last === index) return
    const words = this.wordsAt(last)
    this.#cells[this.#cellOf(...words)] = index + 1
    this.#write(index, ...words)
  }

  wordsAt (index: number): AddressWords {
    if (this.#width === 1) return [this.#keys[index]!, 0, 0, 0]
    const at = index * 4
    return [this.#keys[at]!, this.#keys[at + 1]!, this.#keys[at + 2]!, this.#keys[at + 3]!]
  }

  #write (index: number, a: number, b: number, c: number, d: number): void {
    const at = index * this.#width
    this.#keys[at] = a
    if (this.#width === 1) return
    this.#keys[at + 1] = b
    this.#keys[at + 2] = c
    this.#keys[at + 3] = d
  }

  /** The cell that an address is in, or the free one that it would be put into. */
  #cellOf (a: number, b: number, c: number, d: number): number {
    const mask = this.#cells.length - 1
    let cell = hash(a, b, c, d, this.#seed) & mask
    while (this.#cells[cell] !== 0 && !this.#isAt(this.#cells[cell]! - 1, a, b, c, d)) cell = (cell + 1) & mask
    return cell
  }

  #isAt (index: number, a: number, b: number, c: number, d: number): boolean {
    if (this.#width === 1) return this.#keys[index] === a
    const at = index * 4
    return this.#keys[at] === a && this.#keys[at + 1] === b && this.#keys[at + 2] === c && this.#keys[at + 3] === d
  }

  #free (cell: number): void {
    const mask = this.#cells.length - 1
    let free = cell
    for (let next = (free + 1) & mask; this.#cells[next] !== 0; next = (next + 1) & mask) {
      const home = hash(...this.wordsAt(this.#cells[next]! - 1), this.#seed) & mask
      // It may not move before the cell where looking for it begins.
      if (((next - home) & mask) < ((next - free) & mask)) continue
      this.#cells[free] = this.#cells[next]!
      free = next
    }
    this.#cells[free] = 0
  }

  #rehash (length: number): void {
    this.#cells = new Int32Array(length)
    for (let index = 0; index < this.#size; index++) this.#cells[this.#cellOf(...this.wordsAt(index))] = index + 1
  }
}

/** A copy of an array with more room. */
export function grown<T extends Uint32Array | Float64Array> (array: T, length: number): T {
  const copy = new (array.constructor as new (length: number) => T)(length)
  copy.set(array)
  return copy
}

const leastCapacity = 8

/** The mixing steps of MurmurHash3 (Austin Appleby, public domain). */
function hash (a: number, b: number, c: number, d: number, seed: number): number {
  let bits = seed
  bits = mix(bits, a)
  bits = mix(bits, b)
  bits = mix(bits, c)
  bits = mix(bits, d)
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return bits ^ (bits >>> 16)
}

function mix (bits: number, word: number): number {
  let k = Math.imul(word, 0xcc9e2d51)
  k = Math.imul((k << 15) | (k >>> 17), 0x1b873593)
  bits ^= k
  return Math.imul((bits << 13) | (bits >>> 19), 5) + 0xe6546b64 | 0
}
