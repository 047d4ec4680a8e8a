/**
 * Keeps the changes of values that were made without Redis, as one short list
 * for each key. Changes before a later `set` or `del` are dropped, and `incr` are
 * summed up.
 */
import { inChunk } from './counter-journal.js'
import type { Fence } from '../store/redis/sequence.js'
import type { ValueChange, ValueOperation } from '../store/value-store.js'

/** Changes of values for one call to Redis; see CounterChunk. */
export interface ValueChunk {
  readonly kind: 'values'
  readonly id: number
  readonly changes: readonly ValueChange[]
}

interface Chunk extends ValueChunk {
  readonly changes: ValueChange[]
}

interface Step {
  readonly order: number
  readonly operation: ValueOperation
  /** number of the call that may have run it; undefined: none */
  readonly batch: number | undefined
}

export class ValueJournal {
  /** not sent yet */
  readonly #steps = new Map<string, Step[]>()
  #chunks: Chunk[] = []
  #fence: Fence = { last: 0, next: 0 }
  #lastOrder = 0
  #lastId = 0
  #size = 0

  /** Entries: a few operations for each key, and those in doubt. */
  get size (): number {
    return this.#size
  }

  /** The place of an operation that begins now: it may fail late, and still comes before those that begin meanwhile. */
  nextOrder (): number {
    return ++this.#lastOrder
  }

  /**
   * @param order  from `nextOrder`
   * @param batch  number of the call that may have run it; undefined: none
   */
  add (operation: ValueOperation, order: number, batch: number | undefined): void {
    const { key } = operation
    // The call failed only after the recovery, which has settled that it ran.
    if (batch !== undefined && batch <= this.#fence.last) return
    const steps = this.#steps.get(key) ?? []
    this.#size -= steps.length
    const later = steps.splice(steps.findLastIndex(step => step.order <= order) + 1)
    append(steps, { order, operation, batch: batch !== undefined && batch < this.#fence.next ? undefined : batch })
    for (const step of later) append(steps, step)
    this.#steps.set(key, steps)
    this.#size += steps.length
  }

  /** Decides which of the operations in doubt Redis has run. */
  settle (fence: Fence): void {
    this.#fence = fence
    for (const [key, steps] of this.#steps) {
      const left: Step[] = []
      for (const step of steps) {
        if (step.batch === undefined || step.batch > fence.last) append(left, { ...step, batch: undefined })
      }
      this.#size += left.length - steps.length
      if (left.length === 0) this.#steps.delete(key)
      else this.#steps.set(key, left)
    }
  }

  /** The next chunks for Redis, with one change for each key; the same ones until they are `done`. */
  next (atMost: number): readonly ValueChunk[] {
    if (this.#chunks.length === 0) this.#cut(atMost * inChunk)
    return this.#chunks.slice(0, atMost)
  }

  /** All chunks for Redis. */
  rest (): readonly ValueChunk[] {
    this.#cut(Infinity)
    return this.#chunks
  }

  done ({ id }: ValueChunk): void {
    this.#size -= this.#chunks.find(chunk => chunk.id === id)?.changes.length ?? 0
    this.#chunks = this.#chunks.filter(chunk => chunk.id !== id)
  }

  /** Drops the oldest keys. @returns how many entries were dropped */
  drop (atMost: number): number {
    const before = this.#size
    for (const { changes } of this.#chunks) this.#size -= changes.splice(0, atMost - (before - this.#size)).length
    for (const [key, steps] of this.#steps) {
      if (before - this.#size >= atMost) break
      this.#steps.delete(key)
      this.#size -= steps.length
    }
    this.#chunks = this.#chunks.filter(({ changes }) => changes.length > 0)
    return before - this.#size
  }

  #cut (atMost: number): void {
    let changes: ValueChange[] = []
    let left = atMost
    for (const [key, steps] of this.#steps) {
      if (steps.some(({ batch }) => batch !== undefined)) continue
      if (left-- <= 0) break
      this.#steps.delete(key)
      this.#size += 1 - steps.length
      changes.push(sumOf(key, steps))
      if (changes.length < inChunk) continue
      this.#chunks.push({ kind: 'values', id: ++this.#lastId, changes })
      changes = []
    }
    if (changes.length > 0) this.#chunks.push({ kind: 'values', id: ++this.#lastId, changes })
  }
}

/**
 * Appends a step. A `set` or `del` replaces all steps before it, whether they ran
 * or not. Of two `expire` only the later one stays, and two `incr` become one.
 * Steps in doubt stay separate.
 */
function append (steps: Step[], step: Step): void {
  const { kind } = step.operation
  if (kind === 'set' || kind === 'del') steps.length = 0
  if (step.batch === undefined && kind === 'expire') {
    const end = steps.findLastIndex(({ batch, operation }) => batch !== undefined || operation.kind === 'expire')
    if (end >= 0 && steps[end]?.batch === undefined) {
      const [, ...behind] = steps.splice(end)
      for (const other of behind) append(steps, other)
    }
  }
  const last = steps.at(-1)
  const sum = last === undefined ? undefined : sumOfTwo(last, step)
  if (sum === undefined) steps.push(step)
  else steps[steps.length - 1] = sum
}

/** @returns undefined: the two stay separate */
function sumOfTwo ({ batch, operation: a }: Step, step: Step): Step | undefined {
  const { operation: b } = step
  if (batch !== undefined || step.batch !== undefined || a.kind !== 'incr' || b.kind !== 'incr') return undefined
  return { ...step, operation: { ...b, by: a.by + b.by } }
}

function sumOf (key: string, steps: readonly Step[]): ValueChange {
  let change: ValueChange = { key, base: undefined, add: 0, addedAtMs: 0, end: undefined }
  for (const { operation } of steps) {
    const { atMs } = operation
    switch (operation.kind) {
      case 'set': {
        const end = operation.expiresAtMs === Infinity ? undefined : { atMs, expiresAtMs: operation.expiresAtMs }
        change = { key, base: { atMs, text: operation.text }, add: 0, addedAtMs: atMs, end }
        break
      }
      case 'del':
        change = { key, base: { atMs, text: undefined }, add: 0, addedAtMs: atMs, end: undefined }
        break
      case 'incr':
        change = { ...change, add: change.add + operation.by, addedAtMs: atMs }
        break
      case 'expire':
        // A value that does not exist gets no expiry.
        if (change.base === undefined || change.base.text !== undefined || change.add > 0) {
          change = { ...change, end: { atMs, expiresAtMs: operation.expiresAtMs } }
        }
    }
  }
  return change
}
