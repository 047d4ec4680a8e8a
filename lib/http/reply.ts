/** The errors that a refused request is answered with, in Fastify's own shape. */
import { format } from '@lukeed/ms'
import type { FastifyRequest } from 'fastify'
import { isThenable } from '../awaitable.js'
import { StoreUnavailableError } from '../errors.js'
import type { LimitSettings } from '../settings.js'
import type { Counted } from '../rules/verdict.js'
import { retryAfterSeconds } from './headers.js'

/** 403: the address is blocked. It is not said until when. */
export function blockedError (): Error {
  return withStatus(403, 'Address is blocked')
}

/** 429: over a limit; or whatever the user's `errorResponseBuilder` makes of it. */
export function limitedError (request: FastifyRequest, verdict: Counted, { errorResponseBuilder }: LimitSettings): object {
  const after = format(retryAfterSeconds(verdict) * 1000, true)
  const built = errorResponseBuilder?.(request, {
    statusCode: 429, ban: false, max: verdict.limit.max, ttl: verdict.explanation.retryAfterMs, after
  })
  // An async one cannot be thrown as it is; whether it fails later is no matter.
  if (isThenable(built)) built.then(undefined, () => {})
  // A builder that forgets its return must not let the request pass.
  else if (built) return built
  return withStatus(429, `Rate limit exceeded, retry in ${after}`)
}

/** 500: `skipOnError` is false, and Redis cannot answer. Where Redis is and what it said stays in the cause. */
export function unavailableError (failure: StoreUnavailableError): StoreUnavailableError {
  return new StoreUnavailableError(failure.kind, 'The rate limit store is unavailable', failure)
}

/** What is expected has no stack: collecting one costs as much as the rest of the answer, and a flood asks for many. */
function withStatus (statusCode: number, message: string): Error {
  // Frozen intrinsics (node --frozen-intrinsics) cannot be told.
  const { stackTraceLimit } = Error
  const canTell = Object.isExtensible(Error)
  if (canTell) Error.stackTraceLimit = 0
  const error = new Error(message) as Error & { statusCode: number }
  if (canTell) Error.stackTraceLimit = stackTraceLimit
  error.statusCode = statusCode
  return error
}
