/**
 * What Redis has refused is refused here, without a round trip, until it may
 * pass again: a client that floods the service costs Redis two questions a
 * second. Of a refused hit, the counters of all its limits are remembered as
 * Redis reported them, and the rules themselves decide again. So a cheaper hit,
 * or one after its limit was raised, passes where a dearer one is refused, and
 * the answer lists each limit, as that of Redis does. A hit with a counter that
 * is not remembered asks Redis. The clock is monotonic, and starts from that of
 * Redis.
 *
 * That a key was reset, a client unblocked, or a limit raised elsewhere is
 * known as soon as Redis is asked again: within `askAgainMs` on every instance.
 *
 * A fixed-window counts refusals; those of this cache are added up and written
 * behind. Where each refusal changes the window, the counter is not remembered,
 * so that Redis is asked.
 */
import { AsyncResource } from 'node:async_hooks'
import type { Keys } from '../store/keys.js'
import { ruleOf } from '../rules/algorithms.js'
import { type Check, takeAll } from '../rules/rate-limit.js'
import type { LimitState } from '../rules/rule.js'
import { type Hit, outcomeOf, type Owner, type Refusals, type Taken, type TakenOutside } from '../store/limit-store.js'
import { timers } from '../runtime/timers.js'

/** ms after which a hit at a refused key is sent to Redis again. */
export const askAgainMs = 500

/** ms between two writes of what was counted here. */
export const writeIntervalMs = 250

export interface RefusalCacheOptions {
  readonly keys: Keys
  /** the most counters that are kept; the one refused longest ago by Redis goes first */
  readonly capacity: number
  /** ms, monotonic */
  readonly now: () => number
  /** adds refusals to the counters; what it cannot write is lost */
  readonly write: (refusals: readonly Refusals[]) => Promise<void>
}

/** A counter of a hit that Redis has refused. */
interface Remembered {
  readonly windowMs: number
  /** as Redis told it, and what was refused here on top; undefined: unused */
  state: LimitState | undefined
  /** Redis' clock when it refused, ms since 1970 */
  readonly refusedAtMs: number
  /** this process's, ms */
  readonly learntAtMs: number
  askAgainAtMs: number
}

/** A counter that is remembered, and the check that asks for it. */
interface AskedCounter {
  readonly check: Check
  readonly counter: Remembered
  readonly state: LimitState | undefined
}

export class RefusalCache {
  readonly #options: RefusalCacheOptions
  readonly #counters = new Map<string, Remembered>()
  #unwritten = new Map<Remembered, Unwritten>()
  #timer: NodeJS.Timeout | undefined
  readonly #flushUnasked = AsyncResource.bind(() => { this.flush().catch(() => {}) })
  #writing: Promise<void> = Promise.resolve()

  constructor (options: RefusalCacheOptions) {
    this.#options = options
  }

  /** How many counters are remembered. */
  get size (): number {
    return this.#counters.size
  }

  /**
   * Refuses a hit, if it is certain that Redis would.
   *
   * @param canAsk  whether Redis can be asked instead; where it cannot, what it
   *   refused stays refused, so that its outage is nobody's second quota
   * @returns undefined: ask the store
   */
  refuse (hit: Owner & Pick<Hit, 'checks'>, canAsk: boolean): TakenOutside | undefined {
    const localMs = this.#options.now()
    const counters: AskedCounter[] = []
    let nowMs = 0
    let isDue = false
    for (const check of hit.checks) {
      const counter = this.#counters.get(this.#options.keys.counter(hit, check))
      if (counter === undefined || counter.windowMs !== check.limit.windowMs) return undefined
      counters.push({ check, counter, state: counter.state })
      nowMs = Math.max(nowMs, counter.refusedAtMs + Math.floor(localMs - counter.learntAtMs))
      isDue ||= localMs >= counter.askAgainAtMs
    }
    const { accepted, judged } = takeAll(counters, nowMs)
    if (accepted) return undefined
    // A refusal that begins a window is for Redis to count: it says when the window ends.
    const begins = judged.some(({ of: { check, state: known }, outcome: { left, state } }) => {
      return left === 'refusal' && (known === undefined || !ruleOf(check.limit).isSameWindow(known, state, 0))
    })
    if (begins) return undefined
    if (canAsk && isDue) {
      // One hit asks; those that come while it is on its way need not.
      for (const { counter } of counters) counter.askAgainAtMs = localMs + askAgainMs
      return undefined
    }
    const outcomes = judged.map(({ of: { check, counter }, outcome }) => {
      if (outcome.left === 'refusal') this.#count(counter, outcome.state, hit.key, check)
      return outcomeOf(check, outcome, nowMs)
    })
    return { kind: 'taken', source: 'local', accepted, outcomes }
  }

  /** Takes note of what Redis has decided about a hit. */
  learn (owner: Owner, { accepted, outcomes, nowMs }: Taken): void {
    if (accepted && this.#counters.size === 0) return
    const { keys, capacity, now } = this.#options
    for (const { check, state } of outcomes) {
      const { limit, cost } = check
      // A hit of cost 0 always passes, so it says nothing about hits that cost something.
      if (accepted && cost === 0) continue
      const key = keys.counter(owner, check)
      this.#counters.delete(key)
      if (accepted || limit.excess !== 'none') continue
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- it is full
      if (this.#counters.size >= capacity) this.#counters.delete(this.#counters.keys().next().value!)
      const localMs = now()
      this.#counters.set(key, {
        windowMs: limit.windowMs,
        state: ruleOf(limit).isEmpty(state) ? undefined : state,
        refusedAtMs: nowMs,
        learntAtMs: localMs,
        askAgainAtMs: localMs + askAgainMs
      })
    }
  }

  /** Lets Redis decide again about a client. */
  forget (owner: Owner, checks: readonly Check[]): void {
    if (this.#counters.size === 0) return
    for (const check of checks) this.#counters.delete(this.#options.keys.counter(owner, check))
  }

  /** Writes the refusals counted so far. One write at a time: a slow Redis never has two of them to answer. */
  async flush (): Promise<void> {
    timers.clearTimeout(this.#timer)
    this.#timer = undefined
    const written = this.#writing.then(async () => await this.#writeAll())
    this.#writing = written.catch(() => {})
    await written
  }

  async #writeAll (): Promise<void> {
    const unwritten = [...this.#unwritten.values()]
    this.#unwritten = new Map()
    for (let i = 0; i < unwritten.length; i += mostPerWrite) {
      await this.#options.write(unwritten.slice(i, i + mostPerWrite))
    }
  }

  #count (counter: Remembered, state: LimitState, client: string, { name, limit }: Check): void {
    counter.state = state
    const unwritten = this.#unwritten.get(counter)
    if (unwritten !== undefined) unwritten.count++
    // Redis' answers replace what is remembered, so during a slow write there may be more of these than keys.
    else if (this.#unwritten.size < this.#options.capacity) {
      this.#unwritten.set(counter, { client, name, limit, window: state, count: 1 })
    }
    this.#timer ??= timers.setTimeout(this.#flushUnasked, writeIntervalMs).unref()
  }
}

type Unwritten = { -readonly [name in keyof Refusals]: Refusals[name] }

/** Counters in one script call. */
const mostPerWrite = 200
