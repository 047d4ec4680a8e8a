/**
 * What Redis has refused is refused here, without a round trip, until it may
 * pass again: who floods the service asks Redis twice a second, however many
 * requests that are. By the state that Redis told and the rules themselves, so
 * that a cheaper hit, or a limit that was raised, is not refused for what a
 * dearer one would have been. The clock is monotonic, and starts from that of
 * Redis.
 *
 * That a key was reset, a client unblocked, or a limit raised elsewhere is
 * known as soon as Redis is asked again: within `askAgainMs` on every instance.
 *
 * A fixed-window counts refusals; those of this cache are added up and written
 * behind. One that each refusal makes longer is not kept here.
 */
import { AsyncResource } from 'node:async_hooks'
import type { Keys } from '../store/keys.js'
import { explain, explainHit, isUnused, type LimitState, refusalsOf, take } from '../rules/rate-limit.js'
import type { Counted } from '../rules/verdict.js'
import type { NamedCheck, Refusals, Taken } from '../store/store.js'
import { timers } from '../timers.js'

/** ms after which a hit at a refused key is sent to Redis again. */
export const askAgainMs = 500

/** ms between two writes of what was counted here. */
export const writeIntervalMs = 250

export interface DenyCacheOptions {
  readonly keys: Keys
  /** the most keys that are kept; the one refused longest ago by Redis goes first */
  readonly capacity: number
  /** ms, monotonic */
  readonly now: () => number
  /** adds refusals to the counters; what it cannot write is lost */
  readonly write: (refusals: readonly Refusals[]) => Promise<void>
}

/** A key that Redis has refused. */
interface Denial {
  readonly windowMs: number
  /** as Redis told it; `used` goes on here */
  state: LimitState
  /** Redis' clock when it refused, ms since 1970 */
  readonly refusedAtMs: number
  /** this process's, ms */
  readonly learntAtMs: number
  /** from then on the hit that was refused would pass */
  readonly endsAtMs: number
  askAgainAtMs: number
}

export class DenyCache {
  readonly #options: DenyCacheOptions
  readonly #denials = new Map<string, Denial>()
  #unwritten = new Map<Denial, Unwritten>()
  #timer: NodeJS.Timeout | undefined
  readonly #flushUnasked = AsyncResource.bind(() => { this.flush().catch(() => {}) })
  #writing: Promise<void> = Promise.resolve()

  constructor (options: DenyCacheOptions) {
    this.#options = options
  }

  /** How many keys are refused here, or were until their windows ended. */
  get size (): number {
    return this.#denials.size
  }

  /**
   * Refuses a hit, if it is certain that Redis would.
   *
   * @param canAsk  whether Redis can be asked instead; where it cannot, what it
   *   refused stays refused, so that its outage is nobody's second quota
   * @returns undefined: ask the store
   */
  refuse (client: string, checks: readonly NamedCheck[], canAsk: boolean): Counted | undefined {
    if (this.#denials.size === 0) return undefined
    let refused: Counted | undefined
    for (const check of checks) {
      const found = this.#refuseOne(client, check, canAsk)
      if (found !== undefined && found.explanation.retryAfterMs > (refused?.explanation.retryAfterMs ?? -1)) refused = found
    }
    return refused
  }

  #refuseOne (client: string, { name, limit, cost, shadow }: NamedCheck, canAsk: boolean): Counted | undefined {
    if (shadow === true) return undefined
    const denial = this.#denials.get(this.#options.keys.limit(limit.algorithm, name, client))
    if (denial === undefined || denial.windowMs !== limit.windowMs) return undefined
    const localMs = this.#options.now()
    if (localMs >= denial.endsAtMs) return undefined
    const nowMs = denial.refusedAtMs + Math.floor(localMs - denial.learntAtMs)
    const { fits, state, changed } = take(denial.state, nowMs, limit, cost)
    if (fits) return undefined
    if (canAsk && localMs >= denial.askAgainAtMs) {
      // One hit asks; those that come while it is on its way need not.
      denial.askAgainAtMs = localMs + askAgainMs
      return undefined
    }
    if (changed) this.#count(denial, state, client, name, limit)
    return { kind: 'limited', source: 'local', key: client, name, limit, explanation: explainHit(explain(state, nowMs, limit, cost), limit, cost), refusals: refusalsOf(state, limit), others: [] }
  }

  /** Takes note of what Redis has decided about a hit. */
  learn (client: string, checks: readonly NamedCheck[], { accepted, outcomes, nowMs }: Taken): void {
    if (accepted && this.#denials.size === 0) return
    checks.forEach((check, i) => this.#learnOne(client, check, outcomes[i]!, nowMs))
  }

  #learnOne (client: string, { name, limit, cost, shadow }: NamedCheck, { fits, state }: Taken['outcomes'][number], nowMs: number): void {
    // It passes whatever the counter says, so that it does not show that others would.
    if (cost === 0) return
    const key = this.#options.keys.limit(limit.algorithm, name, client)
    this.#denials.delete(key)
    if (fits || shadow === true || limit.excess !== 'none') return
    // A hit that is dearer than the whole quota is refused by a counter that is not even there.
    if (isUnused(state, limit)) return
    if (this.#denials.size >= this.#options.capacity) this.#denials.delete(this.#denials.keys().next().value!)
    const localMs = this.#options.now()
    const { retryAfterMs } = explain(state, nowMs, limit, cost)
    this.#denials.set(key, {
      windowMs: limit.windowMs, state, refusedAtMs: nowMs, learntAtMs: localMs, endsAtMs: localMs + retryAfterMs, askAgainAtMs: localMs + askAgainMs
    })
  }

  /** Lets Redis decide again about a key. */
  forget (client: string, checks: readonly NamedCheck[]): void {
    if (this.#denials.size === 0) return
    for (const { name, limit } of checks) this.#denials.delete(this.#options.keys.limit(limit.algorithm, name, client))
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
    for (let i = 0; i < unwritten.length; i += mostPerWrite) await this.#options.write(unwritten.slice(i, i + mostPerWrite))
  }

  #count (denial: Denial, state: LimitState, client: string, name: string, limit: NamedCheck['limit']): void {
    denial.state = state
    const unwritten = this.#unwritten.get(denial)
    if (unwritten !== undefined) unwritten.count++
    // Each answer of Redis makes a new denial of its key, so during a slow write there may be more denials than keys.
    else if (this.#unwritten.size < this.#options.capacity) {
      this.#unwritten.set(denial, { client, name, limit, windowEndsAtMs: state.atMs, count: 1 })
    }
    this.#timer ??= timers.setTimeout(this.#flushUnasked, writeIntervalMs).unref()
  }
}

type Unwritten = { -readonly [name in keyof Refusals]: Refusals[name] }

/** Counters in one script call. */
const mostPerWrite = 200
