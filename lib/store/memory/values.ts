/** Plain values in this process, for `get`, `set`, `incr`, `expire` and `del`. If there are too many, the oldest go. */
import { ValueError } from '../../errors.js'
import type { ReportedValue, ValueStore } from '../value-store.js'

export interface MemoryValuesOptions {
  /** the most values in memory */
  readonly capacity: number
  /** ms since 1970 */
  readonly now: () => number
}

/** Members for the outage layer, with which memory adopts the values that Redis has reported. */
export interface ValueMirror {
  /** number of changes made in this store */
  readonly changeCount: number
  /**
   * Adopts a value that another store has reported, unless it was changed here since.
   *
   * @param reported  undefined: there is no value
   * @param since     `changeCount` when the other store was asked
   */
  adopt (key: string, reported: ReportedValue | undefined, since: number): void
}

export class MemoryValues implements ValueStore, ValueMirror {
  readonly #capacity: number
  readonly #now: () => number
  /** in the order of their last `set` */
  readonly #values = new Map<string, Value>()
  #changeCount = 0

  constructor ({ capacity, now }: MemoryValuesOptions) {
    this.#capacity = capacity
    this.#now = now
  }

  get changeCount (): number {
    return this.#changeCount
  }

  get (key: string): string | null {
    return this.#find(key)?.text ?? null
  }

  set (key: string, value: string, ttlMs: number = Infinity): void {
    this.#values.delete(key)
    this.#values.set(key, { text: value, expiresAtMs: this.#now() + ttlMs, changed: ++this.#changeCount })
    for (const oldest of this.#values.keys()) {
      if (this.#values.size <= this.#capacity) break
      this.#values.delete(oldest)
    }
  }

  incr (key: string): number {
    const value = this.#find(key)
    const text = value?.text ?? '0'
    if (!/^(0|-?[1-9]\d{0,18})$/.test(text)) throw new ValueError(notWhole)
    const next = BigInt(text) + 1n
    if (BigInt.asIntN(64, next) !== next) throw new ValueError(notWhole)
    if (value === undefined) this.set(key, String(next))
    else Object.assign(value, { text: String(next), changed: ++this.#changeCount })
    return Number(next)
  }

  expire (key: string, ttlMs: number): boolean {
    const value = this.#find(key)
    if (value === undefined) return false
    Object.assign(value, { expiresAtMs: this.#now() + ttlMs, changed: ++this.#changeCount })
    return true
  }

  del (key: string): boolean {
    return this.#find(key) !== undefined && this.#values.delete(key)
  }

  adopt (key: string, reported: ReportedValue | undefined, since: number): void {
    if ((this.#values.get(key)?.changed ?? 0) > since) return
    if (reported === undefined) this.#values.delete(key)
    else this.set(key, reported.text, reported.leftMs)
  }

  /** Removes expired values. */
  sweep (): void {
    const nowMs = this.#now()
    for (const [key, value] of this.#values) {
      if (value.expiresAtMs <= nowMs) this.#values.delete(key)
    }
  }

  #find (key: string): Value | undefined {
    const value = this.#values.get(key)
    if (value === undefined || value.expiresAtMs > this.#now()) return value
    this.#values.delete(key)
    return undefined
  }
}

interface Value {
  text: string
  /** ms since 1970; Infinity: never */
  expiresAtMs: number
  /** `changeCount` after its last change */
  changed: number
}

const notWhole = 'incr needs a whole number of at most 64 bits under the key'
