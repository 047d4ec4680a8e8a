/**
 * The decorators `fastify.rateLimit` and `fastify.createRateLimit`, for limits that the application places by itself.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { OptionsError } from '../errors.js'
import type { Decision, Explained, Uncounted } from '../guard/decision.js'
import type { Clients } from '../guard/clients.js'
import type { Guard } from '../guard/guard.js'
import type { LimitRegistry } from '../limits/registry.js'
import type { RouteRateLimitOptions } from '../settings/options.js'
import { ruleOf } from '../rules/algorithms.js'
import { resolveRouteLimit } from '../settings/limit-settings.js'
import { Answering } from './answer.js'
import type { StoreFor } from '../compat/custom-store.js'
import { explanationOf } from './headers.js'
import { groupName, Limiter } from './limiter.js'
import { deniedError, failureError } from './refusal.js'
import type { SubjectReader } from './subject.js'

/**
 * A request of any server (HTTP, HTTPS, HTTP/2) and route, with any type provider and logger: only the members whose
 * types do not depend on these. A full `FastifyRequest` would determine the types of the route that the hook is added
 * to.
 */
export type AnyRequest = Pick<FastifyRequest, 'id' | 'ip' | 'method' | 'url' | 'is404'>

/** The reply of any server and route, like AnyRequest. */
export type AnyReply = Pick<FastifyReply, 'sent' | 'statusCode' | 'elapsedTime'>

/**
 * A hook that limits a request, or a function to call in a hook. It rejects with the error of the refusal. If it has
 * sent the answer itself (`problemDetails`, or 503 by `onOutage: 'deny'`), it resolves.
 */
export type RateLimitHandler = (request: AnyRequest, reply: AnyReply) => Promise<void>

/**
 * What a function of `createRateLimit` finds. Test `isExceeded` to refuse a request: `isAllowed` only says that no
 * limit applies to it, as in @fastify/rate-limit.
 */
export type RateLimitResult = {
  /**
   * True: on the allow list, left out by `skip`, without a limit (`max: Infinity`), or all its limits are in shadow.
   */
  readonly isAllowed: true
  /** The answer of the `keyGenerator`, unchanged (it may be a number); without one, the address. */
  readonly key: string
} | {
  /** False: a limit applies, whether or not the request is over it. */
  readonly isAllowed: false
  /** The answer of the `keyGenerator`, unchanged (it may be a number); without one, the address. */
  readonly key: string
  /** Name of the limit that restricts the client most, as in `redisGuard.limits`. The numbers below are its numbers. */
  readonly limit: string
  /** Hits allowed per window. */
  readonly max: number
  /** Length of the window, ms. */
  readonly timeWindow: number
  /** Hits left; 0 if the request is over the limit. */
  readonly remaining: number
  /** ms until the window ends; if the request is over the limit, ms until it would pass (`Infinity`: never). */
  readonly ttl: number
  /** `ttl`, rounded up to whole seconds. */
  readonly ttlInSeconds: number
  /** Whether the request is over the limit. */
  readonly isExceeded: boolean
  /** Whether the client is banned by `ban`. */
  readonly isBanned: boolean
}

/**
 * Counts a request; with `increment: false` it only looks.
 *
 * @throws RefusalError  503, `GUARD_DENIED`: Redis is away, and `onOutage` is `deny`
 * @throws StoreUnavailableError  500: Redis is away, and `skipOnError` is `false`
 * @throws LimitError  if a function of the options does not answer, or its answer is out of range
 * @throws ClosedError  once the application closes
 */
export type RateLimiter = (request: AnyRequest, options?: { readonly increment?: boolean }) => Promise<RateLimitResult>

export interface DecoratorParts {
  readonly clients: Clients
  readonly guard: Guard
  readonly registry: LimitRegistry
  readonly storeFor: StoreFor
  readonly global: Limiter
  readonly subjectOf: SubjectReader
  /** throws a ClosedError once the application closes */
  readonly checkOpen: () => void
  /** whether a request has come */
  readonly hasServed: () => boolean
  /** called for a limiter that was made while requests are served, unless it is one of the first `mostLate` */
  readonly onLateLimiter: () => void
}

/** An application may make a few limiters when it first needs them. */
const mostLate = 10

