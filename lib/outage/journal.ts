/**
 * Keeps changes that were made without Redis until Redis has them: counters,
 * blocks, events and values. One bound holds for all entries together, including
 * those that were sent and not answered yet. Entries beyond it are dropped and
 * reported.
 */
import type { Limit } from '../rules/rate-limit.js'
import type { LimitState } from '../rules/rule.js'
import {
  type BeforeReset, type CounterChunk, CounterJournal, type LocalHit, inChunk, type LocalRefusals
} from './counter-journal.js'
import { type EventChunk, EventJournal } from './event-journal.js'
import { blockedIn, type BlockOperation } from '../store/block-store.js'
import type { RateLimitEvent } from '../store/event-store.js'
import type { CounterBaseline } from '../store/limit-store.js'
import type { Fence } from '../store/redis/sequence.js'
import type { ValueOperation } from '../store/value-store.js'
import { type ValueChunk, ValueJournal } from './value-journal.js'

/** Entries for one call to Redis. */
export type Chunk =
  | CounterChunk
  | { readonly kind: 'blocks', readonly operations: readonly BlockOperation[] }
  | EventChunk
  | ValueChunk

export const journalKinds = ['counters', 'blocks', 'events', 'values'] as const
export type JournalKind = typeof journalKinds[number]

export interface JournalOptions {
  /** the most entries: counters, changes of blocks, events, operations on values, and changes in doubt */
  readonly capacity: number
  /** the most events among them */
  readonly maxEvents: number
  /** called with the number of dropped entries */
  readonly onDrop: (kind: JournalKind, count: number) => void
}

export class Journal {
  readonly #options: JournalOptions
  readonly #counters = new CounterJournal()
  readonly #events = new EventJournal()
  readonly #values = new ValueJournal()
  /** by address or range: the operations that still matter, in order */
  readonly #blocks = new Map<string, BlockStep[]>()
  #blockCount = 0
  #lastBlockOrder = 0

  constructor (options: JournalOptions) {
    this.#options = options
  }

  /** Entries that wait. */
  get size (): number {
    return this.#counters.size + this.#blockCount + this.#events.size + this.#values.size
  }

