/**
 * Blocks by number, in columns: with the table of their addresses some 40 to
 * 80 bytes each, where an object for each would be 200. Texts that many blocks
 * share, as reasons and origins are, are kept once.
 */
import { grown } from '../../addresses/address-table.js'
import type { Values } from '../../addresses/address-list.js'
import type { Block } from '../block-store.js'

export class BlockValues implements Values<Block> {
  readonly #texts: BlockTexts
  #blockedAtMs = new Float64Array(leastCapacity)
  #expiresAtMs = new Float64Array(leastCapacity)
  #textIds = new Uint32Array(leastCapacity)

  /** @param texts  shared by all values of one list */
  constructor (texts: BlockTexts) {
    this.#texts = texts
  }

  read (index: number, ip: () => string): Block {
    const { reason, origin } = this.#texts.read(this.#textIds[index]!)
    return { ip: ip(), reason, origin, blockedAtMs: this.#blockedAtMs[index]!, expiresAtMs: this.#expiresAtMs[index]! }
  }

  write (index: number, { reason, origin, blockedAtMs, expiresAtMs }: Block, isNew: boolean): void {
    if (index === this.#textIds.length) this.#grow(index * 2)
    const before = this.#textIds[index]!
    this.#textIds[index] = this.#texts.hold(reason, origin)
    // After the new text is held, which may be the same.
    if (!isNew) this.#texts.release(before)
    this.#blockedAtMs[index] = blockedAtMs
    this.#expiresAtMs[index] = expiresAtMs
  }

  delete (index: number, last: number): void {
    this.#texts.release(this.#textIds[index]!)
    this.#textIds[index] = this.#textIds[last]!
    this.#blockedAtMs[index] = this.#blockedAtMs[last]!
    this.#expiresAtMs[index] = this.#expiresAtMs[last]!
  }

  expiresAtMs (index: number): number {
    return this.#expiresAtMs[index]!
  }

  #grow (capacity: number): void {
    this.#textIds = grown(this.#textIds, capacity)
    this.#blockedAtMs = grown(this.#blockedAtMs, capacity)
    this.#expiresAtMs = grown(this.#expiresAtMs, capacity)
  }
}

const leastCapacity = 8

interface Texts {
  readonly reason: string
  readonly origin: string
}

/** Pairs of reason and origin, each kept as long as a block has it. */
export class BlockTexts {
  readonly #ids = new Map<string, number>()
  readonly #entries: (Texts & { uses: number })[] = []
  readonly #free: number[] = []

  read (id: number): Texts {
    return this.#entries[id]!
  }

  /** @returns the number of the pair, to be released as often as it was held */
  hold (reason: string, origin: string): number {
    const known = this.#ids.get(keyOf(reason, origin))
    if (known !== undefined) {
      this.#entries[known]!.uses++
      return known
    }
    const id = this.#free.pop() ?? this.#entries.length
    this.#entries[id] = { reason, origin, uses: 1 }
    this.#ids.set(keyOf(reason, origin), id)
    return id
  }

  release (id: number): void {
    const entry = this.#entries[id]!
    if (--entry.uses > 0) return
    this.#ids.delete(keyOf(entry.reason, entry.origin))
    this.#free.push(id)
  }
}

/** The length tells where the reason ends. */
function keyOf (reason: string, origin: string): string {
  return `${reason.length}:${reason}${origin}`
}
