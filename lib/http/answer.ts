/** What a verdict is to a client: headers, callbacks, and an error or a body. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { attempt, isThenable } from '../runtime/awaitable.js'
import { StoreUnavailableError } from '../errors.js'
import type { Verdict } from '../rules/verdict.js'
import { setLimitHeaders, setRefusalHeaders } from './headers.js'
import type { Limiter } from './route-limit.js'
import { blockedError, limitedError, sendBlocked, sendDenied, sendLimited, unavailableError } from './reply.js'
import type { RequestSubject } from './subject.js'
import { safeLog } from '../observers/safe-log.js'
import { asError } from './user-function.js'

/** Of the two one is called, once: the request goes on, with an error or without; or it has its answer. */
export type Passed = (error?: Error) => void
export type Sent = () => void

/** Counts a request, and answers it. */
export function decideAndAnswer (limiter: Limiter, subject: RequestSubject, request: FastifyRequest, reply: FastifyReply, passed: Passed, sent: Sent = () => {}): void {
  limiter.decide(request, reply, subject, (failure, verdict) => {
    if (verdict !== undefined) answer(request, reply, subject, limiter, verdict, passed, sent)
    else passed(failure instanceof StoreUnavailableError ? unavailableError(failure) : failure)
  })
}

/** Answers a request that is refused, or lets it pass; before it returns. */
export function answer (
  request: FastifyRequest, reply: FastifyReply, subject: RequestSubject, limiter: Limiter, verdict: Verdict,
  passed: Passed, sent: Sent = () => {}
): void {
  let error: object | undefined
  try {
    error = respond(request, reply, subject, limiter, verdict)
    if (error === answered) return sent()
  } catch (thrown) {
    // A callback of the user's threw: that is the answer to this request, and not the end of the process.
    error = asError(thrown)
  }
  passed(error as Error | undefined)
}

/** In place of an error: the answer is on its way. */
const answered = {}

/** @returns the error to answer with; undefined: the request passes */
function respond (
  request: FastifyRequest, reply: FastifyReply, subject: RequestSubject, limiter: Limiter, verdict: Verdict
): object | undefined {
  const { settings } = limiter
  switch (verdict.kind) {
    case 'allowed':
    case 'uncounted':
      setLimitHeaders(reply, verdict, settings, subject)
      call(settings.onExceeding, request, verdict.key)
      return undefined
    case 'limited': {
      call(settings.onExceeded, request, verdict.key)
      setRefusalHeaders(reply, verdict, settings, subject)
      const isBanned = limiter.isBanned(verdict)
      if (isBanned) call(settings.onBanReach, request, verdict.key)
      if (!settings.problemDetails) return limitedError(request, verdict, isBanned, settings)
      sendLimited(reply, verdict, isBanned)
      return answered
    }
    case 'blocked':
      if (!settings.problemDetails) return blockedError()
      sendBlocked(reply)
      return answered
    case 'denied':
      sendDenied(reply)
      return answered
    case 'unlimited':
      call(settings.onExceeding, request, verdict.key)
      return undefined
    case 'exempt':
    case 'skipped':
    case 'shadowed': return undefined
    /* c8 ignore next 2 -- a new kind of verdict fails to compile here, so that this cannot run */
    default: throw new TypeError(`a verdict of unknown kind: ${JSON.stringify(verdict satisfies never)}`)
  }
}

/** A callback is not awaited; one that is async and fails is logged, and does not end the process. */
function call (callback: ((request: FastifyRequest, key: string) => unknown) | undefined, request: FastifyRequest, key: string): void {
  const result = callback?.(request, key)
  if (!isThenable(result)) return
  attempt(() => result, error => safeLog(request.log).error({ err: error }, 'a callback of the rate limit failed'))
}
