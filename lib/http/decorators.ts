/** What `fastify.rateLimit` and `fastify.createRateLimit` return: limits that the application places by itself. */
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
 * A request of any server (HTTP, HTTPS, HTTP/2) and route, with any type
 * provider and logger: what does not depend on these. A full `FastifyRequest`
 * here would decide the types of the route that the hook is added to.
 */
export type AnyRequest = Pick<FastifyRequest, 'id' | 'ip' | 'method' | 'url' | 'is404'>

/** The reply of any server and route, like AnyRequest. */
export type AnyReply = Pick<FastifyReply, 'sent' | 'statusCode' | 'elapsedTime'>

/** A hook, or a function to call in one. */
export type RateLimitHandler = (request: AnyRequest, reply: AnyReply) => Promise<void>

/** What a limiter says of a request. */
export type RateLimitResult = {
  /** on the allow list, left out by `skip`, without a limit (`max: Infinity`), or limited only in shadow */
  readonly isAllowed: true
  /** what `keyGenerator` answered, a number too; else the address */
  readonly key: string
} | {
  /** not left out, so that it was counted */
  readonly isAllowed: false
  readonly key: string
  /** name of the limit that the numbers are of, as in `redisGuard.limits` */
  readonly limit: string
  readonly max: number
  /** ms */
  readonly timeWindow: number
  readonly remaining: number
  /** ms until the window ends; of a request that is over the limit: until it would pass, Infinity if it never can */
  readonly ttl: number
  readonly ttlInSeconds: number
  readonly isExceeded: boolean
  readonly isBanned: boolean
}

/** Counts a request; with `increment: false` it only looks. */
export type RateLimiter = (request: AnyRequest, options?: { readonly increment?: boolean }) => Promise<RateLimitResult>

export interface LimitersParts {
  readonly clients: Clients
  readonly guard: Guard
  readonly registry: LimitRegistry
  readonly storeFor: StoreFor
  readonly global: Limiter
  readonly subjectOf: SubjectReader
  /** throws a ClosedError once the application closes */
  readonly checkOpen: () => void
}

/** Adds both to an instance, unless another registration has. */
export function addLimiters (fastify: FastifyInstance, parts: LimitersParts): void {
  const { clients, guard, registry, storeFor, global, subjectOf, checkOpen } = parts
  let count = 0
  // Each has counters of its own, by the order in which they are made, which is the same on each instance.
  const limiterOf = (options: RouteRateLimitOptions | undefined, method: string) => {
    if (options === undefined || options === null) return global
    count++
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
        return await (options?.increment ?? true ? taken : peeked)(limiter, request, subjectOf)
      }
      return limit as RateLimiter
    })
  }
}

async function taken (limiter: Limiter, request: FastifyRequest, subjectOf: SubjectReader): Promise<RateLimitResult> {
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
    /* c8 ignore next 2 -- who is blocked has been answered before any limiter is asked */
    case 'blocked': throw new TypeError('a limiter does not block')
  }
}

async function peeked (limiter: Limiter, request: FastifyRequest, subjectOf: SubjectReader): Promise<RateLimitResult> {
  const client = limiter.clientOf(subjectOf(request))
  if (await limiter.skips(request)) return { isAllowed: true, key: client.shown }
  const { counterKeys, shown, checks } = await limiter.whomOf(request, client)
  if (typeof checks === 'string' || checks.length === 0) return { isAllowed: true, key: shown }
  const decision = await limiter.peek(counterKeys.client, checks).catch((failure: Error) => {
    throw failureError(failure)
  })
  switch (decision.kind) {
    case 'shadowed': return { isAllowed: true, key: shown }
    case 'denied': throw deniedError()
    case 'uncounted': return uncountedResult(limiter, shown, decision)
  }
  // A client that has just used its last hit has not exceeded the limit yet. Only noted refusals tell the difference.
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
