/** The option `countWhen`: once a request has its answer, its hits are given back if it should not count. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { LimitError, show } from '../errors.js'
import { safeLog } from '../observers/safe-log.js'
import { inThisContext } from '../runtime/async-context.js'
import { attempt, isThenable } from '../runtime/awaitable.js'
import { listen } from '../runtime/shared-listener.js'
import type { LimitSettings } from '../settings/limit-settings.js'
import { wasDelivered } from './connection.js'

export interface CountedRequest {
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  /** name of the limit */
  readonly name: string
  readonly countWhen: NonNullable<LimitSettings['countWhen']>
  readonly refund: () => Promise<void>
}

/** A request whose answer was not delivered as a whole stays counted, so that hanging up does not evade a limit. */
export function countLater ({ request, reply, name, countWhen, refund }: CountedRequest): void {
  // In this context, since `finish` of a pipelined request comes in the context of the request before it. By `listen`,
  // since many registrations may wait for the same reply.
  const stop = listen(reply.raw, 'finish', inThisContext(() => {
    stop()
    if (!wasDelivered(request, reply)) return
    let counts: unknown = true
    try {
      counts = countWhen(request, reply)
      // An async countWhen is a mistake, reported below; its later failure must not end the process.
      if (isThenable(counts)) attempt(() => counts, () => {})
      if (typeof counts !== 'boolean') throw new LimitError(`countWhen must answer true or false, got ${show(counts)}`)
    } catch (error) {
      safeLog(request.log).error({ err: error, limit: name }, 'countWhen failed, the request counts')
      return
    }
    if (counts) return
    attempt(refund, error => {
      safeLog(request.log).error({ err: error }, refundFailed)
    })
  }))
}

const refundFailed = 'countWhen answered false, but the hit could not be given back; it stays counted'
