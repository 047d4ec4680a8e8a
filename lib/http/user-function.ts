/** Functions of the user's, which may throw, fail, answer anything, or never. */
import type { FastifyRequest } from 'fastify'
import { isThenable, type Awaitable } from '../runtime/awaitable.js'
import { LimitError } from '../errors.js'
import { timers } from '../runtime/timers.js'

/** ms that a request waits for an answer. */
export const longestAnswerMs = 5000

/**
 * What a function of the options answers.
 *
 * @param option  its name
 * @throws LimitError  when it does not answer in time, or fails without an error; and whatever else it throws
 */
export async function answerOf<T> (option: string, ask: () => Awaitable<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  try {
    const answer = ask()
    if (!isThenable(answer)) return answer as T
    const late = new Promise<never>((resolve, reject) => {
      timer = timers.setTimeout(() => {
        reject(new LimitError(`${option} must answer within ${longestAnswerMs} ms, got nothing`))
      }, longestAnswerMs)
    })
    const answered = await Promise.race([answer as Promise<T>, late])
    timers.clearTimeout(timer)
    return answered
  } catch (thrown) {
    timers.clearTimeout(timer)
    // Fastify lets a request pass whose hook fails with nothing.
    throw thrown || new LimitError(`${option} failed without an error`)
  }
}

/**
 * The error of a request that cannot be limited. Clients are not shown how the
 * application is configured: that is in the cause, which Fastify logs. What
 * the application's own functions throw stays as it is.
 *
 * @param limit  its name
 */
export function hidden (thrown: unknown, limit: string, { method, routeOptions: { url } }: FastifyRequest): unknown {
  if (!(thrown instanceof LimitError) || thrown.cause !== undefined) return thrown
  const place = url === undefined ? `a ${method} without a route` : `${method} ${url}`
  const cause = new LimitError(`${thrown.message}, in the limit ${limit} at ${place}`)
  return new LimitError('The request cannot be rate limited', cause)
}

/** Fastify lets a request pass whose hook fails with nothing, so `throw undefined` must not reach it as it is. */
export function asError (thrown: unknown): Error {
  return (thrown || new Error('a function of the rate limit failed without an error')) as Error
}
