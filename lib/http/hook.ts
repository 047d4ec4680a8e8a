/**
 * Fastify's side of a decision: a hook for all requests that refuses blocked
 * addresses, and one for each limited route that counts.
 */
import type {
  FastifyInstance, FastifyReply, FastifyRequest, HookHandlerDoneFunction, preParsingHookHandler, RouteOptions
} from 'fastify'
import type { Client, Guard, Subject } from '../guard/guard.js'
import type { LimitHook, RateLimitOptions } from '../options.js'
import { type LimitSettings, resolveRouteLimit, type Settings } from '../settings.js'
import { defineLimit, type Limit } from '../rules/rate-limit.js'
import type { Verdict } from '../rules/verdict.js'
import { setLimitHeaders, setRefusalHeaders } from './headers.js'
import { blockedError, limitedError, unavailableError } from './reply.js'

/** Routes without a limit of their own share one counter per client, by this name. */
export const globalLimitName = 'global'

export function addHooks (fastify: FastifyInstance, guard: Guard, settings: Settings): void {
  // One for each registration, so that two of them do not meet on a request.
  const clientOf = Symbol('redisGuard.client')
  fastify.decorateRequest(clientOf as unknown as string, null)

  fastify.addHook('onRequest', (request, reply, done) => {
    const client = guard.identify(request.ip)
    ;(request as unknown as Identified)[clientOf] = client
    const blocked = guard.blocked(subjectOf(request, client))
    if (blocked === undefined) done()
    else answer(request, reply, settings.limit, blocked, done)
  })

  fastify.addHook('onRoute', route => {
    const limit = limitOf(route, settings)
    if (limit === undefined) return
    const hook = limitHook(guard, limit, request => (request as unknown as Identified)[clientOf]!)
    addLast(route, limit.settings.hook, hook)
  })
}

/** A request whose client is known: the hook for all requests runs before that of any route. */
type Identified = Record<symbol, Client>

/** A limit by name, as a route has it. */
interface RouteLimit {
  readonly name: string
  readonly settings: LimitSettings
}

type LimitHandler = (request: FastifyRequest, reply: FastifyReply, done: HookHandlerDoneFunction) => void

function limitOf (route: RouteOptions, settings: Settings): RouteLimit | undefined {
  const config: unknown = (route.config as { rateLimit?: unknown } | undefined)?.rateLimit
  if (config === false) return undefined
  if (config === undefined) return settings.global ? { name: globalLimitName, settings: settings.limit } : undefined
  if (typeof config !== 'object' || config === null || Array.isArray(config)) throw new Error('Unknown value for route rate-limit configuration')
  // A HEAD route asks for what GET would answer, and Fastify adds it by itself: both share a quota, lest it be doubled.
  const methods = [...new Set([route.method].flat().map(method => method === 'HEAD' ? 'GET' : method))].join(',')
  const name = `${methods}:${route.url}`
  return { name, settings: resolveRouteLimit(config as RateLimitOptions, settings.limit, `${methods} ${route.url} config.rateLimit`) }
}

function limitHook (guard: Guard, { name, settings }: RouteLimit, clientOf: (request: FastifyRequest) => Client): LimitHandler {
  const limitFor = limitResolver(settings)
  return (request, reply, done) => {
    const subject = subjectOf(request, clientOf(request))
    const take = (key: string, limit: Limit) => {
      guard.take(subject, key, { name, limit, cost: 1 }, settings.skipOnError, (failure, verdict) => {
        if (failure === undefined) answer(request, reply, settings, verdict!, done)
        else done(unavailableError(failure))
      })
    }
    const exempt = (key: string) => answer(request, reply, settings, guard.exempt(subject, name, key), done)
    if (limitFor.fixed !== undefined && settings.keyGenerator === undefined && settings.allowList.decide === undefined) {
      const { key } = subject.client
      if (isListed(subject.client, key, settings)) exempt(key)
      else take(key, limitFor.fixed)
      return
    }
    decideLater().catch((thrown: unknown) => done(asError(thrown)))

    async function decideLater (): Promise<void> {
      const key = readKey(await settings.keyGenerator?.(request), subject.client)
      if (isListed(subject.client, key, settings) || await settings.allowList.decide?.(request, key) === true) return exempt(key)
      take(key, limitFor.fixed ?? await limitFor.compute(request, key))
    }
  }
}

