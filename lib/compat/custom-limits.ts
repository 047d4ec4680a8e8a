/**
 * Counts with a class of the user, as @fastify/rate-limit does, in place of Redis. If the class fails, memory counts,
 * or whatever `onOutage` chooses.
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
  /** appended to each key */
  readonly suffix: string
  readonly memory: MemoryLimits
  /** ms */
  readonly commandTimeout: number
}

/** The store of one route or limiter. Its hits have one check. */
export class CustomLimits implements Pick<LimitStore, 'take' | 'peek'> {
  readonly #parts: CustomLimitsParts

  constructor (parts: CustomLimitsParts) {
    this.#parts = parts
  }

  /** @returns the answer, if the class calls back at once; undefined: it comes later */
  take (hit: Hit): Answer | undefined {
    let answer: Answer | undefined
    let isLater = false
    this.#ask('incr', hit.clientKey, checkOf(hit.checks), inThisContext(result => {
      answer = this.#answerTo(hit, result)
      if (isLater) hit.answered(answer)
    }))
    isLater = true
    return answer
  }

  /**
   * @throws ArgumentError  if the class has no `read`
   * @throws any error of the class
   */
  async peek (client: string, checks: readonly Check[]): Promise<readonly Outcome[]> {
    if (typeof this.#parts.store.read !== 'function') {
      const rule = 'left out, unless the store has a method read'
      throw new ArgumentError({ option: '{ increment: false }', rule, received: 'a store without read' })
    }
    return await new Promise((resolve, reject) => {
      this.#ask('read', client, checkOf(checks), result => {
        if (result instanceof Error) reject(result)
        else resolve([result])
      })
    })
  }

  #answerTo (hit: Hit, result: Outcome | Error): Answer {
    if (result instanceof Error) {
      if (isFallback(hit.onOutage)) return this.#parts.memory.take(hit)
      return { kind: 'unanswered', failure: result, sentIn: undefined }
    }
    return { kind: 'taken', source: 'custom', accepted: result.fits, outcomes: [result] }
  }

  /** @param answer  called once, within `commandTimeout`, whatever the class does */
  #ask (method: 'incr' | 'read', client: string, check: Check, answer: (result: Outcome | Error) => void): void {
    const { store, suffix, commandTimeout } = this.#parts
    const { name, limit } = check
    let isAnswered = false
    let timer: NodeJS.Timeout | undefined
    const settle = (result: Outcome | Error) => {
      if (isAnswered) return
      isAnswered = true
      timers.clearTimeout(timer)
      answer(result)
    }
    const fail = (error: unknown) => {
      if (error instanceof Error) settle(error)
      else settle(new StoreUnavailableError('reply', `the store failed with ${show(error)}`))
    }
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- `peek` refuses a store without `read`
    attempt(() => store[method]!(`${client}${suffix}${suffixOf(name)}`, (error, counted) => {
      if (error) return fail(error)
      let outcome: Outcome
      try {
        outcome = readCount(counted, check)
      } catch (thrown) {
        return fail(thrown)
      }
      settle(outcome)
    }, limit.windowMs, limit.max), fail)
    const late = () => {
      settle(new StoreUnavailableError('timeout', `the store did not answer within ${commandTimeout} ms`))
    }
    if (!isAnswered) timer = timers.setTimeout(late, commandTimeout)
  }
}

function checkOf (checks: readonly Check[]): Check {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- the start fails for `limits` beside `store`
  return checks[0]!
}

/**
 * @throws StoreUnavailableError  if the answer has no numbers
 * @throws any error that reading it throws
 */
function readCount (counted: Parameters<CustomStoreCallback>[1], check: Check): Outcome {
  const { current, ttl } = counted ?? {}
  if (!isNumber(current) || !isNumber(ttl)) {
    throw new StoreUnavailableError('reply', 'the store answered without numbers `current` and `ttl`')
  }
  const { max } = check.limit
  const leftMs = Math.max(0, ttl)
  const fits = current <= max
  // The answer shows the window of the class, which may be longer than that of the limit. Such a class also counts hits
  // over the limit.
  const refusals = Math.max(0, current - max)
  const remaining = Math.max(0, max - current)
  const explanation = { remaining, resetMs: leftMs, retryAfterMs: fits ? 0 : leftMs, refusals }
  return { check, fits, explanation }
}

function isNumber (value: unknown): value is number {
  return Number.isFinite(value)
}
