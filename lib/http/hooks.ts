/** Adds the hooks to Fastify: one for all requests, which refuses blocked addresses, and one for each limited route. */
import type {
  FastifyInstance, FastifyReply, FastifyRequest, HookHandlerDoneFunction, preParsingHookHandler, RouteOptions
} from 'fastify'
import type { Client } from '../guard/client.js'
import type { LimitHook } from '../settings/options.js'
import { Answering, type AnsweringParts } from './answer.js'
import { hangUp, isReset } from './connection.js'
import { addGate } from './framework-errors.js'
import { Limiter } from './limiter.js'
import { addDecorators } from './decorators.js'
import { type RouteLimitsParts, RouteLimits } from './route-limits.js'
import { type RequestSubject, type SubjectReader, subjectReader } from './subject.js'
import { asError } from './user-function.js'

/** The name of the global limit, with whose counter all routes without a limit of their own count a client. */
export const globalLimitName = 'global'

export interface HookParts extends RouteLimitsParts {
  readonly readClient: (request: FastifyRequest) => Client
  /** throws a ClosedError once the application closes */
  readonly checkOpen: () => void
  /** see `DecoratorParts` */
  readonly onLateLimiter: () => void
}

/** Adds the hooks, and the decorators `rateLimit` and `createRateLimit`. Routes get a hook if they are added later. */
export function addHooks (fastify: FastifyInstance, parts: HookParts): void {
  const { clients, guard, registry, settings, namePrefix, storeFor, readClient, checkOpen, onLateLimiter } = parts
  const subjectOf = subjectReader(fastify, readClient)
  const global = new Limiter({
    clients,
    guard,
    registry,
    name: `${namePrefix}${globalLimitName}`,
    settings: settings.limit,
    store: storeFor(settings.limit)
  })

  let served = false
  fastify.addHook('onRequest', (request, reply, done) => {
    served = true
    if (isReset(request)) return hangUp(reply)
    const subject = subjectOf(request)
    const refusal = guard.decide(subject)
    if (refusal === undefined) done()
    else new Answering({ limiter: global, request, reply, subject, done }).answer(refusal, refusal.key)
  })

  const limitsNotFound = settings.global && settings.limitNotFound
  if (limitsNotFound) limitNotFound(fastify, global, subjectOf)
  addGate(fastify, (request, reply, done) => {
    let subject: RequestSubject
    try {
      subject = subjectOf(request)
    } catch (thrown) {
      // A `trustProxy` function threw. Fastify catches errors of hooks, but a gate is no hook.
      return done(asError(thrown))
    }
    const asked = { limiter: global, request, reply, subject, done }
    const refusal = guard.decide(subject)
    if (refusal !== undefined) new Answering(asked).answer(refusal, refusal.key)
    else if (limitsNotFound) limitOnce(asked)
    else done()
  })
  addDecorators(fastify, {
    clients,
    guard,
    registry,
    storeFor,
    global,
    subjectOf,
    checkOpen,
    hasServed: () => served,
    onLateLimiter
  })

  const limits = new RouteLimits(parts, global)
  fastify.addHook('onRoute', route => {
    const limiter = limits.of(route)
    if (limiter === undefined) return
    addLast(route, limiter.settings.hook, (request, reply, done) => {
      limitOnce({ limiter, request, reply, subject: subjectOf(request), done })
    })
  })
}

/** 404s count against the global limit; they have no route, so `onRoute` cannot add a hook. */
function limitNotFound (fastify: FastifyInstance, global: Limiter, subjectOf: SubjectReader): void {
  const handler: LimitHandler = (request, reply, done) => {
    if (request.is404) limitOnce({ limiter: global, request, reply, subject: subjectOf(request), done })
    else done()
  }
  const { hook } = global.settings
  if (hook === 'preParsing') {
    fastify.addHook('preParsing', (request, reply, payload, done) => handler(request, reply, done))
  } else {
    fastify.addHook(hook as 'onRequest', handler)
  }
}

type LimitHandler = (request: FastifyRequest, reply: FastifyReply, done: HookHandlerDoneFunction) => void

/** Lets the limit of the route (for a 404, the global limit) decide the request, once. */
function limitOnce (asked: AnsweringParts & { readonly limiter: Limiter }): void {
  const { limiter, subject, done } = asked
  // A second call comes from a plugin that copies a route, with its hooks, to another URL; or from a handler of a
  // limited route that calls `callNotFound`.
  if (subject.hasRouteLimit) return done()
  subject.hasRouteLimit = true
  limiter.decide(new Answering(asked))
}

function addLast (route: RouteOptions, hook: LimitHook, handler: LimitHandler): void {
  const before = [route[hook] ?? []].flat()
  const added = hook === 'preParsing'
    ? ((request, reply, payload, done) => handler(request, reply, done)) satisfies preParsingHookHandler
    : handler
  Object.assign(route, { [hook]: [...before, added] })
}