/** The limit of a route: the same for all requests, or computed for each. */
function limitResolver ({ algorithm, max, timeWindow, burst }: LimitSettings) {
  return {
    fixed: typeof max === 'number' && typeof timeWindow === 'number' ? defineLimit(algorithm, max, timeWindow, burst) : undefined,
    async compute (request: FastifyRequest, key: string): Promise<Limit> {
      return defineLimit(
        algorithm,
        typeof max === 'function' ? await max(request, key) : max,
        typeof timeWindow === 'function' ? await timeWindow(request, key) : timeWindow,
        burst
      )
    }
  }
}

/**
 * A `keyGenerator` may answer nothing, as `request.headers['x-api-key']` does
 * where there is none. Such clients are told apart by their address: as one
 * key "undefined" they would use up each other's quota.
 */
function readKey (generated: unknown, client: Client): string {
  if (typeof generated === 'string' && generated !== '') return generated
  if (typeof generated === 'number' && Number.isFinite(generated)) return String(generated)
  return client.key
}

function isListed ({ address }: Client, key: string, { allowList }: LimitSettings): boolean {
  if (allowList.keys.size > 0 && allowList.keys.has(key)) return true
  return address !== undefined && allowList.addresses.size > 0 && allowList.addresses.find(address) === true
}

function answer (request: FastifyRequest, reply: FastifyReply, settings: LimitSettings, verdict: Verdict, done: HookHandlerDoneFunction): void {
  let error: object | undefined
  try {
    error = respond(request, reply, settings, verdict)
  } catch (thrown) {
    // A callback of the user's threw: that is the answer to this request, and not the end of the process.
    error = asError(thrown)
  }
  done(error as Error | undefined)
}

/** @returns the error to answer with; undefined: the request passes */
function respond (request: FastifyRequest, reply: FastifyReply, settings: LimitSettings, verdict: Verdict): object | undefined {
  switch (verdict.kind) {
    case 'allowed':
      setLimitHeaders(reply, verdict, settings.addHeadersOnExceeding)
      settings.onExceeding?.(request, verdict.key)
      return undefined
    case 'limited':
      setRefusalHeaders(reply, verdict, settings.addHeaders)
      settings.onExceeded?.(request, verdict.key)
      return limitedError(request, verdict, settings)
    case 'uncounted':
      setLimitHeaders(reply, verdict, settings.addHeadersOnExceeding)
      return undefined
    case 'blocked': return blockedError()
    case 'exempt': return undefined
    /* c8 ignore next 2 -- a new kind of verdict fails to compile here, so that this cannot run */
    default: throw new TypeError(`a verdict of unknown kind: ${JSON.stringify(verdict satisfies never)}`)
  }
}

/** Fastify lets a request pass whose hook fails with nothing, so `throw undefined` must not reach it as it is. */
function asError (thrown: unknown): Error {
  return (thrown || new Error('a callback of the rate limit failed without an error')) as Error
}

function subjectOf (request: FastifyRequest, client: Client): Subject {
  return { client, method: request.method, route: request.routeOptions.url }
}

function addLast (route: RouteOptions, hook: LimitHook, handler: LimitHandler): void {
  const before = [route[hook] ?? []].flat()
  const added = hook === 'preParsing'
    ? ((request, reply, payload, done) => handler(request, reply, done)) satisfies preParsingHookHandler
    : handler
  Object.assign(route, { [hook]: [...before, added] })
}
