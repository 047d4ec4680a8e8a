/**
 * What was accepted without Redis, until Redis has been told: counters, blocks,
 * events and values. Bounded: what finds no room pushes out the oldest, which is
 * counted and lost.
 *
 * The numbers of batches tell whether hits ran that Redis never answered
 * (store/lua/take.lua): it runs them in order, so those up to the last number
 * that it knows did.
 */
import { count, type Limit, type LimitState, otherClockMs, refund } from '../rules/rate-limit.js'
import type { BlockOperation, CountedHere, EventBatch, Fence, RateLimitEvent, ValueChange } from './store.js'
import { ValueJournal } from './value-journal.js'

/** A piece to tell Redis in one call. */
export type Piece =
  | { readonly kind: 'counters', readonly id: number, readonly counters: readonly CountedHere[] }
  | { readonly kind: 'blocks', readonly operations: readonly BlockOperation[] }
  | { readonly kind: 'events', readonly batch: EventBatch }
  | { readonly kind: 'values', readonly id: number, readonly changes: readonly ValueChange[] }

export const carriedKinds = ['counters', 'blocks', 'events', 'values'] as const
export type Carried = typeof carriedKinds[number]

export interface JournalOptions {
  /** the most counters, the most changes of blocks, and the most values that are kept */
  readonly capacity: number
  readonly maxEvents: number
  /** told what had to go */
  readonly onDrop: (kind: Carried, count: number) => void
}

/** A hit that was decided here. */
export interface HitHere {
  readonly key: string
  readonly limit: Limit
  readonly cost: number
  readonly nowMs: number
  /** `noted`: refused, and counted as a refusal */
  readonly outcome: 'accepted' | 'noted'
}

/** Something that was sent to Redis, which may have run it. */
interface Unsure {
  readonly batch: number
  readonly key: string
  readonly limit: Limit
  readonly known: LimitState | undefined
  readonly applyTo: (counter: Counter) => void
}

export class Journal {
  readonly #options: JournalOptions
  readonly values: ValueJournal
  readonly #counters = new Map<string, Counter>()
  #unsure: Unsure[] = []
  readonly #blocks = new Map<string, BlockOperation>()
  #events: EventBatch[] = []
  #eventCount = 0
  #pieces: Piece[] = []
  /** counters in pieces */
  readonly #leaving = new Set<string>()
  /** counters that Redis was told in attempts to bring it up to date */
  readonly #restored = new Set<string>()
  #isRecovering = false
  #fence: Fence = { last: 0, next: 0 }
  #lastId = 0
  #lastEventBatch = 0

  constructor (options: JournalOptions) {
    this.#options = options
    this.values = new ValueJournal({ capacity: options.capacity, onDrop: count => options.onDrop('values', count) })
  }

  /** Counters, changes of blocks, events and values that wait. */
  get size (): number {
    const inPieces = this.#pieces.reduce((sum, piece) => sum + sizeOf(piece), 0)
    return this.#counters.size + this.#blocks.size + this.#eventCount + this.values.size + inPieces
  }

  get isEmpty (): boolean {
    return this.size === 0 && this.#unsure.length === 0
  }

  /** Whether a counter waits here, that something has come on top of. */
  has (key: string): boolean {
    return this.#counters.get(key)?.counted !== undefined || this.#leaving.has(key)
  }

