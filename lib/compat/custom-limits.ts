/**
 * A store of the user's own, as @fastify/rate-limit takes one: a class that
 * counts. It decides in place of Redis; where it fails, memory does.
 */
import { inThisContext } from '../runtime/async-context.js'
import { attempt } from '../runtime/awaitable.js'
import { ArgumentError, show, StoreUnavailableError } from '../errors.js'
import { suffixOf } from '../rules/limit-name.js'
import type { Check } from '../rules/rate-limit.js'
import { timers } from '../runtime/timers.js'
import type { MemoryLimits } from '../store/memory/limits.js'
import { type Answer, type Hit, isFallback, type LimitStore, type Outcome } from '../store/limit-store.js'
import type { CustomStore, CustomStoreCallback } from '../settings/custom-store.js'

export interface CustomLimitsParts {
  readonly store: CustomStore
  /** follows each key */
  readonly suffix: string
  readonly memory: MemoryLimits
  /** ms */
  readonly commandTimeout: number
}

/** One route's part of such a store. Its hits have one check. */
export class CustomLimits implements Pick<LimitStore, 'take' | 'peek'> {
  readonly #parts: CustomLimitsParts

  constructor (parts: CustomLimitsParts) {
    this.#parts = parts
  }

  /** @returns the answer of a store that calls back at once */
  take (hit: Hit): Answer | undefined {
    let answer: Answer | undefined
    let isLater = false
    this.#ask('incr', hit.key, checkOf(hit.checks), inThisContext(told => {
      answer = this.#answerTo(hit, told)
      if (isLater) hit.answered(answer)
    }))
    isLater = true
    return answer
  }

  /**
   * @throws ArgumentError  when the store has no `read`
   * @throws Error  when the store does
   */
  async peek (client: string, checks: readonly Check[]): Promise<readonly Outcome[]> {
    if (typeof this.#parts.store.read !== 'function') {
      const rule = 'left out, unless the store has a method read'
      throw new ArgumentError({ option: '{ increment: false }', rule, received: 'a store without read' })
    }
    return await new Promise((resolve, reject) => {
      this.#ask('read', client, checkOf(checks), told => told instanceof Error ? reject(told) : resolve([told]))
    })
  }

  #answerTo (hit: Hit, told: Outcome | Error): Answer {
    if (!(told instanceof Error)) return { kind: 'taken', source: 'custom', accepted: told.fits, outcomes: [told] }
    if (isFallback(hit.onOutage)) return this.#parts.memory.take(hit)
    return { kind: 'unanswered', failure: told, sentIn: undefined }
  }

  /** @param answer  called once, in time, whatever the store does */
  #ask (method: 'incr' | 'read', client: string, check: Check, answer: (told: Outcome | Error) => void): void {
    const { store, suffix, commandTimeout } = this.#parts
    const { name, limit } = check
    let isAnswered = false
    let timer: NodeJS.Timeout | undefined
    const settle = (told: Outcome | Error) => {
      if (isAnswered) return
      isAnswered = true
      timers.clearTimeout(timer)
      answer(told)
    }
    const fail = (error: unknown) => {
      if (error instanceof Error) settle(error)
      else settle(new StoreUnavailableError('reply', `the store failed with ${show(error)}`))
    }
    // A store without `read` is refused before.
    attempt(() => store[method]!(`${client}${suffix}${suffixOf(name)}`, (error, result) => {
      if (error) return fail(error)
      let told: Outcome
      try {
        told = readAnswer(result, check)
      } catch (thrown) {
        return fail(thrown)
      }
      settle(told)
    }, limit.windowMs, limit.max), fail)
    const late = () => {
      settle(new StoreUnavailableError('timeout', `the store did not answer within ${commandTimeout} ms`))
    }
    if (!isAnswered) timer = timers.setTimeout(late, commandTimeout)
  }
}

/** Options that would add a second check are refused at start. */
function checkOf (checks: readonly Check[]): Check {
  return checks[0]!
}

/** @throws StoreUnavailableError  if the answer has no numbers; and any error that reading it throws */
function readAnswer (result: Parameters<CustomStoreCallback>[1], check: Check): Outcome {
  const { current, ttl } = result ?? {}
  if (!isNumber(current) || !isNumber(ttl)) {
    throw new StoreUnavailableError('reply', 'the store answered without numbers `current` and `ttl`')
  }
  const { max } = check.limit
  const leftMs = Math.max(0, ttl)
  const fits = current <= max
  // The store's own window is shown, though it may be longer than that of the limit.
  // Such a class also counts the hits it refuses.
  const refusals = Math.max(0, current - max)
  const remaining = Math.max(0, max - current)
  const explanation = { remaining, resetMs: leftMs, retryAfterMs: fits ? 0 : leftMs, refusals }
  return { check, fits, explanation }
}

function isNumber (value: unknown): value is number {
  return Number.isFinite(value)
}
