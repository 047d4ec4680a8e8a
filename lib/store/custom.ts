/**
 * A store of the user's own, as @fastify/rate-limit takes one: a class that
 * counts. It decides in place of Redis; where it fails, memory does.
 */
import { onceInThisContext } from '../async-context.js'
import { isThenable } from '../awaitable.js'
import { StoreUnavailableError } from '../errors.js'
import { suffixOf } from '../rules/limit-name.js'
import type { TakeCallback } from './failover.js'
import type { MemoryStore } from './memory.js'
import type { CustomStore, Hit, NamedCheck, Peeked, Taken } from './store.js'

export interface CustomCounterParts {
  readonly store: CustomStore
  /** follows each key */
  readonly suffix: string
  readonly memory: MemoryStore
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

  /** See FailoverStore; a hit has one limit here. */
  takeOne (hit: Hit, fallback: 'memory' | 'share' | undefined, done: TakeCallback): void {
    this.#ask('incr', hit.key, hit.checks[0]!, onceInThisContext((error, taken) => {
      if (taken !== undefined) done(undefined, taken, 'custom')
      else if (fallback === undefined) done(error, undefined, 'custom')
      else done(undefined, this.#parts.memory.takeOne(hit), 'memory')
    }))
  }

  /** @throws Error  when the store does, or has no `read` */
  async peek (key: string, [check]: readonly NamedCheck[]): Promise<Peeked> {
    if (typeof this.#parts.store.read !== 'function') {
      throw new StoreUnavailableError('reply', 'the store has no method read, which { increment: false } needs')
    }
    return await new Promise((resolve, reject) => {
      this.#ask('read', key, check!, (error, taken) => {
        if (error !== undefined) reject(error)
        else resolve({ nowMs: taken!.nowMs, states: taken!.outcomes.map(({ state }) => state) })
      })
    })
  }

  /** @param answer  called once, in time, whatever the store does */
  #ask (method: 'incr' | 'read', key: string, { name, limit }: NamedCheck, answer: (error: Error | undefined, taken: Taken | undefined) => void): void {
    const { store, suffix, commandTimeout, now } = this.#parts
    let isAnswered = false
    let timer: NodeJS.Timeout | undefined
    const settle = (error: Error | undefined, taken?: Taken) => {
      if (isAnswered) return
      isAnswered = true
      clearTimeout(timer)
      answer(error, taken)
    }
    const fail = (error: unknown) => settle(error instanceof Error ? error : new StoreUnavailableError('reply', `the store failed: ${String(error)}`))
    try {
      const asked: unknown = store[method]!(`${key}${suffix}${suffixOf(name)}`, (error, result) => {
        if (error) return fail(error)
        const { current, ttl } = result ?? {}
        if (!Number.isFinite(current) || !Number.isFinite(ttl)) {
          return settle(new StoreUnavailableError('reply', 'the store answered without numbers `current` and `ttl`'))
        }
        const nowMs = now()
        const leftMs = Math.max(0, ttl!)
        const state = { used: current!, previous: 0, atMs: nowMs + leftMs }
        const fits = current! <= limit.max
        // As the store tells it, though its windows be longer than the limit's.
        const explanation = { remaining: Math.max(0, limit.max - current!), resetMs: leftMs, retryAfterMs: fits ? 0 : leftMs }
        settle(undefined, { accepted: fits, nowMs, outcomes: [{ fits, state }], explanations: [explanation] })
      }, limit.windowMs, limit.max)
      if (isThenable(asked)) asked.then(undefined, fail)
    } catch (error) {
      fail(error)
    }
    if (!isAnswered) timer = setTimeout(() => settle(new StoreUnavailableError('timeout', `the store did not answer within ${commandTimeout} ms`)), commandTimeout)
  }
}
