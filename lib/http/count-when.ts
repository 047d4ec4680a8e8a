/** The option `countWhen`: a request that was counted is taken back once its answer shows that it is not to count. */
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
  /** of the limit */
  readonly name: string
  readonly countWhen: NonNullable<LimitSettings['countWhen']>
  readonly refund: () => Promise<void>
}

/** A request whose answer is not delivered as a whole stays counted: hanging up does not evade a limit. */
export function countLater ({ request, reply, name, countWhen, refund }: CountedRequest): void {
  // For a pipelined request, `finish` comes in the context of the request before it.
  // Many registrations may wait for the same reply.
  const stop = listen(reply.raw, 'finish', inThisContext(() => {
    stop()
    if (!wasDelivered(request, reply)) return
    let counts: unknown = true
    try {
      counts = countWhen(request, reply)
      // An async one cannot be waited for; whether it fails later is no matter.
      if (isThenable(counts)) attempt(() => counts, () => {})
      if (typeof counts !== 'boolean') throw new LimitError(`countWhen must answer true or false, got ${show(counts)}`)
    } catch (error) {
      safeLog(request.log).error({ err: error, limit: name }, 'countWhen failed, the request counts')
      return
    }
    if (counts) return
    attempt(refund, error => {
      safeLog(request.log).error({ err: error }, 'a request that is not to count could not be taken back')
    })
  }))
}
