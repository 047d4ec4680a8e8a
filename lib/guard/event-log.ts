/**
 * Refusals on their way to the store: gathered while requests are answered,
 * written behind in one piece. Equal ones become one event with a count, so a
 * flood costs a few events a second, however many requests it has.
 */
import { AsyncResource } from 'node:async_hooks'
import type { RateLimitEvent } from '../store/store.js'
import type { GuardEvent } from './guard.js'

/** ms between two writes. */
export const flushIntervalMs = 250

/** Different events between two writes; what is beyond is counted as dropped. */
export const mostPending = 20_000

/** Events in one write, so that a script of Redis is done in about a millisecond. */
export const mostPerWrite = 200

export class EventLog {
  readonly #write: (events: readonly RateLimitEvent[]) => Promise<void>
  readonly #dropped: (count: number) => void
  #pending: PendingEvent[] = []
  /** the same, by address, then in the order of their coming */
  #byAddress = new Map<string | undefined, PendingEvent[]>()
  #timer: NodeJS.Timeout | undefined
  readonly #flushUnasked = AsyncResource.bind(() => { this.flush().catch(() => {}) })
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
    const ofAddress = this.#byAddress.get(event.ip)
    const same = ofAddress?.find(pending => isSame(pending, event))
    if (same !== undefined) same.count += event.count
    else if (ofAddress !== undefined && ofAddress.length >= mostOfAddress && !isSummary(event)) return this.add(summaryOf(event))
    else if (this.#pending.length >= mostPending) this.#dropped(event.count)
    else this.#begin({ ...event }, ofAddress)
    this.#timer ??= setTimeout(this.#flushUnasked, flushIntervalMs).unref()
  }

  /** Resolves when all that was added so far has been written; rejects when the last of it cannot be. */
  async flush (): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const events = this.#pending
    this.#pending = []
    this.#byAddress = new Map()
    let written = this.#writing
    for (let i = 0; i < events.length; i += mostPerWrite) {
      written = this.#writing.then(async () => await this.#write(events.slice(i, i + mostPerWrite)))
      // A piece that cannot be written is lost; those after it are not.
      this.#writing = written.catch(() => {})
    }
    await written
  }

  #begin (event: PendingEvent, ofAddress: PendingEvent[] | undefined): void {
    this.#pending.push(event)
    if (ofAddress === undefined) this.#byAddress.set(event.ip, [event])
    else ofAddress.push(event)
  }
}

type PendingEvent = { -readonly [name in keyof RateLimitEvent]: RateLimitEvent[name] }

/**
 * Different events of one address between two writes. Who sends another key
 * each time is not to make the list long to search: the rest is told in one
 * event, which says only how many they were.
 */
export const mostOfAddress = 50

function summaryOf ({ type, ip, count, atMs }: RateLimitEvent): RateLimitEvent {
  return { type, ip, count, atMs }
}

function isSummary ({ key, limit, method, route }: RateLimitEvent): boolean {
  return key === undefined && limit === undefined && method === undefined && route === undefined
}

function isSame (a: RateLimitEvent, b: RateLimitEvent): boolean {
  return a.type === b.type && a.key === b.key && a.limit === b.limit && a.method === b.method && a.route === b.route
}

/** A key may hold a megabyte that a client sent; a copy, since a part of a text keeps all of it alive. */
function shorten (key: string | undefined): string | undefined {
  return key === undefined || key.length <= 200 ? key : Buffer.from(`${key.slice(0, 200)}...`).toString()
}
