/** Events over the two stores. Memory keeps those that Redis does not get, and shows them while Redis is away. */
import type { Awaitable } from '../runtime/awaitable.js'
import type { EventStore, RateLimitEvent, Suspect } from '../store/event-store.js'
import type { Availability, RedisSide } from './availability.js'
import { RedisCalls } from './redis-calls.js'

export interface OutageEventsOptions {
  readonly memory: EventStore
  readonly redis: Pick<RedisSide, 'store' | 'journal'>
  readonly availability: Availability
}

export class OutageEvents implements EventStore {
  readonly #memory: EventStore
  readonly #redis: Pick<RedisSide, 'store' | 'journal'>
  readonly #calls: RedisCalls

  constructor ({ memory, redis, availability }: OutageEventsOptions) {
    this.#memory = memory
    this.#redis = redis
    this.#calls = new RedisCalls(availability)
  }

  async logEvents (events: readonly RateLimitEvent[]): Promise<void> {
    const { store, journal } = this.#redis
    const isLogged = await this.#calls.write({
      call: async () => {
        await store.events.logEvents(events)
        return true
      },
      // In a Cluster it is unknown whether the write ran: twice is better than never.
      keep: sentIn => journal.addEvents(events, sentIn)
    })
    if (isLogged !== true) await this.#memory.logEvents(events)
  }

  events (limit: number): Awaitable<readonly RateLimitEvent[]> {
    return this.#calls.read(async () => await this.#redis.store.events.events(limit), () => this.#memory.events(limit))
  }

  clearEvents (olderThanMs: number): Awaitable<number> {
    return this.#calls.read(
      async () => await this.#redis.store.events.clearEvents(olderThanMs),
      () => this.#memory.clearEvents(olderThanMs)
    )
  }

  suspects (limit: number): Awaitable<readonly Suspect[]> {
    return this.#calls.read(
      async () => await this.#redis.store.events.suspects(limit),
      () => this.#memory.suspects(limit)
    )
  }
}