  /**
   * @param known  the counter before any hit of this outage, as Redis told it
   * @param batch  number of the batch in which it was sent, and may have run; undefined: it was not sent
   */
  addHit (hit: HitHere, known: LimitState | undefined, batch: number | undefined): void {
    if (this.#hasRun(batch)) return
    // What was known before is kept with the counter, which a later hit may be the first to change.
    const counter = this.#counterOf(hit, known)
    if (this.#isUnsure(batch)) this.#unsure.push({ batch, key: hit.key, limit: hit.limit, known: undefined, applyTo: counter => apply(counter, hit) })
    else apply(counter, hit)
  }

  /**
   * Adds refusals of a fixed-window, if that window is still the one that is counted.
   *
   * @param batch  number of the call in which they were sent, as for `addHit`
   */
  addRefusals (key: string, limit: Limit, windowEndsAtMs: number, refusals: number, known: LimitState | undefined, batch: number | undefined): void {
    if (known === undefined || Math.abs(known.atMs - windowEndsAtMs) > otherClockMs || this.#hasRun(batch)) return
    const applyTo = (counter: Counter) => {
      // Memory knows of hits that Redis may have run; on top of what was known before them these are still to come.
      const before = counter.counted ?? counter.known ?? { ...known, used: 0, previous: 0 }
      counter.counted = { ...before, previous: before.previous + refusals }
    }
    if (this.#isUnsure(batch)) this.#unsure.push({ batch, key, limit, known, applyTo })
    else applyTo(this.#counterOf({ key, limit }, known))
  }

  /**
   * Takes back a hit.
   *
   * @param counted  the counter as the hit left it, by the clock of `known`
   */
  addRefund ({ key, limit, cost }: Pick<HitHere, 'key' | 'limit' | 'cost'>, counted: LimitState, known: LimitState | undefined, batch: number | undefined): void {
    if (this.#hasRun(batch)) return
    const applyTo = (counter: Counter) => {
      const before = counter.counted ?? counter.known
      if (before !== undefined) counter.counted = refund(before, limit, cost, counted)
    }
    if (this.#isUnsure(batch)) this.#unsure.push({ batch, key, limit, known, applyTo })
    else applyTo(this.#counterOf({ key, limit }, known))
  }

  /** Takes back all that was counted, as far as it is known. */
  addReset (key: string, limit: Limit, known: LimitState | undefined): void {
    this.#unsure = this.#unsure.filter(unsure => unsure.key !== key)
    if (known === undefined) {
      this.#counters.delete(key)
      return
    }
    const counter = this.#counterOf({ key, limit }, known)
    counter.counted = counter.known === undefined ? undefined : { ...counter.known, used: 0, previous: 0 }
  }

  #isUnsure (batch: number | undefined): batch is number {
    return batch !== undefined && batch >= this.#fence.next
  }

  /** Of one that failed when Redis was trusted again already, this is known. */
  #hasRun (batch: number | undefined): boolean {
    return batch !== undefined && batch <= this.#fence.last
  }

  addBlock (operation: BlockOperation): void {
    const ip = 'block' in operation ? operation.block.ip : operation.unblock
    // In the order of the last change of each.
    this.#blocks.delete(ip)
    this.#blocks.set(ip, operation)
    if (this.#blocks.size > this.#options.capacity) this.#dropOldest(this.#blocks, 'blocks')
  }

  /** @param number  from `nextEventBatch`: an attempt to write them under it may have succeeded */
  addEvents (events: readonly RateLimitEvent[], number: number): void {
    this.#events.push({ number, events })
    this.#eventCount += events.length
    while (this.#eventCount > this.#options.maxEvents) {
      const { events: oldest } = this.#events.shift()!
      this.#eventCount -= oldest.length
      this.#options.onDrop('events', oldest.length)
    }
  }

  nextEventBatch (): number {
    return ++this.#lastEventBatch
  }

  /** Settles which of the hits that Redis never answered it has run. */
  settle (fence: Fence): void {
    this.#fence = fence
    this.#isRecovering = true
    for (const change of this.#unsure) {
      if (change.batch > fence.last) change.applyTo(this.#counterOf(change, change.known))
    }
    this.#unsure = []
    this.values.settle(fence)
  }

  /** All that Redis is to be told, in order; what comes from now on waits for the next time. Each piece comes again until it is `done`. */
  pieces (): readonly Piece[] {
    this.#cut()
    return [...this.#pieces]
  }

  done (piece: Piece): void {
    this.#pieces = this.#pieces.filter(other => other !== piece)
    if (piece.kind !== 'counters') return
    for (const { key } of piece.counters) {
      this.#leaving.delete(key)
      if (this.#isRecovering) this.#restored.add(key)
    }
  }

  /** Redis is up to date, and tells what it counts from now on. */
  recovered (): void {
    this.#isRecovering = false
    this.#restored.clear()
  }

  #cut (): void {
    const operations = [...this.#blocks.values()]
    for (let i = 0; i < operations.length; i += inPiece) this.#pieces.push({ kind: 'blocks', operations: operations.slice(i, i + inPiece) })
    this.#blocks.clear()
    const counters = [...this.#counters.values()].filter((counter): counter is Counter & CountedHere => counter.counted !== undefined)
    for (let i = 0; i < counters.length; i += inPiece) this.#pieces.push({ kind: 'counters', id: ++this.#lastId, counters: counters.slice(i, i + inPiece) })
    for (const { key } of counters) this.#leaving.add(key)
    this.#counters.clear()
    for (const batch of this.#events) this.#pieces.push({ kind: 'events', batch })
    const changes = this.values.cut()
    for (let i = 0; i < changes.length; i += inPiece) this.#pieces.push({ kind: 'values', id: ++this.#lastId, changes: changes.slice(i, i + inPiece) })
    this.#events = []
    this.#eventCount = 0
  }

  #counterOf ({ key, limit }: Pick<HitHere, 'key' | 'limit'>, known: LimitState | undefined): Counter {
    let counter = this.#counters.get(key)
    if (counter === undefined) {
      this.#counters.set(key, counter = { key, limit, known, counted: undefined, isRestored: this.#leaving.has(key) || this.#restored.has(key) })
      if (this.#counters.size > this.#options.capacity) this.#dropOldest(this.#counters, 'counters')
    }
    return counter
  }

  /** Several at a time: finding the oldest key of a Map costs more, the more were deleted before it. */
  #dropOldest (map: Map<string, unknown>, kind: Carried): void {
    const count = Math.ceil(this.#options.capacity / 64)
    let left = count
    for (const key of map.keys()) {
      if (left-- === 0) break
      map.delete(key)
    }
    this.#options.onDrop(kind, count)
  }
}

interface Counter {
  readonly key: string
  readonly limit: Limit
  readonly known: LimitState | undefined
  /** undefined: nothing came on top of what was known */
  counted: LimitState | undefined
  readonly isRestored: boolean
}

function apply (counter: Counter, { nowMs, limit, cost, outcome }: HitHere): void {
  const before = counter.counted ?? counter.known
  counter.counted = count(before, nowMs, limit, cost, outcome === 'accepted')
}

/** Counters, changes, events or values in a piece. */
export function sizeOf (piece: Piece): number {
  switch (piece.kind) {
    case 'counters': return piece.counters.length
    case 'blocks': return piece.operations.length
    case 'events': return piece.batch.events.length
    case 'values': return piece.changes.length
  }
}

/** So that Redis is held for about a millisecond. */
const inPiece = 100
