/**
 * Refusals on their way to the store: gathered while requests are answered,
 * and written behind, one write at a time. Equal ones become one event with a
 * count, so a flood costs a few events a second, however many requests it has.
 *
 * When writes are slow, the wait is bounded by time. A round of writes takes
 * the events that are there when it begins. It begins no write after
 * `longestRoundMs`, and drops the events that are left. So an event waits for
 * the end of the current round and for its own.
 */
import { AsyncResource } from 'node:async_hooks'
import type { RateLimitEvent } from '../store/event-store.js'
import { shorten } from './shorten.js'
import { timers } from '../runtime/timers.js'
import type { Decision, Subject } from '../guard/decision.js'

/** ms between two writes. */
export const flushIntervalMs = 250

/** ms after which a round begins no further write: an event waits for two rounds at most. */
export const longestRoundMs = 500

/** ms that a reader of events waits for events that are being written. */
export const longestReadWaitMs = 500

/** The most different events between two rounds; more are counted as dropped. */
export const mostPending = 20_000

/** Events in one write, so that a script of Redis is done in about a millisecond. */
export const mostPerWrite = 200

export class EventLog {
  readonly #write: (events: readonly RateLimitEvent[]) => Promise<void>
  readonly #dropped: (count: number) => void
  readonly #now: () => number
  #logged: RateLimitEvent[] = []
  #pending: PendingEvent[] = []
  /** the same, by address, then in the order of their coming */
  #byAddress = new Map<string | undefined, PendingEvent[]>()
  #timer: NodeJS.Timeout | undefined
  // The events belong to many requests: they are written in the context of none.
  readonly #writeRoundUnasked = AsyncResource.bind(async () => await this.#writeRound())
  readonly #flushUnasked = AsyncResource.bind(() => { this.flush().catch(() => {}) })
  /** the round that is under way, or the last one; it never rejects */
  #round: Promise<void> = Promise.resolve()
  /** the round that begins after it; undefined: none was asked for */
  #nextRound: Promise<void> | undefined

  /**
   * @param write    stores events
   * @param dropped  called with the number of requests whose events had no room, or were not written in time
   * @param now      ms, monotonic
   */
  constructor (
    write: (events: readonly RateLimitEvent[]) => Promise<void>,
    dropped: (count: number) => void,
    now = timers.monotonicMs
  ) {
    this.#write = write
    this.#dropped = dropped
    this.#now = now
  }

  /**
   * Adds a decision, if it was a refusal. The event names what was counted or
   * blocked: an IPv6 client changes its address at will, and is one suspect
   * all the same.
   */
  record ({ kind, key, name }: Decision, subject: Subject, atMs: number): void {
    if (kind !== 'limited' && kind !== 'blocked') return
    const { client, method, route } = subject
    const counted = client.address === undefined ? undefined : client.key
    const ip = kind === 'blocked' ? key : counted
    const shown = key === ip ? undefined : shorten(key)
    this.add({ type: kind, ip, key: shown, limit: name, method, route, count: 1, atMs })
  }

  add (event: RateLimitEvent): void {
    const ofAddress = this.#byAddress.get(event.ip)
    const same = ofAddress?.find(pending => isSame(pending, event))
    const isFull = ofAddress !== undefined && ofAddress.length >= mostOfAddress
    if (same !== undefined) same.count += event.count
    else if (isFull && !isSummary(event)) return this.add(summaryOf(event))
    else if (this.#pending.length >= mostPending) this.#dropped(event.count)
    else this.#begin({ ...event }, ofAddress)
    this.#timer ??= timers.setTimeout(this.#flushUnasked, flushIntervalMs).unref()
  }

  /**
   * Adds an event that a flood of others cannot push out: it is in the first write of the next round.
   *
   * @returns resolves when it has been written or dropped
   * @throws what the store threw, as for `flush`
   */
  async log (event: RateLimitEvent): Promise<void> {
    if (this.#logged.length < mostPending) this.#logged.push(event)
    else this.#dropped(event.count)
    await this.flush()
  }

  /**
   * Resolves when all events added so far have been written or dropped.
   *
   * @throws the last error of the store, if it refused some of them
   */
  async flush (): Promise<void> {
    timers.clearTimeout(this.#timer)
    this.#timer = undefined
    const isNew = this.#logged.length + this.#pending.length > 0
    if (isNew) this.#nextRound ??= this.#round.then(this.#writeRoundUnasked)
    await (this.#nextRound ?? this.#round)
  }

  /** For readers: resolves when all events added so far have been written, or after `longestReadWaitMs`. */
  async settle (): Promise<void> {
    const written = this.flush().catch(() => {})
    await new Promise<void>(resolve => {
      const timer = timers.setTimeout(resolve, longestReadWaitMs).unref()
      written.finally(() => {
        timers.clearTimeout(timer)
        resolve()
      })
    })
  }

  async #writeRound (): Promise<void> {
    // The first write holds the logged events, behind as many earlier refusals as fit.
    const room = Math.max(0, mostPerWrite - this.#logged.length)
    const events = [...this.#pending.slice(0, room), ...this.#logged, ...this.#pending.slice(room)]
    const written = this.#writeAll(events)
    this.#logged = []
    this.#pending = []
    this.#byAddress = new Map()
    this.#round = written.catch(() => {})
    this.#nextRound = undefined
    await written
  }

  /** Events that cannot be written are lost; those after them are not. */
  async #writeAll (events: readonly RateLimitEvent[]): Promise<void> {
    const endMs = this.#now() + longestRoundMs
    let failure: unknown
    let written = 0
    while (written < events.length && this.#now() < endMs) {
      const some = events.slice(written, written += mostPerWrite)
      await this.#write(some).catch((error: unknown) => { failure = error })
    }
    if (written < events.length) this.#dropped(requestsIn(events.slice(written)))
    if (failure !== undefined) throw failure
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

function requestsIn (events: readonly RateLimitEvent[]): number {
  return events.reduce((sum, { count }) => sum + count, 0)
}

function summaryOf ({ type, ip, count, atMs }: RateLimitEvent): RateLimitEvent {
  return { type, ip, count, atMs }
}

function isSummary ({ key, limit, method, route }: RateLimitEvent): boolean {
  return key === undefined && limit === undefined && method === undefined && route === undefined
}

function isSame (a: RateLimitEvent, b: RateLimitEvent): boolean {
  return a.type === b.type && a.key === b.key && a.limit === b.limit && a.method === b.method && a.route === b.route
}
