/** Calls functions of the user, which may throw, reject, answer anything, or never answer. */
import type { FastifyRequest } from 'fastify'
import { isThenable, type Awaitable } from '../runtime/awaitable.js'
import { LimitError } from '../errors.js'
import { timers } from '../runtime/timers.js'

/** Time that a request waits for an answer. */
export const longestAnswerMs = 5000

/**
 * Calls a function of the options, and waits for its answer.
 *
 * @param option  the name of the option
 * @throws LimitError  if the function does not answer in time, or fails without an error
 * @throws whatever the function throws
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
    // Fastify lets a request pass if its hook fails with a falsy error.
    throw thrown || new LimitError(`${option} failed without an error`)
  }
}

/**
 * The error for the client of a request that cannot be limited. It does not show how the application is configured: its
 * cause does, which Fastify logs. Errors that the application's own functions throw stay unchanged.
 *
 * @param limit  the name of the limit
 */
export function withoutDetails (
  thrown: unknown, limit: string, { method, routeOptions: { url } }: FastifyRequest
): unknown {
  if (!(thrown instanceof LimitError) || thrown.cause !== undefined) return thrown
  const place = url === undefined ? `a ${method} without a route` : `${method} ${url}`
  const cause = new LimitError(`${thrown.message}, in the limit ${limit} at ${place}`)
  return new LimitError('The request cannot be rate limited', cause)
}

/** Replaces a falsy error, since Fastify lets a request pass if its hook fails with one, as `throw undefined` does. */
export function asError (thrown: unknown): Error {
  return (thrown || new Error('a function of the rate limit failed without an error')) as Error
}
