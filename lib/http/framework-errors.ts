/**
 * Requests that Fastify answers before any hook: a malformed URL (`/%zz`), a
 * parameter beyond `maxParamLength`, a constraint that fails. A plugin does not
 * see them; the application's option `frameworkErrors` does.
 */
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { attempt, isThenable } from '../awaitable.js'
import type { Passed } from './answer.js'
import { hangUp, isReset } from './connection.js'
import { asError } from './user-function.js'

/** What Fastify calls with the error, and with a request and a reply on which no hook has run. */
export type FrameworkErrorHandler = (error: FastifyError, request: FastifyRequest, reply: FastifyReply) => void

/** Answers a request that is refused; else calls `passed`. */
type Gate = (request: FastifyRequest, reply: FastifyReply, passed: Passed) => void

/** The gates of all registrations of a server; on the server, so that another copy of this package finds them, too. */
const gates = Symbol.for('fastify-redis-guard.gates')

interface GuardedServer {
  [gates]?: Gate[]
}

/** Lets a registration decide about such requests; each does, since a URL that cannot be read is in no scope. */
export function addGate ({ server }: FastifyInstance, gate: Gate): void {
  const guarded = server as GuardedServer
  guarded[gates] = [...guarded[gates] ?? [], gate]
}

/**
 * Has the guard decide about requests that Fastify answers before any hook,
 * for the option `frameworkErrors` of Fastify: malformed URLs (400), parameters
 * beyond `maxParamLength` (414), and constraints that fail (500). Without it
 * they are neither blocked nor counted.
 *
 * Each registration of the plugin decides: a blocked address gets its 403, and
 * unless `limitNotFound` or `global` is `false`, the request counts against the
 * global limit, on the counter that 404s use, with the same headers, events
 * and metrics. Functions of the options see a request without `params`,
 * `query` and `body`, on which no hook has run. Without the plugin nothing
 * changes.
 *
 * @param handler  answers what is not refused; default: the answer is Fastify's own
 *
 * @example
 * const app = Fastify({ frameworkErrors: guardFrameworkErrors() })
 * await app.register(redisGuard, { max: 100, timeWindow: '1 minute' })
 */
export function guardFrameworkErrors (
  handler: FrameworkErrorHandler = answerAsFastify
): (error: FastifyError, request: object, reply: object) => void {
  const guarded: FrameworkErrorHandler = (error, request, reply) => {
    if (isReset(request)) return hangUp(reply)
    complete(request)
    const toPass = (request.server.server as GuardedServer)[gates] ?? []
    const pass = (i: number) => {
      const gate = toPass[i]
      if (gate === undefined) return handler(error, request, reply)
      gate(request, reply, refusal => refusal === undefined ? pass(i + 1) : answerWith(refusal, request, reply))
    }
    pass(0)
  }
  // Those of HTTP/2 are of other types, and look alike.
  return (error, request, reply) => guarded(error, request as FastifyRequest, reply as FastifyReply)
}

/** Fastify makes these requests of its base class, which ignores `trustProxy`: their `ip` would be that of a proxy. */
function complete (request: FastifyRequest): void {
  const { server } = request
  for (const symbol of Object.getOwnPropertySymbols(server)) {
    if (symbol.description !== 'fastify.Request') continue
    const { prototype } = (server as unknown as Record<symbol, { readonly prototype: object }>)[symbol]!
    Object.setPrototypeOf(request, prototype)
  }
  // They are null, which functions of the options need not expect.
  Object.assign(request, { params: {}, query: {} })
}

/** As Fastify does with an error of a hook: it asks the application's error handler, which may be async. */
function answerWith (refusal: Error, request: FastifyRequest, reply: FastifyReply): void {
  attempt(async () => {
    const answer: unknown = request.server.errorHandler(refusal as FastifyError, request, reply)
    const payload = await answer
    // An async handler that neither sends nor answers anything has sent an empty body; any other may send later.
    if (!reply.sent && (payload !== undefined || isThenable(answer))) reply.send(payload)
  }, thrown => { reply.send(asError(thrown)) })
}

/** To the byte what Fastify answers without `frameworkErrors`. */
function answerAsFastify (error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  const { code, message, statusCode = 500 } = error
  const body = statusCode === 500
    ? { error: 'Internal Server Error', message, statusCode }
    : { error: 'Bad Request', code, message, statusCode }
  // As bytes: to a text Fastify would add a charset.
  reply.code(statusCode).header('content-type', 'application/json').send(Buffer.from(JSON.stringify(body)))
}
