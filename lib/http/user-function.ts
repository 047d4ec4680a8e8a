/** Functions of the user's, which may throw, fail, answer anything, or never. */
import { isThenable, type Awaitable } from '../awaitable.js'
import { LimitError } from '../errors.js'
import { timers } from '../timers.js'

/** ms that a request waits for an answer. */
export const longestAnswerMs = 5000

/**
 * What a function of the options answers.
 *
 * @param option  its name
 * @throws LimitError  when it does not answer in time; and whatever it throws
 */
export async function answerOf<T> (option: string, ask: () => Awaitable<T>): Promise<T> {
  const answer = ask()
  if (!isThenable(answer)) return answer as T
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((resolve, reject) => {
    timer = timers.setTimeout(() => reject(new LimitError(`${option} must answer within ${longestAnswerMs} ms, got nothing`)), longestAnswerMs)
  })
  try {
    return await Promise.race([answer as Promise<T>, late])
  } finally {
    timers.clearTimeout(timer)
  }
}

/** Fastify lets a request pass whose hook fails with nothing, so `throw undefined` must not reach it as it is. */
export function asError (thrown: unknown): Error {
  return (thrown || new Error('a function of the rate limit failed without an error')) as Error
}
