/**
 * Guards requests that Fastify answers before any hook: a malformed URL (`/%zz`), a parameter beyond `maxParamLength`,
 * a constraint that fails. A plugin does not see them; Fastify's option `frameworkErrors` does.
 */
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { attempt, isThenable } from '../runtime/awaitable.js'
import type { Done } from './answer.js'
import { hangUp, isReset } from './connection.js'
import { asError } from './user-function.js'

/** Like Fastify's option `frameworkErrors`. No hook has run on the request and the reply. */
export type FrameworkErrorHandler = (error: FastifyError, request: FastifyRequest, reply: FastifyReply) => void

/** Answers a request, or calls `done`. */
type Gate = (request: FastifyRequest, reply: FastifyReply, done: Done) => void

/**
 * The server keeps the gates of all registrations under this symbol, so that another copy of this package finds them.
 */
const gates = Symbol.for('fastify-redis-guard.gates')

interface GuardedServer {
  [gates]?: Gate[]
}

/** Adds the gate of a registration. All gates decide, since a malformed URL belongs to no scope. */
export function addGate ({ server }: FastifyInstance, gate: Gate): void {
  const guarded = server as GuardedServer
  guarded[gates] = [...guarded[gates] ?? [], gate]
}

/**
 * Makes Fastify's option `frameworkErrors`, which blocks and limits requests that Fastify answers before any hook:
 * malformed URLs (400), parameters beyond `maxParamLength` (414), and constraints that fail (500). Without it these
 * requests are neither blocked nor counted.
 *
 * Each registration of the plugin decides. A blocked address gets a 403. The request counts against the global limit,
 * on the counter of 404s, with the same headers, events and metrics, unless `limitNotFound` or `global` is `false`.
 * Functions in the options get a request with empty `params` and `query` and without a `body`, on which no hook has
 * run. If the plugin is not registered, nothing changes.
 *
 * @param handler  answers requests that are not refused. Default: Fastify's own answer
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
  // Requests of HTTP/2 have other types of the same form.
  return (error, request, reply) => guarded(error, request as FastifyRequest, reply as FastifyReply)
}

/** Fastify creates these requests from its base class, which ignores `trustProxy`: `ip` would be that of a proxy. */
function complete (request: FastifyRequest): void {
  const { server } = request
  for (const symbol of Object.getOwnPropertySymbols(server)) {
    const made = (server as unknown as Readonly<Record<symbol, { readonly prototype: object }>>)[symbol]
    if (symbol.description === 'fastify.Request' && made !== undefined) Object.setPrototypeOf(request, made.prototype)
  }
  // Fastify leaves them null, which functions in the options do not expect.
  Object.assign(request, { params: {}, query: {} })
}

/** Calls the application's error handler, which may be async, as Fastify does for an error of a hook. */
function answerWith (refusal: Error, request: FastifyRequest, reply: FastifyReply): void {
  attempt(async () => {
    const answer: unknown = request.server.errorHandler(refusal as FastifyError, request, reply)
    const payload = await answer
    // An async handler that neither sends nor returns anything means an empty body. Any other handler may send later.
    if (!reply.sent && (payload !== undefined || isThenable(answer))) reply.send(payload)
  }, thrown => { reply.send(asError(thrown)) })
}

/** The same bytes as Fastify's answer without `frameworkErrors`. */
function answerAsFastify (error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  const { code, message, statusCode = 500 } = error
  const body = statusCode === 500
    ? { error: 'Internal Server Error', message, statusCode }
    : { error: 'Bad Request', code, message, statusCode }
  // As bytes: Fastify would add a charset to a string.
  reply.code(statusCode).header('content-type', 'application/json').send(Buffer.from(JSON.stringify(body)))
}
