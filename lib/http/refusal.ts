/** The answers to a refused request: an error in Fastify's own shape, or a problem of RFC 9457. */
import { format } from '@lukeed/ms'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { attached } from '../runtime/attached.js'
import { attempt, isThenable } from '../runtime/awaitable.js'
import { RefusalError, StoreUnavailableError } from '../errors.js'
import type { Counted } from '../guard/decision.js'
import type { LimitSettings } from '../settings/limit-settings.js'
import { safeLog } from '../observers/safe-log.js'
import { canPass, retryAfterSeconds } from './headers.js'

/** 403: the address is blocked. The client is not shown until when. */
export function blockedError (): RefusalError {
  return new RefusalError(403, 'GUARD_BLOCKED', blockedText)
}

const blockedText = 'Address is blocked'

/**
 * The server keeps the builders whose mistake was logged. Each is logged once, so that a flood does not flood the log.
 */
const loggedBuilders = Symbol('fastify-redis-guard.loggedBuilders')

/** 429, or 403 by `ban`: the client is over a limit. The user's `errorResponseBuilder` may return another error. */
export function limitedError (
  request: FastifyRequest, decision: Counted, isBanned: boolean, { errorResponseBuilder }: LimitSettings
): object {
  const after = afterText(decision)
  const [statusCode, code] = isBanned ? [403, 'GUARD_BANNED'] as const : [429, 'GUARD_LIMITED'] as const
  const { limit: { max }, explanation: { retryAfterMs: ttl }, name: limit } = decision
  const built = errorResponseBuilder?.(request, { statusCode, code, limit, ban: isBanned, max, ttl, after })
  // A promise cannot be thrown as an error. Its later failure must not end the process.
  if (isThenable(built)) attempt(() => built, () => {})
  else if (built) return built
  // A builder that forgets its return must not let the request pass.
  if (errorResponseBuilder !== undefined) logOnce(errorResponseBuilder, request)
  return new RefusalError(statusCode, code, exceededText(decision), limit)
}

function logOnce (builder: object, { server: { server }, log }: FastifyRequest): void {
  const logged = attached(server, loggedBuilders, () => new WeakSet<object>())
  if (logged.has(builder)) return
  logged.add(builder)
  const message = 'errorResponseBuilder must return an object, and not a promise; the default error is sent instead'
  safeLog(log).error(message)
}

/** Like `limitedError`, but sends a problem. */
export function sendLimited (reply: FastifyReply, decision: Counted, isBanned: boolean): void {
  sendProblem(reply, isBanned ? 403 : 429, jsonOf({
    type: isBanned ? 'abnormal-usage-detected' : 'quota-exceeded',
    title: isBanned ? 'Abnormal Usage Detected' : 'Quota Exceeded',
    status: isBanned ? 403 : 429,
    detail: exceededText(decision),
    'violated-policies': [decision.name]
  }))
}

export function sendBlocked (reply: FastifyReply): void {
  sendProblem(reply, 403, blockedProblem)
}

function exceededText (decision: Counted): string {
  if (canPass(decision)) return `Rate limit exceeded, retry in ${afterText(decision)}`
  return `Rate limit exceeded, the request counts for more than the limit of ${decision.limit.burst} allows`
}

function afterText (decision: Counted): string {
  if (!canPass(decision)) return 'never'
  return format(retryAfterSeconds(decision) * 1000, true)
}

/** 503, for createRateLimit, which has no reply to send. */
export function deniedError (): RefusalError {
  return new RefusalError(503, 'GUARD_DENIED', deniedText)
}

const deniedText = 'Requests cannot be counted at the moment'

/** 503: Redis cannot answer, and `onOutage` is `deny`. */
export function sendDenied (reply: FastifyReply): void {
  reply.header('retry-after', 1)
  sendProblem(reply, 503, deniedProblem)
}

interface Problem {
  /** a name in the registry of problem types */
  readonly type: string
  readonly title: string
  readonly status: number
  readonly detail: string
  readonly 'violated-policies'?: readonly string[]
}

/** Source: RFC 9457 and its registry of problem types; draft-ietf-httpapi-ratelimit-headers, which adds these three. */
function jsonOf (problem: Problem): string {
  const { type, title, status, detail, 'violated-policies': policies } = problem
  const url = `https://iana.org/assignments/http-problem-types#${type}`
  return JSON.stringify({ type: url, title, status, detail, 'violated-policies': policies })
}

const blockedProblem = jsonOf({
  type: 'abnormal-usage-detected', title: 'Abnormal Usage Detected', status: 403, detail: blockedText
})

const deniedProblem = jsonOf({
  type: 'temporary-reduced-capacity', title: 'Temporary Reduced Capacity', status: 503, detail: deniedText
})

/** Sends a string, since the response schema of a route would change an object. */
function sendProblem (reply: FastifyReply, status: number, json: string): void {
  reply
    .code(status)
    .header('content-type', 'application/problem+json')
    .header('cache-control', 'no-store')
    .send(json)
}

/** 500: Redis cannot answer, and `onOutage` is `fail`. Only the cause shows the place and the words of Redis. */
export function failureError (failure: Error): Error {
  if (!(failure instanceof StoreUnavailableError)) return failure
  return new StoreUnavailableError(failure.kind, 'The rate limit store is unavailable', failure)
}
