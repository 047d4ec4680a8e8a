/**
 * A store of the user's own, as @fastify/rate-limit takes one: a class that
 * counts. It decides in place of Redis; where it fails, memory does.
 */
import { inThisContext } from '../runtime/async-context.js'
import { attempt } from '../runtime/awaitable.js'
import { ArgumentError, show, StoreUnavailableError } from '../errors.js'
import { windowOf } from '../rules/fixed-window.js'
import { suffixOf } from '../rules/limit-name.js'
import type { Limit } from '../rules/rate-limit.js'
import { timers } from '../runtime/timers.js'
import type { TakeCallback } from '../outage/limits.js'
import type { MemoryLimits } from '../store/memory/limits.js'
import type { Hit, NamedCheck, Peeked, Taken } from '../store/limit-store.js'
import type { CustomStore, CustomStoreCallback } from '../settings/custom-store.js'

export interface CustomCounterParts {
  readonly store: CustomStore
  /** follows each key */
  readonly suffix: string
  readonly memory: MemoryLimits
  /** ms */
  readonly commandTimeout: number
  readonly now: () => number
}

/** One route's part of such a store. */
export class CustomCounter {
  readonly #parts: CustomCounterParts

  constructor (parts: CustomCounterParts) {
    this.#parts = parts
  }

  /** See RequestLimits; a hit has one limit here. */
  takeOne (hit: Hit, fallback: 'memory' | 'share' | undefined, done: TakeCallback): void {
    this.#ask('incr', hit.key, hit.checks[0]!, inThisContext((error, taken) => {
      if (taken !== undefined) done(undefined, taken, 'custom')
      else if (fallback === undefined) done(error, undefined, 'custom')
      else done(undefined, this.#parts.memory.takeOne(hit), 'memory')
    }))
  }

  /**
   * @throws ArgumentError  when the store has no `read`
   * @throws Error  when the store does
   */
  async peek (key: string, [check]: readonly NamedCheck[]): Promise<Peeked> {
    if (typeof this.#parts.store.read !== 'function') {
      const rule = 'left out, unless the store has a method read'
      throw new ArgumentError({ option: '{ increment: false }', rule, received: 'a store without read' })
    }
    return await new Promise((resolve, reject) => {
      this.#ask('read', key, check!, (error, taken) => {
        if (error !== undefined) reject(error)
        else resolve({ nowMs: taken!.nowMs, states: taken!.outcomes.map(({ state }) => state) })
      })
    })
  }

  /** @param answer  called once, in time, whatever the store does */
  #ask (
    method: 'incr' | 'read',
    key: string,
    { name, limit }: NamedCheck,
    answer: (error: Error | undefined, taken: Taken | undefined) => void
  ): void {
    const { store, suffix, commandTimeout, now } = this.#parts
    let isAnswered = false
    let timer: NodeJS.Timeout | undefined
    const settle = (error: Error | undefined, taken?: Taken) => {
      if (isAnswered) return
      isAnswered = true
      timers.clearTimeout(timer)
      answer(error, taken)
    }
    const fail = (error: unknown) => {
      if (error instanceof Error) settle(error)
      else settle(new StoreUnavailableError('reply', `the store failed with ${show(error)}`))
    }
    const expire = () => {
      settle(new StoreUnavailableError('timeout', `the store did not answer within ${commandTimeout} ms`))
    }
    attempt(() => store[method]!(`${key}${suffix}${suffixOf(name)}`, (error, result) => {
      if (error) return fail(error)
      let taken: Taken
      try {
        taken = readAnswer(result, limit, now())
      } catch (thrown) {
        return fail(thrown)
      }
      settle(undefined, taken)
    }, limit.windowMs, limit.max), fail)
    if (!isAnswered) timer = timers.setTimeout(expire, commandTimeout)
  }
}

/** @throws StoreUnavailableError  if the answer has no numbers; and any error that reading it throws */
function readAnswer (result: Parameters<CustomStoreCallback>[1], { max }: Limit, nowMs: number): Taken {
  const { current, ttl } = result ?? {}
  if (!isNumber(current) || !isNumber(ttl)) {
    throw new StoreUnavailableError('reply', 'the store answered without numbers `current` and `ttl`')
  }
  const leftMs = Math.max(0, ttl)
  const fits = current <= max
  // The store's own window is shown, though it may be longer than that of the limit.
  // Such a class also counts the hits it refuses.
  const refused = Math.max(0, current - max)
  const explanation = {
    remaining: Math.max(0, max - current), resetMs: leftMs, retryAfterMs: fits ? 0 : leftMs, refusals: refused
  }
  // A window that ends now is over, and would say nothing about its refusals.
  const state = windowOf(current - refused, refused, nowMs + Math.max(1, leftMs))
  return { accepted: fits, nowMs, outcomes: [{ fits, state }], explanations: [explanation] }
}

function isNumber (value: unknown): value is number {
  return Number.isFinite(value)
}
