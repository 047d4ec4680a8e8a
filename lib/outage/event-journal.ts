/**
 * Keeps events that were recorded without Redis, in chunks, until Redis has
 * them. Redis runs each chunk once, by its id. A write that was sent and never
 * answered is in doubt: its number says later whether Redis ran it.
 */
import type { RateLimitEvent } from '../store/event-store.js'
import type { Fence } from '../store/redis/sequence.js'

/** Events for one call to Redis. They are sent under the same id until Redis has answered. */
export interface EventChunk {
  readonly kind: 'events'
  readonly id: number
  readonly events: readonly RateLimitEvent[]
}

interface Chunk extends EventChunk {
  /** number of the write that may have run; undefined: it did not run and never will */
  readonly batch: number | undefined
}

export class EventJournal {
  readonly #chunks = new Map<number, Chunk>()
  /** the last chunk, if it was never sent and may still grow */
  #open: Chunk | undefined
  #fence: Fence = { last: 0, next: 0 }
  #lastId = 0
  #size = 0

  /** Events that wait. */
  get size (): number {
    return this.#size
  }

  /** @param batch  number of the write that may have run; undefined: none */
  add (events: readonly RateLimitEvent[], batch: number | undefined): void {
    // The write failed only after the recovery, which has settled that it ran.
    if (batch !== undefined && batch <= this.#fence.last) return
    const isInDoubt = batch !== undefined && batch >= this.#fence.next
    this.#size += events.length
    if (!isInDoubt && this.#open !== undefined && this.#open.events.length + events.length <= mostEvents) {
      this.#open = { ...this.#open, events: [...this.#open.events, ...events] }
      this.#chunks.set(this.#open.id, this.#open)
      return
    }
    const chunk = { kind: 'events' as const, id: ++this.#lastId, events, batch: isInDoubt ? batch : undefined }
    this.#chunks.set(chunk.id, chunk)
    this.#open = isInDoubt ? undefined : chunk
  }

  /** Decides which of the writes in doubt Redis has run. */
  settle (fence: Fence): void {
    this.#fence = fence
    for (const chunk of this.#chunks.values()) {
      if (chunk.batch === undefined) continue
      if (chunk.batch <= fence.last) this.done(chunk)
      else this.#chunks.set(chunk.id, { ...chunk, batch: undefined })
    }
  }

  /** The next chunks for Redis, the oldest first; the same ones until they are `done`. */
  next (atMost: number): readonly EventChunk[] {
    return this.rest().slice(0, atMost)
  }

  /** All chunks for Redis. */
  rest (): readonly EventChunk[] {
    this.#open = undefined
    return [...this.#chunks.values()].filter(({ batch }) => batch === undefined)
  }

  done ({ id }: EventChunk): void {
    this.#size -= this.#chunks.get(id)?.events.length ?? 0
    this.#chunks.delete(id)
  }

  /** Drops the oldest events. */
  drop (atMost: number): void {
    let left = atMost
    for (const chunk of this.#chunks.values()) {
      if (left <= 0) return
      const kept = chunk.events.slice(left)
      const dropped = chunk.events.length - kept.length
      if (kept.length > 0) this.#chunks.set(chunk.id, { ...chunk, events: kept })
      else this.#chunks.delete(chunk.id)
      if (chunk === this.#open) this.#open = undefined
      this.#size -= dropped
      left -= dropped
    }
  }
}

/** A call of this size holds Redis for about a millisecond. In an outage a write comes every quarter of a second. */
const mostEvents = 200
