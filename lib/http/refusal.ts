/** The errors that a refused request is answered with, in Fastify's own shape. */
import { format } from '@lukeed/ms'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { attached } from '../runtime/attached.js'
import { attempt, isThenable } from '../runtime/awaitable.js'
import { type RefusalCode, RefusalError, StoreUnavailableError } from '../errors.js'
import type { Counted } from '../guard/decision.js'
import type { LimitSettings } from '../settings/limit-settings.js'
import { safeLog } from '../observers/safe-log.js'
import { canPass, retryAfterSeconds } from './headers.js'

/** 403: the address is blocked. It is not said until when. */
export function blockedError (): RefusalError {
  return refusal(403, 'GUARD_BLOCKED', blockedText)
}

const blockedText = 'Address is blocked'

/** Where a server keeps the builders whose mistake was logged: once each, so that a flood does not flood the log. */
const loggedBuilders = Symbol('fastify-redis-guard.loggedBuilders')

/** 429, or 403 where `ban` says so: over a limit; or whatever the user's `errorResponseBuilder` makes of it. */
export function limitedError (
  request: FastifyRequest, decision: Counted, isBanned: boolean, { errorResponseBuilder }: LimitSettings
): object {
  const after = afterText(decision)
  const [statusCode, code] = isBanned ? [403, 'GUARD_BANNED'] as const : [429, 'GUARD_LIMITED'] as const
  const { limit: { max }, explanation: { retryAfterMs: ttl }, name: limit } = decision
  const built = errorResponseBuilder?.(request, { statusCode, code, limit, ban: isBanned, max, ttl, after })
  // An async one cannot be thrown as it is; whether it fails later is no matter.
  if (isThenable(built)) attempt(() => built, () => {})
  else if (built) return built
  // A builder that forgets its return must not let the request pass.
  if (errorResponseBuilder !== undefined) logOnce(errorResponseBuilder, request)
  return refusal(statusCode, code, exceededText(decision), limit)
}

function logOnce (builder: object, { server: { server }, log }: FastifyRequest): void {
  const logged = attached(server, loggedBuilders, () => new WeakSet<object>())
  if (logged.has(builder)) return
  logged.add(builder)
  const message = 'errorResponseBuilder must return an object, and not a promise; the default error is sent instead'
  safeLog(log).error(message)
}

/** The same as a problem, without an error. */
export function sendLimited (reply: FastifyReply, decision: Counted, isBanned: boolean): void {
  const [type, title, status] = isBanned
    ? ['abnormal-usage-detected', 'Abnormal Usage Detected', 403] as const
    : ['quota-exceeded', 'Quota Exceeded', 429] as const
  sendProblem(reply, { type, title, status, detail: exceededText(decision), 'violated-policies': [decision.name] })
}

export function sendBlocked (reply: FastifyReply): void {
  const type = 'abnormal-usage-detected'
  sendProblem(reply, { type, title: 'Abnormal Usage Detected', status: 403, detail: blockedText })
}

function exceededText (decision: Counted): string {
  if (canPass(decision)) return `Rate limit exceeded, retry in ${afterText(decision)}`
  return `Rate limit exceeded, the request counts for more than the limit of ${decision.limit.burst} allows`
}

function afterText (decision: Counted): string {
  if (!canPass(decision)) return 'never'
  return format(retryAfterSeconds(decision) * 1000, true)
}

/** Thrown by createRateLimit, which has no reply to send. */
export function deniedError (): RefusalError {
  return refusal(503, 'GUARD_DENIED', deniedText)
}

const deniedText = 'Requests cannot be counted at the moment'

/** 503: nobody can decide, and `onOutage` is `deny`. */
export function sendDenied (reply: FastifyReply): void {
  reply.header('retry-after', 1)
  const type = 'temporary-reduced-capacity'
  sendProblem(reply, { type, title: 'Temporary Reduced Capacity', status: 503, detail: deniedText })
}

/** `type` is the name of one in the registry. */
interface Problem {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly detail: string
  readonly 'violated-policies'?: readonly string[]
}

/**
 * As a text, which no response schema of a route reshapes.
 * Source: RFC 9457, the registry of problem types that it begins, and
 * draft-ietf-httpapi-ratelimit-headers, which adds these three to it.
 */
function sendProblem (reply: FastifyReply, { type, ...rest }: Problem): void {
  const body = JSON.stringify({ type: `https://iana.org/assignments/http-problem-types#${type}`, ...rest })
  const headers = { 'content-type': 'application/problem+json', 'cache-control': 'no-store' }
  reply.code(rest.status).headers(headers).send(body)
}

/** 500: `onOutage` is `fail`, and Redis cannot answer. Where Redis is and what it said stays in the cause. */
export function failureError (failure: Error): Error {
  if (!(failure instanceof StoreUnavailableError)) return failure
  return new StoreUnavailableError(failure.kind, 'The rate limit store is unavailable', failure)
}

/**
 * An error without a stack. To collect one costs as much as the rest of the answer, and a flood asks for many. Nothing
 * but the constructor runs while the limit is 0; where the application has frozen it, the stack is collected.
 */
function refusal (statusCode: number, code: RefusalCode, message: string, limit?: string): RefusalError {
  const { stackTraceLimit } = Error
  Reflect.set(Error, 'stackTraceLimit', 0)
  try {
    return new RefusalError(statusCode, code, message, limit)
  } finally {
    Reflect.set(Error, 'stackTraceLimit', stackTraceLimit)
  }
}
