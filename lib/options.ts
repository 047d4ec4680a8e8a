/**
 * What may be asked for: the options of the plugin and of a route, declared
 * once each, with default, unit and description. Names and meanings are those
 * of @fastify/rate-limit where it has them.
 */
import type { FastifyRequest } from 'fastify'
import type { Registry } from 'prom-client'
import type { Awaitable } from './awaitable.js'
import { duration, either, flag, fn, isRecord, keyPrefix, oneOf, text, texts, type ValueRule, whole, wrong } from './option-rules.js'
import { type RedisOption, redisRule } from './redis-option.js'
import { type Algorithm, algorithms } from './rules/rate-limit.js'
import type { OnOutage } from './rules/verdict.js'

/** What `errorResponseBuilder` is told about a refusal. */
export interface RefusalContext {
  readonly statusCode: number
  readonly ban: boolean
  readonly max: number
  /** ms until the client may try again */
  readonly ttl: number
  /** the same as a text, such as `1 minute` */
  readonly after: string
}

export const limitHeaders = ['x-ratelimit-limit', 'x-ratelimit-remaining', 'x-ratelimit-reset'] as const
export const refusalHeaders = [...limitHeaders, 'retry-after'] as const
export type LimitHeader = typeof limitHeaders[number]
export type RefusalHeader = typeof refusalHeaders[number]

/** See OnOutage in rules/verdict.ts. */
export const onOutages = ['memory', 'share', 'allow', 'deny'] as const satisfies readonly OnOutage[]

export const hooks = ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const
export type LimitHook = typeof hooks[number]

/** A limit as asked for, by the plugin's options or by a route's `config.rateLimit`. */
export interface RateLimitOptions {
  algorithm?: Algorithm
  max?: number | ((request: FastifyRequest, key: string) => Awaitable<number>)
  timeWindow?: number | string | ((request: FastifyRequest, key: string) => Awaitable<number>)
  burst?: number
  hook?: LimitHook
  allowList?: readonly string[] | ((request: FastifyRequest, key: string) => Awaitable<boolean>)
  keyGenerator?: (request: FastifyRequest) => Awaitable<string | number>
  errorResponseBuilder?: (request: FastifyRequest, context: RefusalContext) => object
  onExceeding?: (request: FastifyRequest, key: string) => void
  onExceeded?: (request: FastifyRequest, key: string) => void
  onOutage?: typeof onOutages[number]
  skipOnError?: boolean
  addHeaders?: Partial<Record<RefusalHeader, boolean>>
  addHeadersOnExceeding?: Partial<Record<LimitHeader, boolean>>
}

/** A route's `config.rateLimit`. */
export interface RouteRateLimitOptions extends RateLimitOptions {
  groupId?: string
}

/** The structural part of a prom-client `Registry` that is used, so that any copy of prom-client will do. */
export type MetricsRegistry = Pick<Registry, 'registerMetric' | 'getSingleMetric' | 'removeSingleMetric' | 'metrics' | 'contentType'>

export interface MetricsOptions {
  /** where to serve; `false`: nowhere, only the registry is filled. Default `/metrics` */
  path?: string | false
  /** your own registry; default: one of the plugin's */
  registry?: MetricsRegistry
}

export interface RedisGuardOptions extends RateLimitOptions {
  redis?: RedisOption
  global?: boolean
  limitNotFound?: boolean
  cache?: number
  ipv6Subnet?: number
  nameSpace?: string
  metrics?: false | MetricsOptions
  commandTimeout?: number
  connectTimeout?: number
  resetTimeout?: number
  syncInterval?: number
  maxEvents?: number
  maxJournal?: number
}

/** One option: all that README, validation and defaults need to know. */
export interface Option<T = unknown, Fallback = unknown> {
  readonly value: ValueRule<T>
  /** what holds when it is not given */
  readonly fallback: Fallback
  /** the same as README shows it */
  readonly shown: string
  readonly description: string
}

function option<T, Fallback extends T | undefined> (
  value: ValueRule<T>, fallback: Fallback, description: string, shown = `\`${typeof fallback === 'string' ? `'${fallback}'` : String(fallback)}\``
): Option<T, Fallback> {
  return { value, fallback, description, shown }
}

