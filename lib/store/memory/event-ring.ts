/**
 * The latest events, at most `capacity` of them, and how often each address
 * was limited in them.
 */
import type { RateLimitEvent, Suspect } from '../event-store.js'

export class EventRing {
  readonly #capacity: number
  /** oldest first, beginning at #start; what lies before it is dropped now and then */
  #events: RateLimitEvent[] = []
  #start = 0
  readonly #limited = new Map<string, number>()

  constructor (capacity: number) {
    this.#capacity = capacity
  }

  add (event: RateLimitEvent): void {
    this.#events.push(event)
    this.#count(event, event.count)
    while (this.#events.length - this.#start > this.#capacity) this.#count(this.#events[this.#start]!, -this.#events[this.#start++]!.count)
    if (this.#start > this.#capacity) {
      this.#events = this.#events.slice(this.#start)
      this.#start = 0
    }
  }

  latest (limit: number): RateLimitEvent[] {
    return this.#events.slice(Math.max(this.#start, this.#events.length - limit)).reverse()
  }

  /** @returns how many were removed */
  clear (beforeMs: number): number {
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

  suspects (limit: number): Suspect[] {
    return [...this.#limited]
      .map(([ip, count]) => ({ ip, count }))
      .sort((a, b) => b.count - a.count || (a.ip < b.ip ? 1 : -1))
      .slice(0, limit)
  }

  #count (event: RateLimitEvent, by: number): void {
    if (event.type !== 'limited' || event.ip === undefined) return
    const count = (this.#limited.get(event.ip) ?? 0) + by
    if (count > 0) this.#limited.set(event.ip, count)
    else this.#limited.delete(event.ip)
  }
}
