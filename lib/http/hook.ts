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
import { canonicalAddress } from '../rules/address.js'
import { defineLimit, type Limit } from '../rules/rate-limit.js'
import type { Verdict } from '../rules/verdict.js'
import { setLimitHeaders, setRefusalHeaders } from './headers.js'
import { isThenable } from '../awaitable.js'
import { blockedError, limitedError, unavailableError } from './reply.js'

/** Routes without a limit of their own share one counter per client, by this name. */
export const globalLimitName = 'global'

/** Adds both to an instance; the second to each route that is added later. */
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

  const nameOfGet = new Map<string, string>()
  fastify.addHook('onRoute', route => {
    const limit = limitOf(route, settings, nameOfGet)
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

/** @param nameOfGet  names of limits by URL, which HEAD shares: it asks for what GET would answer, so apart they would double the quota */
function limitOf (route: RouteOptions, settings: Settings, nameOfGet: Map<string, string>): RouteLimit | undefined {
  const config: unknown = (route.config as { rateLimit?: unknown } | undefined)?.rateLimit
  if (config === false) return undefined
  if (config === undefined || config === null) return settings.global ? { name: globalLimitName, settings: settings.limit } : undefined
  if (typeof config !== 'object' || Array.isArray(config)) throw new Error('Unknown value for route rate-limit configuration')
  const methods = [route.method].flat().map(method => method.toUpperCase())
  const url = `${route.url}${Object.entries(route.constraints ?? {}).map(([by, value]) => `;${by}=${String(value)}`).join('')}`
  const ofGet = methods.length === 1 && methods[0] === 'HEAD' ? nameOfGet.get(url) : undefined
  const name = ofGet ?? `${methods.join(',')}:${url}`
  if (methods.includes('GET')) nameOfGet.set(url, name)
  return { name, settings: resolveRouteLimit(config as RateLimitOptions, settings.limit, `${methods} ${route.url} config.rateLimit`) }
}

function limitHook (guard: Guard, { name, settings }: RouteLimit, clientOf: (request: FastifyRequest) => Client): LimitHandler {
  const limitFor = limitResolver(settings)
  return (request, reply, done) => {
    const subject = subjectOf(request, clientOf(request))
    const take = (key: string, limit: Limit, isFallback = false) => {
      guard.take(subject, key, { name: isFallback ? `${name}@address` : name, limit, cost: 1 }, settings.skipOnError, (failure, verdict) => {
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
    // Not a catch behind the then: what fails after the decision must not be answered a second time.
    decideLater().then(({ key, limit, isFallback }) => {
      if (limit === undefined) exempt(key)
      else take(key, limit, isFallback)
    }, (thrown: unknown) => done(asError(thrown)))

    async function decideLater (): Promise<{ key: string, limit?: Limit, isFallback?: boolean }> {
      const generated = readKey(await settings.keyGenerator?.(request))
      const key = generated ?? subject.client.key
      if (isListed(subject.client, key, settings) || await settings.allowList.decide?.(request, key)) return { key }
      // Counted by another name: nobody is to use up a quota by sending its owner's address as a key.
      const isFallback = settings.keyGenerator !== undefined && generated === undefined
      return { key, limit: limitFor.fixed ?? await limitFor.compute(request, key), isFallback }
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
function readKey (generated: unknown): string | undefined {
  if (typeof generated === 'string' && generated !== '') return generated
  if (typeof generated === 'number' && Number.isFinite(generated)) return String(generated)
  return undefined
}

function isListed ({ address }: Client, key: string, { allowList }: LimitSettings): boolean {
  if (allowList.keys.size > 0 && allowList.keys.has(key)) return true
  if (allowList.addresses.size === 0) return false
  // A generated key may be an address as well, such as that in a proxy's header.
  return [address, canonicalAddress(key)].some(one => one !== undefined && allowList.addresses.find(one) === true)
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
      call(settings.onExceeding, request, verdict.key)
      return undefined
    case 'limited':
      setRefusalHeaders(reply, verdict, settings.addHeaders)
      call(settings.onExceeded, request, verdict.key)
      return limitedError(request, verdict, settings)
    case 'uncounted':
      setLimitHeaders(reply, verdict, settings.addHeadersOnExceeding)
      call(settings.onExceeding, request, verdict.key)
      return undefined
    case 'blocked': return blockedError()
    case 'exempt': return undefined
    /* c8 ignore next 2 -- a new kind of verdict fails to compile here, so that this cannot run */
    default: throw new TypeError(`a verdict of unknown kind: ${JSON.stringify(verdict satisfies never)}`)
  }
}

/** A callback is not awaited; one that is async and fails is logged, and does not end the process. */
function call (callback: ((request: FastifyRequest, key: string) => unknown) | undefined, request: FastifyRequest, key: string): void {
  const result = callback?.(request, key)
  if (isThenable(result)) result.then(undefined, (error: unknown) => request.log.error({ err: error }, 'a callback of the rate limit failed'))
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
