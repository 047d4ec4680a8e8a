/**
 * Refusals on their way to the store: gathered while requests are answered,
 * written behind in one piece. Equal ones become one event with a count, so a
 * flood costs a few events a second, however many requests it has.
 */
import type { RateLimitEvent } from '../store/store.js'
import type { GuardEvent } from './guard.js'

/** ms between two writes. */
export const flushIntervalMs = 250

/** Different events between two writes; what is beyond is counted as dropped. */
export const mostPending = 1000

export class EventLog {
  readonly #write: (events: readonly RateLimitEvent[]) => Promise<void>
  readonly #dropped: (count: number) => void
  #pending = new Map<string, RateLimitEvent>()
  #timer: NodeJS.Timeout | undefined
  #writing: Promise<void> = Promise.resolve()

  /**
   * @param write    stores events
   * @param dropped  told how many requests had no room
   */
  constructor (write: (events: readonly RateLimitEvent[]) => Promise<void>, dropped: (count: number) => void) {
    this.#write = write
    this.#dropped = dropped
  }

  /**
   * Adds a decision, if it was a refusal. The event names what was counted or
   * blocked: an IPv6 client changes its address at will, and is one suspect
   * all the same.
   */
  record ({ outcome, key, limit, subject }: GuardEvent, atMs: number): void {
    if (outcome !== 'limited' && outcome !== 'blocked') return
    const { client, method, route } = subject
    const counted = client.address === undefined ? undefined : client.key
    const ip = outcome === 'blocked' ? key : counted
    this.add({ type: outcome, ip, key: key === ip ? undefined : shorten(key), limit, method, route, count: 1, atMs })
  }

  add (event: RateLimitEvent): void {
    const same = `${event.type} ${event.ip} ${event.limit} ${event.method} ${event.route} ${event.key}`
    const pending = this.#pending.get(same)
    if (pending !== undefined) {
      this.#pending.set(same, { ...pending, count: pending.count + event.count })
    } else if (this.#pending.size < mostPending) {
      this.#pending.set(same, event)
    } else {
      this.#dropped(event.count)
    }
    this.#timer ??= setTimeout(() => { this.flush().catch(() => {}) }, flushIntervalMs).unref()
  }

  /** Resolves when all that was added so far has been written; rejects when the last of it cannot be. */
  async flush (): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const events = [...this.#pending.values()]
    this.#pending = new Map()
    if (events.length === 0) return await this.#writing
    const written = this.#writing.then(async () => await this.#write(events))
    // A batch that cannot be written is lost; those after it are not.
    this.#writing = written.catch(() => {})
    await written
  }
}

/** A key may hold a megabyte that a client sent; a copy, since a part of a text keeps all of it alive. */
function shorten (key: string | undefined): string | undefined {
  return key === undefined || key.length <= 200 ? key : Buffer.from(`${key.slice(0, 200)}...`).toString()
}
