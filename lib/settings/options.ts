/**
 * What may be asked for: the options of the plugin and of a route. Names and
 * meanings are those of @fastify/rate-limit where it has them. Rules, defaults
 * and descriptions are in option-table.ts.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Registry } from 'prom-client'
import type { RefusalCode } from '../errors.js'
import type { Algorithm } from '../rules/algorithms.js'
import type { Awaitable } from '../runtime/awaitable.js'
import type { CustomStoreConstructor } from './custom-store.js'
import type { RedisOption } from './redis-option.js'

/** What `errorResponseBuilder` is told about a refusal. */
export interface RefusalContext {
  readonly statusCode: number
  readonly code: Extract<RefusalCode, 'GUARD_LIMITED' | 'GUARD_BANNED'>
  /** name of the limit that refuses, as in `redisGuard.limits` */
  readonly limit: string
  readonly ban: boolean
  readonly max: number
  /** ms until the client may try again; Infinity: the request counts for more than the limit ever allows */
  readonly ttl: number
  /** the same as a text, such as `1 minute`, or `never` */
  readonly after: string
}

export const limitHeaders = ['x-ratelimit-limit', 'x-ratelimit-remaining', 'x-ratelimit-reset'] as const
export const draftLimitHeaders = ['ratelimit-limit', 'ratelimit-remaining', 'ratelimit-reset'] as const
export const refusalHeaders = [...limitHeaders, 'retry-after'] as const
export const anyLimitHeaders = [...limitHeaders, ...draftLimitHeaders] as const
export const anyRefusalHeaders = [...anyLimitHeaders, 'retry-after'] as const
/** With `enableDraftSpec` a header has a name without `x-`; both names mean it. */
export type LimitHeader = typeof anyLimitHeaders[number]
export type RefusalHeader = typeof anyRefusalHeaders[number]

/**
 * Who answers while Redis is away: memory, as if this were the only instance
 * (`memory`) or one of several (`share`), or nobody: then every request passes
 * uncounted (`allow`), gets a 503 (`deny`), or fails with a 500 (`fail`).
 */
export type OnOutage = 'memory' | 'share' | 'allow' | 'deny' | 'fail'

/** What `onOutage` may be; `skipOnError` asks for `fail`. */
export const onOutages = ['memory', 'share', 'allow', 'deny'] as const satisfies readonly OnOutage[]

export const hooks = ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const
export type LimitHook = typeof hooks[number]

/** What one of several limits may say of itself. */
export interface SingleLimitOptions {
  algorithm?: Algorithm
  /**
   * Hits allowed per window. `Infinity`, also from a function, is no limit: the
   * request is not counted and gets no headers. Default: 1000.
   *
   * @example
   * max: async (request, key) => await isPremium(key) ? Infinity : 100
   */
  max?: number | ((request: FastifyRequest, key: string) => Awaitable<number>)
  timeWindow?: number | string | ((request: FastifyRequest, key: string) => Awaitable<number>)
  burst?: number
  /**
   * How many hits a request counts for. A function may answer 0: such a request
   * is neither counted nor refused, so a client must not be able to choose it.
   * It may answer more than the limit ever allows: such a request gets a 429
   * without `retry-after`. Any other answer gets a 500. Default: 1.
   *
   * @example
   * cost: request => Array.isArray(request.body) ? Math.max(1, request.body.length) : 1
   */
  cost?: number | ((request: FastifyRequest) => Awaitable<number>)
  ban?: number
  continueExceeding?: boolean
  exponentialBackoff?: boolean
  /**
   * The longest window that `exponentialBackoff` makes: ms, or a string such as
   * `'1 hour'`. At least `timeWindow`; where a function or `limits.set` makes
   * the window longer than this, the window itself is the cap. Default: a day,
   * or `timeWindow` where that is longer.
   */
  maxBackoff?: number | string
  shadow?: boolean
  enforce?: number
}

/** One of several limits. */
export interface NamedLimitOptions extends SingleLimitOptions {
  /** tells it from the others */
  name: string
  max: Exclude<SingleLimitOptions['max'], undefined>
  timeWindow: Exclude<SingleLimitOptions['timeWindow'], undefined>
}

/** An address, a range of addresses, or a key; `{ key }` is for a key that looks like an address. */
export type AllowListEntry = string | { readonly key: string }