/** Options of the plugin and of each route. */
export const limitOptions = {
  algorithm: option(oneOf(...algorithms), 'fixed-window' as Algorithm, 'how hits are counted; see "How a decision is taken"'),
  max: option(either(whole(0), fn<(request: FastifyRequest, key: string) => Awaitable<number>>('(request, key) => number')), 1000, 'hits allowed per window'),
  timeWindow: option(either(duration, fn<(request: FastifyRequest, key: string) => Awaitable<number>>('(request, key) => ms')), 60_000, 'length of the window'),
  burst: option(whole(1), undefined, '`gcra` only: hits that may come at once', '`max`'),
  hook: option(oneOf(...hooks), 'onRequest' as LimitHook, "the route's hook in which the limit is decided"),
  allowList: option(either(texts, fn<(request: FastifyRequest, key: string) => Awaitable<boolean>>('(request, key) => boolean')), [], "addresses, CIDR ranges and keys that are not limited. In the plugin's options, addresses and ranges listed here are not blocked either", '`[]`'),
  keyGenerator: option(fn<(request: FastifyRequest) => Awaitable<string | number>>('(request) => text or number'), undefined, 'what clients are told apart by', 'the address'),
  errorResponseBuilder: option(fn<(request: FastifyRequest, context: RefusalContext) => object>('(request, context) => error'), undefined, 'what it returns is thrown as it is', "Fastify's error"),
  onExceeding: option(fn<(request: FastifyRequest, key: string) => void>('(request, key) => void'), undefined, 'called for each allowed request', 'none'),
  onExceeded: option(fn<(request: FastifyRequest, key: string) => void>('(request, key) => void'), undefined, 'called for each refused request', 'none'),
  onOutage: option(oneOf(...onOutages), 'memory' as typeof onOutages[number], 'while Redis is away: `memory`: each instance allows `max`; `share`: all instances together do; `allow`: requests pass uncounted; `deny`: they get a 503'),
  skipOnError: option(flag, undefined, "in place of `onOutage`, as @fastify/rate-limit has it: `true` is `'allow'`; `false`: requests get a 500", 'unset'),
  addHeaders: option(headerFlags(refusalHeaders), allTrue(refusalHeaders), 'headers of a refusal', 'all `true`'),
  addHeadersOnExceeding: option(headerFlags(limitHeaders), allTrue(limitHeaders), 'headers of an allowed request', 'all `true`')
} satisfies { readonly [name in keyof Required<RateLimitOptions>]: Option }

/** Options of a route only. */
export const routeOptions = {
  groupId: option(text, undefined, 'routes of one group share a counter of each client, as far as their limits count alike', 'none')
} satisfies { readonly [name in Exclude<keyof Required<RouteRateLimitOptions>, keyof RateLimitOptions>]: Option }

/** Options of the plugin only. */
export const pluginOptions = {
  redis: option({ rule: redisRule, read: (value): unknown => value }, undefined, 'where Redis is; `false`: never', 'the environment'),
  global: option(flag, true, 'limit every route that is registered later; `false`: only those with a `config.rateLimit`'),
  limitNotFound: option(flag, true, 'limit requests for what is not there, too, by the global limit and on its counter'),
  cache: option(whole(1, 10_000_000), 5000, 'the most keys that the memory store keeps'),
  ipv6Subnet: option(whole(0, 128), 64, 'IPv6 clients are told apart by a prefix of this many bits'),
  nameSpace: option(keyPrefix, 'guard:', 'what every key in Redis starts with'),
  metrics: option(either({ rule: 'false', read: (value): false | typeof wrong => value === false ? value : wrong }, { rule: '{ path, registry }', read: readMetrics }), Object.freeze({ path: '/metrics', registry: undefined }), '`path: false` serves nothing, `registry` is your own, `false` turns metrics off', "`{ path: '/metrics' }`"),
  commandTimeout: option(whole(1, 60_000), 250, 'ms after which a command to Redis is given up, and memory answers'),
  connectTimeout: option(whole(1, 600_000), 5000, 'ms for connecting, and the most that start-up waits for Redis', '`REDIS_TIMEOUT`, or `5000`'),
  resetTimeout: option(whole(50, 600_000), 500, 'ms from the opening of the circuit breaker to its next probe'),
  syncInterval: option(whole(10, 60_000), 250, 'ms between two looks for changes that other instances made to the block list'),
  maxEvents: option(whole(1, 1_000_000), 10_000, 'the most events that are kept'),
  maxJournal: option(whole(1, 10_000_000), 100_000, 'the most counters, changes of blocks, events and values that are kept for a Redis that is away')
} satisfies { readonly [name in Exclude<keyof Required<RedisGuardOptions>, keyof RateLimitOptions>]: Option }

const registryMethods = ['registerMetric', 'getSingleMetric', 'removeSingleMetric', 'metrics']

function readMetrics (value: unknown): { path: string | false, registry: MetricsRegistry | undefined } | typeof wrong {
  if (!isRecord(value) || Object.keys(value).some(name => name !== 'path' && name !== 'registry')) return wrong
  const { path = '/metrics', registry } = value
  const pathIsFine = path === false || (typeof path === 'string' && path.startsWith('/'))
  const registryIsFine = registry === undefined || (isRecord(registry) && registryMethods.every(name => typeof registry[name] === 'function'))
  return pathIsFine && registryIsFine ? Object.freeze({ path, registry: registry as MetricsRegistry | undefined }) : wrong
}

function headerFlags<T extends string> (names: readonly T[]): ValueRule<Partial<Record<T, boolean>>> {
  return {
    rule: `an object of booleans named ${names.join(', ')}`,
    read (value) {
      if (!isRecord(value)) return wrong
      const fine = Object.entries(value).every(([name, on]) => names.includes(name as T) && typeof on === 'boolean')
      return fine ? value as Partial<Record<T, boolean>> : wrong
    }
  }
}

function allTrue<T extends string> (names: readonly T[]): Readonly<Record<T, boolean>> {
  return Object.fromEntries(names.map(name => [name, true])) as Record<T, boolean>
}
