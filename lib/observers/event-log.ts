/**
 * Records refusals as events in the store. It collects them while requests are answered and writes them later, one
 * write at a time. Equal refusals become one event with a count, so a flood costs a few events a second.
 *
 * Slow writes make no event wait for long. A round writes the events that were there when it began. After
 * `longestRoundMs` it begins no further write and drops the events that are left. So an event waits for the rest of
 * the current round and for its own round at most.
 */
import { AsyncResource } from 'node:async_hooks'
import type { RateLimitEvent } from '../store/event-store.js'
import { shorten } from './shorten.js'
import { timers } from '../runtime/timers.js'
import type { Decision, Subject } from '../guard/decision.js'

/** Time from the first event to the round that writes it. */
export const flushIntervalMs = 250

/** Time after which a round begins no further write. */
export const longestRoundMs = 500

/** Time that a reader of events waits for events that are being written. */
export const longestReadWaitMs = 500

/** Different events that may wait for a round; further ones are counted as dropped. */
export const mostPending = 20_000

/** Events in one write, so that the script occupies Redis for about a millisecond. */
export const mostPerWrite = 200

export class EventLog {
  readonly #write: (events: readonly RateLimitEvent[]) => Promise<void>
  readonly #dropped: (count: number) => void
  readonly #now: () => number
  #logged: RateLimitEvent[] = []
  #pending: PendingEvent[] = []
  /** the pending events by address, in the order in which they came */
  #byAddress = new Map<string | undefined, PendingEvent[]>()
  #timer: NodeJS.Timeout | undefined
  // Bound here: the events belong to many requests, so they are written in the asynchronous context of none.
  readonly #writeRoundDetached = AsyncResource.bind(async () => await this.#writeRound())
  readonly #flushDetached = AsyncResource.bind(() => { this.flush().catch(() => {}) })
  /** the current round, or the last one; it never rejects */
  #round: Promise<void> = Promise.resolve()
  /** the round after it; undefined: nobody has asked for one */
  #nextRound: Promise<void> | undefined

  /**
   * @param write    stores events
   * @param dropped  called with the number of requests whose events found no room or were not written in time
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
   * Adds an event if the decision is a refusal. As `ip` the event has the key that was counted, or the block: an IPv6
   * client can use any address of its /64, and must still be one suspect.
   *
   * @param wall  ms since 1970; asked only for an event that is new
   */
  record ({ kind, key, name }: Decision, subject: Subject, wall: () => number): void {
    if (kind !== 'limited' && kind !== 'blocked') return
    const { client, method, route } = subject
    const counted = client.address === undefined ? undefined : client.key
    const ip = kind === 'blocked' ? key : counted
    const refused = { type: kind, ip, key: key === ip ? undefined : shorten(key), limit: name, method, route, count: 1 }
    const same = this.#pendingLike(refused)
    if (same === undefined) this.add({ ...refused, atMs: wall() })
    else same.count++
  }

  add (event: RateLimitEvent): void {
    const ofAddress = this.#byAddress.get(event.ip)
    const same = this.#pendingLike(event)
    const isFull = ofAddress !== undefined && ofAddress.length >= mostOfAddress
    if (same !== undefined) same.count += event.count
    else if (isFull && !isSummary(event)) return this.add(summaryOf(event))
    else if (this.#pending.length >= mostPending) this.#dropped(event.count)
    else this.#begin({ ...event }, ofAddress)
    this.#timer ??= timers.setTimeout(this.#flushDetached, flushIntervalMs).unref()
  }

  /**
   * Adds an event to the first write of the next round, so that a flood of refusals cannot push it out. Resolves when
   * the event has been written or dropped.
   *
   * @throws the error of the store, as `flush` does
   */
  async log (event: RateLimitEvent): Promise<void> {
    if (this.#logged.length < mostPending) this.#logged.push(event)
    else this.#dropped(event.count)
    await this.flush()
  }

  /**
   * Writes all events added so far. Resolves when they have been written or dropped.
   *
   * @throws the last error of the store, if it rejected some of them
   */
  async flush (): Promise<void> {
    timers.clearTimeout(this.#timer)
    this.#timer = undefined
    const isNew = this.#logged.length + this.#pending.length > 0
    if (isNew) this.#nextRound ??= this.#round.then(this.#writeRoundDetached)
    await (this.#nextRound ?? this.#round)
  }

  /** For readers: writes all events added so far, and waits for that for `longestReadWaitMs` at most. */
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
    // The first write has all logged events, after as many earlier refusals as fit.
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

  /** A failed write loses its events; the later writes still run. */
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

  #pendingLike (event: Omit<RateLimitEvent, 'atMs'>): PendingEvent | undefined {
    const ofAddress = this.#byAddress.get(event.ip)
    if (ofAddress !== undefined) for (const pending of ofAddress) if (isSame(pending, event)) return pending
    return undefined
  }

  #begin (event: PendingEvent, ofAddress: PendingEvent[] | undefined): void {
    this.#pending.push(event)
    if (ofAddress === undefined) this.#byAddress.set(event.ip, [event])
    else ofAddress.push(event)
  }
}

type PendingEvent = { -readonly [name in keyof RateLimitEvent]: RateLimitEvent[name] }

/**
 * Different events of one address that may wait for a round. A client may send another key each time; further events
 * of its address are summed up in one event without key, limit and route, so that the list stays short to search.
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

function isSame (a: RateLimitEvent, b: Omit<RateLimitEvent, 'atMs'>): boolean {
  return a.type === b.type && a.key === b.key && a.limit === b.limit && a.method === b.method && a.route === b.route
}
