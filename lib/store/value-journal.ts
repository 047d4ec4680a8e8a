/**
 * What was done to values without Redis, one short list for each key: what a
 * later `set` or `del` makes void is forgotten, and what was added is summed up.
 */
import type { Fence, ValueChange, ValueOperation } from './store.js'

export interface ValueJournalOptions {
  /** the most keys that are kept */
  readonly capacity: number
  /** told how many had to go */
  readonly onDrop: (count: number) => void
}

/** An operation, and in which call it was sent to Redis, that may have run it; undefined: it was not. */
interface Step {
  readonly order: number
  readonly operation: ValueOperation
  batch: number | undefined
}

export class ValueJournal {
  readonly #options: ValueJournalOptions
  readonly #steps = new Map<string, Step[]>()
  #fence: Fence = { last: 0, next: 0 }
  #lastOrder = 0

  constructor (options: ValueJournalOptions) {
    this.#options = options
  }

  /** Keys that something was done to. */
  get size (): number {
    return this.#steps.size
  }

  /** Taken when an operation begins: one that fails late came before those that were begun meanwhile. */
  nextOrder (): number {
    return ++this.#lastOrder
  }

  /**
   * @param order  from `nextOrder`
   * @param batch  number of the call that may have run it; undefined: none
   */
  add (operation: ValueOperation, order: number, batch: number | undefined): void {
    const { key } = operation
    // One that failed when Redis was trusted again already.
    if (batch !== undefined && batch <= this.#fence.last) return
    const steps = this.#steps.get(key) ?? []
    steps.push({ order, operation, batch: batch !== undefined && batch < this.#fence.next ? undefined : batch })
    steps.sort((a, b) => a.order - b.order)
    this.#steps.set(key, shorten(steps))
    if (this.#steps.size <= this.#options.capacity) return
    // Several at a time: finding the oldest key of a Map costs more, the more were deleted before it.
    const count = Math.ceil(this.#options.capacity / 64)
    for (const oldest of [...this.#steps.keys()].slice(0, count)) this.#steps.delete(oldest)
    this.#options.onDrop(count)
  }

  /** Settles which of the calls that Redis never answered it has run. */
  settle (fence: Fence): void {
    this.#fence = fence
    for (const [key, steps] of this.#steps) {
      const left = steps.filter(({ batch }) => batch === undefined || batch > fence.last)
      for (const step of left) step.batch = undefined
      if (left.length === 0) this.#steps.delete(key)
      else this.#steps.set(key, shorten(left))
    }
  }

  /** All of it, in sums; nothing is left here. */
  cut (): readonly ValueChange[] {
    const changes = [...this.#steps].map(([key, steps]) => sumOf(key, steps))
    this.#steps.clear()
    return changes
  }
}

/** Nothing before the last `set` or `del` matters; whether those ran, neither. */
function shorten (steps: Step[]): Step[] {
  const begin = Math.max(0, steps.findLastIndex(({ operation }) => operation.kind === 'set' || operation.kind === 'del'))
  const short: Step[] = []
  for (const step of steps.slice(begin)) {
    const before = short.at(-1)
    if (before !== undefined && isAdded(before, step)) short[short.length - 1] = { ...step, operation: added(before.operation, step.operation) }
    else short.push(step)
  }
  return short
}

function isAdded (a: Step, b: Step): boolean {
  return a.batch === undefined && b.batch === undefined && a.operation.kind === b.operation.kind
}

/** Two of a kind that follow each other: sums add up, of two ends the later one holds. */
function added (a: ValueOperation, b: ValueOperation): ValueOperation {
  return a.kind === 'incr' && b.kind === 'incr' ? { ...b, by: a.by + b.by } : b
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
        // What is not there is given no end.
        if (change.base?.text !== undefined || change.base === undefined || change.add > 0) change = { ...change, end: { atMs, expiresAtMs: operation.expiresAtMs } }
    }
  }
  return change
}