/**
 * An id of a client, which is counted by its text: a finite number or a BigInt
 * in digits, a `Buffer` or `Uint8Array` in hex, any other object by its own
 * `toString`, such as an ObjectId or a URL. So `1`, `1n` and `'1'` are one
 * client. With anything else the request gets a 500, also with values that
 * TypeScript cannot reject: arrays, dates, and objects without their own `toString`.
 */
export type ClientId = string | number | bigint | (object & { readonly then?: never })

/** A limit as asked for, by the plugin's options or by a route's `config.rateLimit`. */
export interface RateLimitOptions extends SingleLimitOptions {
  limits?: readonly NamedLimitOptions[]
  countWhen?: (request: FastifyRequest, reply: FastifyReply) => boolean
  hook?: LimitHook
  /**
   * Clients that the limit does not count. An address or a range is compared
   * only with the address of the request, so that sending it as a key exempts
   * nobody. Any other string, and `{ key }`, is compared with the key. In the
   * plugin's options, addresses and ranges are also exempt from blocks. Default: none.
   *
   * @example
   * allowList: ['10.0.0.0/8', 'partner', { key: '203.0.113.7' }]
   */
  allowList?: readonly AllowListEntry[] | ((request: FastifyRequest, key: string) => Awaitable<boolean>)
  /**
   * Whether a request is left out: the limit neither counts nor refuses it, and sends no headers. It is asked first, so
   * that a request which is left out needs no key. Any truthy answer leaves out. Blocks hold. Default: none.
   *
   * For routes whose `config` another plugin writes. Compare the pattern of the route, which the client cannot choose
   * as it can `request.url`.
   *
   * @example
   * skip: request => request.routeOptions.url === '/status'
   */
  skip?: (request: FastifyRequest) => Awaitable<boolean | undefined>
  /**
   * Returns the id of the client; `undefined`, `null` and `''` mean the address.
   * Functions that are called with the key get the very value, which may be a
   * number. Default: the address.
   */
  keyGenerator?: (request: FastifyRequest) => Awaitable<ClientId | null | undefined>
  ipv6Subnet?: number
  errorResponseBuilder?: (request: FastifyRequest, context: RefusalContext) => object
  onExceeding?: (request: FastifyRequest, key: string) => void
  onExceeded?: (request: FastifyRequest, key: string) => void
  onBanReach?: (request: FastifyRequest, key: string) => void
  onOutage?: typeof onOutages[number]
  skipOnError?: boolean
  addHeaders?: Partial<Record<RefusalHeader, boolean>>
  addHeadersOnExceeding?: Partial<Record<LimitHeader, boolean>>
  standardHeaders?: boolean
  problemDetails?: boolean
}

/** A route's `config.rateLimit`. */
export interface RouteRateLimitOptions extends RateLimitOptions {
  groupId?: string
}

/** The structural part of a prom-client `Registry` that is used, so that any copy of prom-client will do. */
export type MetricsRegistry = Pick<
  Registry, 'registerMetric' | 'getSingleMetric' | 'removeSingleMetric' | 'metrics' | 'contentType'
>

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
  enableDraftSpec?: boolean
  cache?: number
  nameSpace?: string
  /**
   * Replaces the answer of a `keyGenerator` by a hash wherever the guard keeps
   * or shows it: in the names of keys in Redis, events, log lines, diagnostics
   * channels, and calls of your own `store`. Callbacks get the key itself, and
   * `allowList`, `limits.peek` and `limits.reset` take it. Addresses are not hashed.
   *
   * `true`: HMAC-SHA-256 with the `nameSpace`, which hides keys that nobody can
   * guess, such as random API keys. A string of at least 16 characters: HMAC with
   * that secret, which also hides e-mail addresses and user numbers. It must be
   * the same on all instances. A new secret resets all counters by key.
   *
   * @default false
   * @example { keyGenerator: request => request.headers['x-api-key'], hashKeys: process.env.KEY_HASH_SECRET }
   */
  hashKeys?: boolean | string
  store?: CustomStoreConstructor
  metrics?: false | MetricsOptions
  commandTimeout?: number
  connectTimeout?: number
  resetTimeout?: number
  syncInterval?: number
  maxEvents?: number
  maxJournal?: number
}
