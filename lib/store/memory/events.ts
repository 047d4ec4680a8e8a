/**
 * The latest events in this process, at most `capacity` of them, and the number
 * of limited requests of each address in them.
 */
import type { EventStore, RateLimitEvent, Suspect } from '../event-store.js'

export interface MemoryEventsOptions {
  /** the most events that are kept */
  readonly capacity: number
  /** ms since 1970; the clock of times that people see */
  readonly wall: () => number
}

export class MemoryEvents implements EventStore {
  readonly #capacity: number
  readonly #wall: () => number
  /** oldest first, from #start on; the events before it are dropped now and then */
  #events: RateLimitEvent[] = []
  #start = 0
  /** by address: number of its limited requests */
  readonly #limited = new Map<string, number>()

  constructor ({ capacity, wall }: MemoryEventsOptions) {
    this.#capacity = capacity
    this.#wall = wall
  }

  logEvents (events: readonly RateLimitEvent[]): void {
    for (const event of events) this.#add(event)
  }

  events (limit: number): readonly RateLimitEvent[] {
    return this.#events.slice(Math.max(this.#start, this.#events.length - limit)).reverse()
  }

  clearEvents (olderThanMs: number): number {
    const beforeMs = olderThanMs === 0 ? Infinity : this.#wall() - olderThanMs
    const kept: RateLimitEvent[] = []
    const before = this.#events.length - this.#start
    for (const event of this.#events.slice(this.#start)) {
      if (event.atMs < beforeMs) this.#count(event, -event.count)
      else kept.push(event)
    }
    this.#events = kept
    this.#start = 0
    return before - kept.length
  }

  suspects (limit: number): readonly Suspect[] {
    return [...this.#limited]
      .map(([ip, count]) => ({ ip, count }))
      .sort((a, b) => b.count - a.count || (a.ip < b.ip ? 1 : -1))
      .slice(0, limit)
  }

  #add (event: RateLimitEvent): void {
    this.#events.push(event)
    this.#count(event, event.count)
    const oldest = this.#events[this.#start]
    if (oldest !== undefined && this.#events.length - this.#start > this.#capacity) {
      this.#start++
      this.#count(oldest, -oldest.count)
    }
    if (this.#start > this.#capacity) {
      this.#events = this.#events.slice(this.#start)
      this.#start = 0
    }
  }

  #count ({ type, ip }: RateLimitEvent, by: number): void {
    if (type !== 'limited' || ip === undefined) return
    const count = (this.#limited.get(ip) ?? 0) + by
    if (count > 0) this.#limited.set(ip, count)
    else this.#limited.delete(ip)
  }
}
