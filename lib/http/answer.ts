/** Turns a decision into the reply: headers, the user's callbacks, and an error or a body. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { attempt, isThenable } from '../runtime/awaitable.js'
import type { Counted, Decision } from '../guard/decision.js'
import { safeLog } from '../observers/safe-log.js'
import type { LimitSettings } from '../settings/limit-settings.js'
import { setLimitHeaders, setRefusalHeaders } from './headers.js'
import { blockedError, failureError, limitedError, sendBlocked, sendDenied, sendLimited } from './refusal.js'
import type { Asking } from './request-hit.js'
import type { RequestSubject } from './subject.js'
import { asError } from './user-function.js'

/** Called once if the request has no answer yet. The request goes on, or fails with the error. */
export type Done = (error?: Error) => void

export interface AnsweringParts {
  /** its settings say how to answer */
  readonly limiter: { readonly settings: LimitSettings, isBanned (decision: Counted): boolean }
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  readonly subject: RequestSubject
  readonly done: Done
  /** called in place of `done` if the answer has been sent */
  readonly sent?: () => void
}

/** Asks a limit about a request, and answers the request with the decision. */
export class Answering implements Asking {
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  readonly subject: RequestSubject
  readonly #parts: AnsweringParts

  constructor (parts: AnsweringParts) {
    this.request = parts.request
    this.reply = parts.reply
    this.subject = parts.subject
    this.#parts = parts
  }

  /** Refuses the request or lets it pass, before this returns. */
  answer (decision: Decision, shown: string): void {
    const { done, sent } = this.#parts
    let error: object | undefined
    try {
      const response = this.#respond(decision, shown)
      if (response === 'sent') return sent?.()
      error = response
    } catch (thrown) {
      // A callback of the user threw. Its error answers this request; it must not end the process.
      error = asError(thrown)
    }
    done(error as Error | undefined)
  }

  /** @returns the error to answer with; undefined: the request passes */
  #respond (decision: Decision, shown: string): object | 'sent' | undefined {
    const { request, reply, subject } = this
    const { limiter } = this.#parts
    const { settings } = limiter
    switch (decision.kind) {
      case 'allowed':
      case 'uncounted':
        setLimitHeaders(reply, decision, settings, subject)
        call(settings.onExceeding, request, shown)
        return undefined
      case 'limited': {
        call(settings.onExceeded, request, shown)
        setRefusalHeaders(reply, decision, settings, subject)
        const isBanned = limiter.isBanned(decision)
        if (isBanned) call(settings.onBanReach, request, shown)
        if (!settings.problemDetails) return limitedError(request, decision, isBanned, settings)
        sendLimited(reply, decision, isBanned)
        return 'sent'
      }
      case 'blocked':
        if (!settings.problemDetails) return blockedError()
        sendBlocked(reply)
        return 'sent'
      case 'denied':
        sendDenied(reply)
        return 'sent'
      case 'unlimited':
        call(settings.onExceeding, request, shown)
        return undefined
      case 'failed': return failureError(decision.failure)
      case 'exempt':
      case 'skipped':
      case 'shadowed': return undefined
      /* c8 ignore next 2 -- a new kind of decision fails to compile here, so that this cannot run */
      default: throw new TypeError(`a decision of unknown kind: ${JSON.stringify(decision satisfies never)}`)
    }
  }
}

/**
 * Calls a callback without waiting for it. If it is async and fails, the error is logged and does not end the process.
 */
function call (
  callback: ((request: FastifyRequest, key: string) => unknown) | undefined, request: FastifyRequest, key: string
): void {
  const result = callback?.(request, key)
  if (!isThenable(result)) return
  attempt(() => result, error => safeLog(request.log).error({ err: error }, callbackFailed))
}

const callbackFailed = 'onExceeding, onExceeded or onBanReach failed; the request goes on'
