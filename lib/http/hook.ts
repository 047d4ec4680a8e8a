/**
 * Fastify's side of a decision: a hook for all requests that refuses blocked
 * addresses, and one for each limited route that counts.
 */
import type {
  FastifyInstance, FastifyReply, FastifyRequest, HookHandlerDoneFunction, preParsingHookHandler, RouteOptions
} from 'fastify'
import type { Client, Guard, Subject } from '../guard/guard.js'
import type { LimitHook, RouteRateLimitOptions } from '../options.js'
import { type LimitSettings, resolveRouteLimit, type Settings } from '../settings.js'
import { canonicalAddress } from '../rules/address.js'
import { defineLimit, type Limit } from '../rules/rate-limit.js'
import type { Denied, Verdict } from '../rules/verdict.js'
import type { NamedCheck } from '../store/store.js'
import { setLimitHeaders, setRefusalHeaders } from './headers.js'
import { isThenable } from '../awaitable.js'
import { blockedError, limitedError, sendDenied, unavailableError } from './reply.js'

/** Routes without a limit of their own share one counter per client, by this name. */
export const globalLimitName = 'global'

/** Adds both to an instance; the second to each route that is added later. */
export function addHooks (fastify: FastifyInstance, guard: Guard, settings: Settings, clientOf: (request: FastifyRequest) => Client): void {
  // One for each registration, so that two of them do not meet on a request.
  const subjectOf = Symbol('redisGuard.subject')
  fastify.decorateRequest(subjectOf as unknown as string, null)

  fastify.addHook('onRequest', (request, reply, done) => {
    const subject = new RequestSubject(request, clientOf(request))
    ;(request as unknown as Identified)[subjectOf] = subject
    const blocked = guard.blocked(subject)
    if (blocked === undefined) done()
    else answer(request, reply, settings.limit, blocked, done)
  })

  if (settings.global && settings.limitNotFound) limitNotFound(fastify, guard, settings.limit, subjectOf)

  const nameOfGet = new Map<string, string>()
  fastify.addHook('onRoute', route => {
    const limit = limitOf(route, settings, nameOfGet)
    if (limit === undefined) return
    const hook = limitHook(guard, limit, request => (request as unknown as Identified)[subjectOf]!)
    addLast(route, limit.settings.hook, hook)
  })
}

/** Who looks for what is not there is limited as anybody else; a 404 is no route that a hook could be added to. */
function limitNotFound (fastify: FastifyInstance, guard: Guard, settings: LimitSettings, subjectOf: symbol): void {
  const limit = limitHook(guard, { name: globalLimitName, settings }, request => (request as unknown as Identified)[subjectOf]!)
  const handler: LimitHandler = (request, reply, done) => {
    if (request.is404) limit(request, reply, done)
    else done()
  }
  if (settings.hook === 'preParsing') fastify.addHook('preParsing', (request, reply, payload, done) => handler(request, reply, done))
  else fastify.addHook(settings.hook as 'onRequest', handler)
}

/** A request whose client is known: the hook for all requests runs before that of any route. */
type Identified = Record<symbol, Subject>

/** What a request is about; `routeOptions` builds an object at each look, so that only refusals look. */
class RequestSubject implements Subject {
  readonly client: Client
  readonly #request: FastifyRequest

  constructor (request: FastifyRequest, client: Client) {
    this.client = client
    this.#request = request
  }

  get method (): string {
    return this.#request.method
  }

  get route (): string | undefined {
    return this.#request.routeOptions.url
  }
}

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
  const own = resolveRouteLimit(config as RouteRateLimitOptions, settings.limit, `${methods} ${route.url} config.rateLimit`)
  // No method has a small letter: a group cannot be called like a route.
  const name = own.groupId === undefined ? ofGet ?? `${methods.join(',')}:${url}` : `group:${own.groupId}`
  if (methods.includes('GET')) nameOfGet.set(url, name)
  return { name, settings: own }
}

function limitHook (guard: Guard, { name, settings }: RouteLimit, subjectOf: (request: FastifyRequest) => Subject): LimitHandler {
  const limitFor = limitResolver(settings)
  const fixedChecks = limitFor.fixed === undefined ? undefined : checksOf(name, limitFor.fixed)
  const isPlain = settings.keyGenerator === undefined && settings.allowList.decide === undefined

  const take = (request: FastifyRequest, reply: FastifyReply, done: HookHandlerDoneFunction, key: string, checks: readonly [NamedCheck]) => {
    guard.take(subjectOf(request), key, checks, settings.onOutage, (failure, verdict) => {
      if (failure === undefined) answer(request, reply, settings, verdict!, done)
      else done(unavailableError(failure))
    })
  }

  const exempt = (request: FastifyRequest, reply: FastifyReply, done: HookHandlerDoneFunction, key: string) => {
    answer(request, reply, settings, guard.exempt(subjectOf(request), name, key), done)
  }

  async function decideLater (request: FastifyRequest): Promise<{ key: string, limit?: Limit, isFallback?: boolean }> {
    const { client } = subjectOf(request)
    const generated = readKey(await settings.keyGenerator?.(request))
    const key = generated ?? client.key
    if (isListed(client, key, settings) || await settings.allowList.decide?.(request, key)) return { key }
    // Counted by another name: nobody is to use up a quota by sending its owner's address as a key.
    const isFallback = settings.keyGenerator !== undefined && generated === undefined
    return { key, limit: limitFor.fixed ?? await limitFor.compute(request, key), isFallback }
  }

  return (request, reply, done) => {
    if (fixedChecks !== undefined && isPlain) {
      const { client } = subjectOf(request)
      if (isListed(client, client.key, settings)) exempt(request, reply, done, client.key)
      else take(request, reply, done, client.key, fixedChecks)
      return
    }
    // Not a catch behind the then: what fails after the decision must not be answered a second time.
    decideLater(request).then(({ key, limit, isFallback }) => {
      if (limit === undefined) exempt(request, reply, done, key)
      else if (isFallback) take(request, reply, done, key, checksOf(`${name}@address`, limit))
      else take(request, reply, done, key, fixedChecks ?? checksOf(name, limit))
    }, (thrown: unknown) => done(asError(thrown)))
  }
}

function checksOf (name: string, limit: Limit): readonly [NamedCheck] {
  return [{ name, limit, cost: 1 }]
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

function isListed ({ address, key: ownKey }: Client, key: string, { allowList: { keys, addresses } }: LimitSettings): boolean {
  if (keys.size > 0 && keys.has(key)) return true
  if (addresses.isEmpty) return false
  if (address !== undefined && addresses.find(address) === true) return true
  // A generated key may be an address as well, such as that in a proxy's header.
  const other = key === ownKey ? undefined : canonicalAddress(key)
  return other !== undefined && addresses.find(other) === true
}

function answer (request: FastifyRequest, reply: FastifyReply, settings: LimitSettings, verdict: Verdict, done: HookHandlerDoneFunction): void {
  if (verdict.kind === 'denied') return sendDenied(reply)
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
function respond (request: FastifyRequest, reply: FastifyReply, settings: LimitSettings, verdict: Exclude<Verdict, Denied>): object | undefined {
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
    case 'exempt':
    case 'shadowed': return undefined
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

function addLast (route: RouteOptions, hook: LimitHook, handler: LimitHandler): void {
  const before = [route[hook] ?? []].flat()
  const added = hook === 'preParsing'
    ? ((request, reply, payload, done) => handler(request, reply, done)) satisfies preParsingHookHandler
    : handler
  Object.assign(route, { [hook]: [...before, added] })
}