  /** Entries that wait, by kind. */
  get sizes (): Readonly<Record<JournalKind, number>> {
    return Object.fromEntries(journalKinds.map(kind => [kind, this.#sizeOf(kind)])) as Record<JournalKind, number>
  }

  /** Whether hits, refunds or a reset of a counter wait. */
  has (key: string): boolean {
    return this.#counters.has(key)
  }

  /** The baseline of each counter that waits, below all of its changes. */
  baselines (): readonly CounterBaseline[] {
    return this.#counters.baselines()
  }

  /**
   * @param baseline  the counter before the hit: as Redis reported it, with the hits of earlier entries
   * @param batch     number of the batch that may have run it; undefined: it was not sent
   */
  addHit (hit: LocalHit, baseline: LimitState | undefined, batch: number | undefined): void {
    this.#counters.addHit(hit, baseline, batch)
    this.#makeRoom()
  }

  /**
   * Adds refusals, if their window is still the one that is counted.
   *
   * @param batch  number of the call that may have run; undefined: they were not sent
   */
  addRefusals (refusals: LocalRefusals, baseline: LimitState | undefined, batch: number | undefined): void {
    this.#counters.addRefusals(refusals, baseline, batch)
    this.#makeRoom()
  }

  /**
   * Takes back a hit that was accepted.
   *
   * @param counted  the counter as the hit left it, by the clock of `baseline`
   */
  addRefund (
    hit: Pick<LocalHit, 'key' | 'limit' | 'cost'>, counted: LimitState,
    baseline: LimitState | undefined, batch: number | undefined
  ): void {
    this.#counters.addRefund(hit, counted, baseline, batch)
    this.#makeRoom()
  }

  /** Takes back all hits that are known of a counter. @param before  undefined: none are known */
  addReset (key: string, limit: Limit, before: BeforeReset | undefined): void {
    this.#counters.addReset(key, limit, before)
    this.#makeRoom()
  }

  /** @param order  from `nextBlockOrder` */
  addBlock (operation: BlockOperation, order = this.nextBlockOrder()): void {
    const ip = blockedIn(operation)
    const steps = this.#blocks.get(ip) ?? []
    this.#blockCount -= steps.length
    const kept = [...steps, { order, operation }].sort((a, b) => a.order - b.order).reduce(withStep, [])
    this.#blockCount += kept.length
    // The map is in the order of the last change of each address.
    this.#blocks.delete(ip)
    this.#blocks.set(ip, kept)
    this.#makeRoom()
  }

  /** Addresses and ranges whose last waiting change is a block. */
  get blockedCount (): number {
    let count = 0
    for (const steps of this.#blocks.values()) {
      const last = steps.at(-1)
      if (last !== undefined && 'block' in last.operation) count++
    }
    return count
  }

  /** Whether a block waits for exactly this address or range that lasts until `untilMs`, ms since 1970, or longer. */
  hasBlock (ip: string, untilMs: number): boolean {
    return this.#blocks.get(ip)?.some(step => endOf(step) >= untilMs) === true
  }

  /** Whether an unblock, or a block that replaces others, waits for exactly this address or range. */
  hasLift (ip: string): boolean {
    return this.#blocks.get(ip)?.some(isLift) === true
  }

  /** The place of an operation that begins now: it may fail late, and still comes before those that begin meanwhile. */
  nextBlockOrder (): number {
    return ++this.#lastBlockOrder
  }

  /** @param batch  number of the write that may have run; undefined: none */
  addEvents (events: readonly RateLimitEvent[], batch: number | undefined): void {
    this.#events.add(events, batch)
    const { maxEvents } = this.#options
    if (this.#events.size > maxEvents) this.#drop('events', this.#events.size - maxEvents)
    this.#makeRoom()
  }

  /**
   * @param order  from `nextValueOrder`
   * @param batch  number of the call that may have run it; undefined: none
   */
  addValue (operation: ValueOperation, order: number, batch: number | undefined): void {
    this.#values.add(operation, order, batch)
    this.#makeRoom()
  }

  /** As `nextBlockOrder`, for values. */
  nextValueOrder (): number {
    return this.#values.nextOrder()
  }

  /** Decides which of the hits, events and operations in doubt Redis has run. */
  settle (fence: Fence): void {
    this.#counters.settle(fence)
    this.#events.settle(fence)
    this.#values.settle(fence)
  }

  /**
   * The next chunks for Redis, the same ones until they are `done`. All are of one kind, so they may be sent at once.
   *
   * @param atMost  chunks, whole number >= 1
   * @returns an empty list when nothing waits
   */
  next (atMost: number): readonly Chunk[] {
    const blocks = [...this.#blockChunks()].slice(0, atMost)
    if (blocks.length > 0) return blocks
    const counters = this.#counters.next(atMost)
    if (counters.length > 0) return counters
    const events = this.#events.next(atMost)
    return events.length > 0 ? events : this.#values.next(atMost)
  }

  /** All chunks for Redis, in order. */
  rest (): readonly Chunk[] {
    return [...this.#blockChunks(), ...this.#counters.rest(), ...this.#events.rest(), ...this.#values.rest()]
  }

  /** Redis has run the chunk, or has rejected it. */
  done (chunk: Chunk): void {
    switch (chunk.kind) {
      case 'counters': return this.#counters.done(chunk)
      case 'values': return this.#values.done(chunk)
      case 'events': return this.#events.done(chunk)
      case 'blocks':
        // Operations that were added after the chunk was made stay.
        for (const operation of chunk.operations) {
          this.#keepBlocks(blockedIn(operation), step => step.operation !== operation)
        }
    }
  }

  /** Forgets expired counters. */
  sweep (nowMs: number): void {
    this.#counters.sweep(nowMs)
  }

  * #blockChunks (): Generator<Chunk, undefined> {
    let operations: BlockOperation[] = []
    for (const { operation } of [...this.#blocks.values()].flat()) {
      operations.push(operation)
      if (operations.length < inChunk) continue
      yield { kind: 'blocks', operations }
      operations = []
    }
    if (operations.length > 0) yield { kind: 'blocks', operations }
  }

  /** Drops several at a time: the oldest entry of a Map or Set costs more to find, the more were deleted before it. */
  #makeRoom (): void {
    const { capacity } = this.#options
    if (this.size <= capacity) return
    for (const kind of leastWorth) {
      while (this.size > capacity && this.#sizeOf(kind) > capacity / 8) this.#drop(kind, Math.ceil(capacity / 64))
    }
  }

  #sizeOf (kind: JournalKind): number {
    switch (kind) {
      case 'counters': return this.#counters.size
      case 'blocks': return this.#blockCount
      case 'events': return this.#events.size
      case 'values': return this.#values.size
    }
  }

  #drop (kind: JournalKind, atMost: number): void {
    const before = this.size
    switch (kind) {
      case 'counters': this.#counters.drop(atMost); break
      case 'values': this.#values.drop(atMost); break
      case 'blocks': this.#dropBlocks(atMost); break
      case 'events': this.#events.drop(atMost)
    }
    this.#options.onDrop(kind, before - this.size)
  }

  #dropBlocks (atMost: number): void {
    const least = this.#blockCount - atMost
    for (const ip of this.#blocks.keys()) {
      if (this.#blockCount <= least) break
      this.#keepBlocks(ip, () => false)
    }
  }

  #keepBlocks (ip: string, isKept: (step: BlockStep) => boolean): void {
    const steps = this.#blocks.get(ip) ?? []
    const kept = steps.filter(isKept)
    this.#blockCount -= steps.length - kept.length
    if (kept.length === 0) this.#blocks.delete(ip)
    else this.#blocks.set(ip, kept)
  }
}

/**
 * The order in which kinds are dropped if there is no room. A kind is dropped
 * only while it has more than an eighth of the room, so that a flood of one kind
 * leaves room for the others.
 */
const leastWorth = ['events', 'counters', 'values', 'blocks'] as const satisfies readonly JournalKind[]

interface BlockStep {
  readonly order: number
  readonly operation: BlockOperation
}

/**
 * Appends a step. An unblock replaces all steps before it. A block replaces earlier blocks that end sooner, but not
 * longer ones: another instance may have lifted those, which only Redis knows. Of blocks that end at the same moment,
 * the first and the last stay.
 */
function withStep (steps: readonly BlockStep[], given: BlockStep): BlockStep[] {
  const step = afterAll(steps, given)
  if (isLift(step)) return [step]
  const end = endOf(step)
  const kept = steps.filter(other => isLift(other) || endOf(other) >= end)
  if (kept.slice(-2).filter(other => endOf(other) === end).length === 2) kept.pop()
  return [...kept, step]
}

/**
 * Dates a step at least 1 ms after those before it. Redis could not tell the order of two steps of one moment if the
 * call with the first is sent again after the call with the second.
 */
function afterAll (steps: readonly BlockStep[], step: BlockStep): BlockStep {
  const last = steps.at(-1)
  if (last === undefined || last.operation.atMs < step.operation.atMs) return step
  return { ...step, operation: { ...step.operation, atMs: last.operation.atMs + 1 } }
}

/** Whether the step lifts what was blocked before it. */
function isLift ({ operation }: BlockStep): boolean {
  return 'unblock' in operation || operation.block.replace === true
}

/** @returns when the block of a step ends, ms since 1970; -Infinity for an unblock */
function endOf ({ operation }: BlockStep): number {
  return 'block' in operation ? operation.atMs + operation.block.durationMs : -Infinity
}

/** Counters, changes, events or values in a chunk. */
export function sizeOf (chunk: Chunk): number {
  switch (chunk.kind) {
    case 'counters': return chunk.counters.size
    case 'blocks': return chunk.operations.length
    case 'events': return chunk.events.length
    case 'values': return chunk.changes.length
  }
}
