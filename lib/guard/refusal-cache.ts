/**
 * The refusal cache: it repeats a refusal of Redis without a round trip, until the client may pass again. So a client
 * that floods the service costs Redis two questions a second.
 *
 * When Redis refuses a hit, the cache keeps the counters of all limits of the hit, as Redis reported them. Later hits
 * are decided by the rules themselves on these counters, by a monotonic clock that starts from the time of Redis. So
 * the cache does not refuse a cheaper hit that fits, nor a hit after its limit was raised, and its answer lists each
 * limit as Redis would. A hit with a counter that is not in the cache asks Redis.
 *
 * Another instance may reset a key or raise a limit. So once in `askAgainMs`, a hit asks Redis again.
 *
 * A fixed window counts refusals, so the cache adds up its own and writes them later. If each refusal changes the
 * window (`continueExceeding`, `exponentialBackoff`), the counter is not cached, and Redis is asked.
 */
import { AsyncResource } from 'node:async_hooks'
import type { Keys } from '../store/keys.js'
import { ruleOf } from '../rules/algorithms.js'
import { type Check, takeAll } from '../rules/rate-limit.js'
import type { LimitState } from '../rules/rule.js'
import { type Hit, outcomeOf, type Owner, type Refusals, type Taken, type TakenOutside } from '../store/limit-store.js'
import { timers } from '../runtime/timers.js'

/** Time after which a hit of a refused client is sent to Redis again. */
export const askAgainMs = 500

/** Time from the first refusal that was counted here to the write. */
export const writeIntervalMs = 250

export interface RefusalCacheOptions {
  readonly keys: Keys
  /** counters at most; the one that Redis refused longest ago is dropped first */
  readonly capacity: number
  /** ms, monotonic */
  readonly now: () => number
  /** adds refusals to the counters in Redis; refusals that it cannot write are lost */
  readonly write: (refusals: readonly Refusals[]) => Promise<void>
}

/** A counter of a hit that Redis has refused. */
interface Remembered {
  readonly windowMs: number
  /** as Redis reported it, with the refusals of this cache added; undefined: unused */
  state: LimitState | undefined
  /** the time of Redis when it refused, ms since 1970 */
  readonly refusedAtMs: number
  /** the same moment by `now`, as are the times below */
  readonly adoptedAtMs: number
  askAgainAtMs: number
}

/** A cached counter, and the check of a hit that needs it. */
interface CheckedCounter {
  readonly check: Check
  readonly counter: Remembered
  readonly state: LimitState | undefined
}

export class RefusalCache {
  readonly #options: RefusalCacheOptions
  readonly #counters = new Map<string, Remembered>()
  #unwritten = new Map<Remembered, Unwritten>()
  #timer: NodeJS.Timeout | undefined
  // Bound here: the refusals belong to many requests, so they are written in the asynchronous context of none.
  readonly #flushDetached = AsyncResource.bind(() => { this.flush().catch(() => {}) })
  #writing: Promise<void> = Promise.resolve()

  constructor (options: RefusalCacheOptions) {
    this.#options = options
  }

  /** How many counters are cached. */
  get size (): number {
    return this.#counters.size
  }

  /**
   * Refuses a hit if Redis would refuse it.
   *
   * @param canAsk  whether Redis can be asked instead. If not, the refusal stands without asking again, so that an
   *   outage gives no second quota
   * @returns undefined: ask the store
   */
  refuse (hit: Owner & Pick<Hit, 'checks'>, canAsk: boolean): TakenOutside | undefined {
    const localMs = this.#options.now()
    const counters: CheckedCounter[] = []
    let nowMs = 0
    let isDue = false
    for (const check of hit.checks) {
      const counter = this.#counters.get(this.#options.keys.counter(hit, check))
      if (counter === undefined || counter.windowMs !== check.limit.windowMs) return undefined
      counters.push({ check, counter, state: counter.state })
      nowMs = Math.max(nowMs, counter.refusedAtMs + Math.floor(localMs - counter.adoptedAtMs))
      isDue ||= localMs >= counter.askAgainAtMs
    }
    const { accepted, judged } = takeAll(counters, nowMs)
    if (accepted) return undefined
    // Redis must count a refusal that begins a window, since Redis decides when the window ends.
    const begins = judged.some(({ of: { check, state: known }, outcome: { left, state } }) => {
      return left === 'refusal' && (known === undefined || !ruleOf(check.limit).isSameWindow(known, state, 0))
    })
    if (begins) return undefined
    if (canAsk && isDue) {
      // This hit asks Redis. Hits that come before its answer need not ask as well.
      for (const { counter } of counters) counter.askAgainAtMs = localMs + askAgainMs
      return undefined
    }
    const outcomes = judged.map(({ of: { check, counter }, outcome }) => {
      if (outcome.left === 'refusal') this.#count(counter, outcome.state, hit.clientKey, check)
      return outcomeOf(check, outcome, nowMs)
    })
    return { kind: 'taken', source: 'local', accepted, outcomes }
  }

  /** Adopts the counters with which Redis has decided on a hit, or drops them if it accepted the hit. */
  adopt (owner: Owner, { accepted, outcomes, nowMs }: Taken): void {
    if (accepted && this.#counters.size === 0) return
    const { keys, capacity, now } = this.#options
    for (const { check, state } of outcomes) {
      const { limit, cost } = check
      // A hit of cost 0 always passes, so it does not show that other hits would.
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
        adoptedAtMs: localMs,
        askAgainAtMs: localMs + askAgainMs
      })
    }
  }

  /** Drops the counters of a client, so that Redis decides on its next hit. */
  forget (owner: Owner, checks: readonly Check[]): void {
    if (this.#counters.size === 0) return
    for (const check of checks) this.#counters.delete(this.#options.keys.counter(owner, check))
  }

  /**
   * Writes the refusals counted so far. Only one write runs at a time, so that writes do not pile up at a slow Redis.
   */
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
    // An answer of Redis replaces a cached counter, so during a slow write more counters may wait than are cached.
    else if (this.#unwritten.size < this.#options.capacity) {
      this.#unwritten.set(counter, { client, name, limit, window: state, count: 1 })
    }
    this.#timer ??= timers.setTimeout(this.#flushDetached, writeIntervalMs).unref()
  }
}

type Unwritten = { -readonly [name in keyof Refusals]: Refusals[name] }

/** Counters in one call of the script. */
const mostPerWrite = 200
