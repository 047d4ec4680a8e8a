/**
 * Fastify's side of a decision: a hook for all requests that refuses blocked
 * addresses, and one for each limited route that counts.
 */
import type {
  FastifyInstance, FastifyReply, FastifyRequest, HookHandlerDoneFunction, preParsingHookHandler, RouteOptions
} from 'fastify'
import type { Client } from '../guard/client.js'
import type { Clients } from '../guard/clients.js'
import type { Guard } from '../guard/guard.js'
import type { LimitRegistry } from '../limits/registry.js'
import type { LimitHook, RouteRateLimitOptions } from '../settings/options.js'
import { resolveRouteLimit } from '../settings/limit-settings.js'
import type { Settings } from '../settings/settings.js'
import { Answering, type AnsweringParts } from './answer.js'
import { hangUp, isReset } from './connection.js'
import type { StoreFor } from '../compat/custom-store.js'
import { addGate } from './framework-errors.js'
import { groupName, Limiter } from './route-limit.js'
import { addLimiters } from './decorators.js'
import { type RequestSubject, type SubjectReader, subjectReader } from './subject.js'
import { asError } from './user-function.js'

/** Routes without a limit of their own share one counter per client, by this name. */
export const globalLimitName = 'global'

export interface HookParts {
  readonly clients: Clients
  readonly guard: Guard
  readonly registry: LimitRegistry
  readonly settings: Settings
  /** begins the name of each limit, where another registration has the names without it */
  readonly namePrefix: string
  /** who counts where the user has a store */
  readonly storeFor: StoreFor
  readonly clientOf: (request: FastifyRequest) => Client
  /** throws a ClosedError once the application closes */
  readonly checkOpen: () => void
}

/** Adds both to an instance, the second to each route that is added later; and `rateLimit` and `createRateLimit`. */
export function addHooks (fastify: FastifyInstance, parts: HookParts): void {
  const { clients, guard, registry, settings, namePrefix, storeFor, clientOf, checkOpen } = parts
  const subjectOf = subjectReader(fastify, clientOf)
  const global = new Limiter({
    clients,
    guard,
    registry,
    name: `${namePrefix}${globalLimitName}`,
    settings: settings.limit,
    store: storeFor(settings.limit)
  })

  fastify.addHook('onRequest', (request, reply, done) => {
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
      // A `trustProxy` function threw. Fastify catches errors of hooks, but this is none.
      return done(asError(thrown))
    }
    const asked = { limiter: global, request, reply, subject, done }
    const refusal = guard.decide(subject)
    if (refusal !== undefined) new Answering(asked).answer(refusal, refusal.key)
    else if (limitsNotFound) limitOnce(asked)
    else done()
  })
  addLimiters(fastify, { clients, guard, registry, storeFor, global, subjectOf, checkOpen })

  const nameOfGet = new Map<string, string>()
  fastify.addHook('onRoute', route => {
    const limiter = limiterOf(route, parts, global, nameOfGet)
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

/** The limit of a route, or of a 404 the global one, decides a request once. */
function limitOnce (asked: AnsweringParts & { readonly limiter: Limiter }): void {
  const { limiter, subject, done } = asked
  // A plugin that adds a copy of a route by another URL copies its hooks, too. A handler that calls callNotFound was
  // limited as that of a route.
  if (subject.hasRouteLimit) return done()
  subject.hasRouteLimit = true
  limiter.decide(new Answering(asked))
}

/**
 * @param nameOfGet  names of limits by URL, which HEAD shares: it asks for what GET would answer, so apart they would
 *   double the quota
 */
function limiterOf (
  route: RouteOptions, { clients, guard, registry, settings, namePrefix, storeFor }: HookParts, global: Limiter,
  nameOfGet: Map<string, string>
): Limiter | undefined {
  const config: unknown = (route.config as { rateLimit?: unknown } | undefined)?.rateLimit
  if (config === false) return undefined
  if (config === undefined || config === null) return settings.global ? global : undefined
  if (typeof config !== 'object' || Array.isArray(config)) {
    throw new Error('Unknown value for route rate-limit configuration')
  }
  const methods = [route.method].flat().map(method => method.toUpperCase())
  const constraints = Object.entries(route.constraints ?? {}).map(([by, value]) => ` ${by}=${String(value)}`)
  const url = `${route.url}${constraints.join('')}`
  // With a prefix, HEAD of `/prefix` comes as that of `/prefix/`.
  const place = url.replace(/(?<=.)\/(?= |$)/, '')
  const ofGet = methods.length === 1 && methods[0] === 'HEAD' ? nameOfGet.get(place) ?? `GET:${url}` : undefined
  const where = `${methods} ${route.url} config.rateLimit`
  const own = resolveRouteLimit(config as RouteRateLimitOptions, settings.limit, where)
  const name = own.groupId === undefined ? ofGet ?? `${methods.join(',')}:${url}` : groupName(own.groupId)
  if (methods.includes('GET')) nameOfGet.set(place, name)
  return new Limiter({
    clients,
    guard,
    registry,
    name: `${namePrefix}${name}`,
    settings: own,
    store: storeFor(own, config, route)
  })
}

function addLast (route: RouteOptions, hook: LimitHook, handler: LimitHandler): void {
  const before = [route[hook] ?? []].flat()
  const added = hook === 'preParsing'
    ? ((request, reply, payload, done) => handler(request, reply, done)) satisfies preParsingHookHandler
    : handler
  Object.assign(route, { [hook]: [...before, added] })
}
