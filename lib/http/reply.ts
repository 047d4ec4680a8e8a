/** The errors that a refused request is answered with, in Fastify's own shape. */
import { format } from '@lukeed/ms'
import type { FastifyReply, FastifyRequest } from 'fastify'
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

/**
 * 503: nobody can decide, and `onOutage` is `deny`.
 * Source: RFC 9457, and the registry of problem types that it begins.
 */
export function sendDenied (reply: FastifyReply): void {
  reply.code(503).headers({ 'content-type': 'application/problem+json', 'cache-control': 'no-store', 'retry-after': 1 }).send(denied)
}

/** As a text, which no response schema of a route reshapes. */
const denied = JSON.stringify({
  type: 'https://iana.org/assignments/http-problem-types#temporary-reduced-capacity',
  title: 'Temporary Reduced Capacity',
  status: 503,
  detail: 'Requests cannot be counted at the moment'
})

/** 500: `onOutage` is `fail`, and Redis cannot answer. Where Redis is and what it said stays in the cause. */
export function unavailableError (failure: StoreUnavailableError): StoreUnavailableError {
  return new StoreUnavailableError(failure.kind, 'The rate limit store is unavailable', failure)
}

/**
 * An error as `new Error` makes it, but without a stack: collecting one costs
 * as much as the rest of the answer, and a flood asks for many. Only the
 * constructor of Error collects it, so that one is not called.
 */
class Refusal {
  statusCode: number
  #message: string

  constructor (statusCode: number, message: string) {
    this.statusCode = statusCode
    this.#message = message
  }

  // Not among the object's own, as with any error: who copies or prints those gets none.
  get message (): string {
    return this.#message
  }

  set message (message: string) {
    this.#message = message
  }

  get stack (): string {
    return `Error: ${this.#message}`
  }

  set stack (value: string) {
    Object.defineProperty(this, 'stack', { value, writable: true, configurable: true })
  }
}
Object.setPrototypeOf(Refusal.prototype, Error.prototype)

function withStatus (statusCode: number, message: string): Error {
  return new Refusal(statusCode, message) as unknown as Error
}