/** Adds both decorators to an instance, unless another registration has added them. */
export function addDecorators (fastify: FastifyInstance, parts: DecoratorParts): void {
  const { clients, guard, registry, storeFor, global, subjectOf, checkOpen, hasServed, onLateLimiter } = parts
  let count = 0
  let late = 0
  // Each has counters of its own, named by the order of creation, which is the same on all instances.
  const limiterOf = (options: RouteRateLimitOptions | undefined, method: string) => {
    if (options === undefined || options === null) return global
    count++
    if (hasServed() && ++late > mostLate) onLateLimiter()
    const settings = resolveRouteLimit(options, global.settings, `${method} ${count}`)
    const name = settings.groupId === undefined ? `limiter:${count}` : groupName(settings.groupId)
    return new Limiter({ clients, guard, registry, name, settings, store: storeFor(settings, options, {}) })
  }

  if (!fastify.hasDecorator('rateLimit')) {
    fastify.decorate('rateLimit', (options?: RouteRateLimitOptions): RateLimitHandler => {
      const limiter = limiterOf(options, 'rateLimit')
      const handler = async (request: FastifyRequest, reply: FastifyReply) => {
        const subject = subjectOf(request)
        await new Promise<void>((resolve, reject) => {
          const done = (error?: Error) => error === undefined ? resolve() : reject(error)
          limiter.decide(new Answering({ limiter, request, reply, subject, done, sent: resolve }))
        })
      }
      return handler as RateLimitHandler
    })
  }

  if (!fastify.hasDecorator('createRateLimit')) {
    fastify.decorate('createRateLimit', (options?: RouteRateLimitOptions): RateLimiter => {
      if (options?.countWhen !== undefined) {
        throw new OptionsError([{
          option: 'createRateLimit countWhen',
          rule: 'left out, since a function has no reply',
          received: 'a function',
          remedy: 'use rateLimit, or config.rateLimit of a route'
        }])
      }
      const limiter = limiterOf(options, 'createRateLimit')
      const limit = async (request: FastifyRequest, options?: Parameters<RateLimiter>[1]) => {
        checkOpen()
        return await (options?.increment ?? true ? takeHit : peekHit)(limiter, request, subjectOf)
      }
      return limit as RateLimiter
    })
  }
}

async function takeHit (
  limiter: Limiter, request: FastifyRequest, subjectOf: SubjectReader
): Promise<RateLimitResult> {
  const { decision, shown } = await new Promise<{ decision: Decision, shown: string }>(resolve => {
    const answer = (decision: Decision, shown: string) => resolve({ decision, shown })
    limiter.decide({ request, reply: undefined, subject: subjectOf(request), answer })
  })
  switch (decision.kind) {
    case 'allowed':
    case 'limited': return resultOf(limiter, shown, decision, decision.kind === 'limited')
    case 'uncounted': return uncountedResult(limiter, shown, decision)
    case 'exempt':
    case 'skipped':
    case 'unlimited':
    case 'shadowed': return { isAllowed: true, key: shown }
    case 'denied': throw deniedError()
    case 'failed': throw failureError(decision.failure)
    /* c8 ignore next 2 -- a blocked request has its answer before any limiter is asked */
    case 'blocked': throw new TypeError('a limiter does not block')
  }
}

async function peekHit (
  limiter: Limiter, request: FastifyRequest, subjectOf: SubjectReader
): Promise<RateLimitResult> {
  const client = limiter.clientOf(subjectOf(request))
  if (await limiter.skips(request)) return { isAllowed: true, key: client.shown }
  const { counterKeys, shown, checks } = await limiter.targetOf(request, client)
  if (typeof checks === 'string' || checks.length === 0) return { isAllowed: true, key: shown }
  const decision = await limiter.peek(counterKeys.client, checks).catch((failure: Error) => {
    throw failureError(failure)
  })
  switch (decision.kind) {
    case 'shadowed': return { isAllowed: true, key: shown }
    case 'denied': throw deniedError()
    case 'uncounted': return uncountedResult(limiter, shown, decision)
  }
  // A client that has just used its last hit has not exceeded the limit yet. Only a noted refusal shows that it has.
  const { notesRefusals } = ruleOf(decision.limit)
  const { explanation: { retryAfterMs, refusals } } = decision
  const isExceeded = retryAfterMs === Infinity || (retryAfterMs > 0 && (!notesRefusals || refusals > 0))
  return resultOf(limiter, shown, decision, isExceeded)
}

function uncountedResult (limiter: Limiter, key: string, decision: Uncounted): RateLimitResult {
  return resultOf(limiter, key, { ...decision, explanation: explanationOf(decision) }, false)
}

function resultOf (
  limiter: Limiter, key: string, { name, limit, explanation }: Explained, isExceeded: boolean
): RateLimitResult {
  const ttl = isExceeded ? Math.max(explanation.retryAfterMs, 1) : explanation.resetMs
  return {
    isAllowed: false,
    key,
    limit: name,
    max: limit.max,
    timeWindow: limit.windowMs,
    remaining: isExceeded ? 0 : explanation.remaining,
    ttl,
    ttlInSeconds: Math.ceil(ttl / 1000),
    isExceeded,
    isBanned: isExceeded && limiter.isBanned({ name, explanation })
  }
}
