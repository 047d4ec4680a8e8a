/**
 * Stores blocks by index, in columns. With the table of its address a block
 * takes 40 to 80 bytes; as an object it would take 200. Many blocks have the same
 * reason and origin, so each pair of these texts is stored once.
 */
import { at, grown } from '../../addresses/address-table.js'
import type { EntryValues } from '../../addresses/address-list.js'
import type { Block } from '../block-store.js'

export class BlockColumns implements EntryValues<Block> {
  readonly #texts: BlockTexts
  #blockedAtMs = new Float64Array(leastCapacity)
  #expiresAtMs = new Float64Array(leastCapacity)
  #textIds = new Uint32Array(leastCapacity)

  /** @param texts  the texts of all blocks in one list */
  constructor (texts: BlockTexts) {
    this.#texts = texts
  }

  read (index: number, ip: () => string): Block {
    const { reason, origin } = this.#texts.read(at(this.#textIds, index))
    const blockedAtMs = at(this.#blockedAtMs, index)
    return { ip: ip(), reason, origin, blockedAtMs, expiresAtMs: this.expiresAtMs(index) }
  }

  write (index: number, { reason, origin, blockedAtMs, expiresAtMs }: Block, isNew: boolean): void {
    if (index === this.#textIds.length) this.#grow(index * 2)
    const before = at(this.#textIds, index)
    this.#textIds[index] = this.#texts.hold(reason, origin)
    // Released only after the new pair is held: the two may be the same.
    if (!isNew) this.#texts.release(before)
    this.#blockedAtMs[index] = blockedAtMs
    this.#expiresAtMs[index] = expiresAtMs
  }

  delete (index: number, last: number): void {
    this.#texts.release(at(this.#textIds, index))
    for (const column of [this.#textIds, this.#blockedAtMs, this.#expiresAtMs]) column[index] = at(column, last)
  }

  expiresAtMs (index: number): number {
    return at(this.#expiresAtMs, index)
  }

  #grow (capacity: number): void {
    this.#textIds = grown(this.#textIds, capacity)
    this.#blockedAtMs = grown(this.#blockedAtMs, capacity)
    this.#expiresAtMs = grown(this.#expiresAtMs, capacity)
  }
}

const leastCapacity = 8

interface Texts {
  readonly id: number
  readonly reason: string
  readonly origin: string
  uses: number
}

/** Pairs of reason and origin. Each pair is stored as long as a block uses it. */
export class BlockTexts {
  readonly #known = new Map<string, Texts>()
  /** by id */
  readonly #entries: Texts[] = []
  readonly #free: number[] = []

  read (id: number): Readonly<Texts> {
    return this.#entryOf(id)
  }

  /** @returns the id of the pair; release it as often as it was held */
  hold (reason: string, origin: string): number {
    const known = this.#known.get(keyOf(reason, origin))
    if (known !== undefined) {
      known.uses++
      return known.id
    }
    const id = this.#free.pop() ?? this.#entries.length
    const entry = { id, reason, origin, uses: 1 }
    this.#entries[id] = entry
    this.#known.set(keyOf(reason, origin), entry)
    return id
  }

  release (id: number): void {
    const entry = this.#entryOf(id)
    if (--entry.uses > 0) return
    this.#known.delete(keyOf(entry.reason, entry.origin))
    this.#free.push(id)
  }

  #entryOf (id: number): Texts {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `hold` gave this id, and it is still held
    return this.#entries[id]!
  }
}

/** The length marks where the reason ends, so two different pairs never have the same key. */
function keyOf (reason: string, origin: string): string {
  return `${reason.length}:${reason}${origin}`
}
