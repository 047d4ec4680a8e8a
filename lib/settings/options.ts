/**
 * What may be asked for: the options of the plugin and of a route, declared
 * once each, with default, unit and description. Names and meanings are those
 * of @fastify/rate-limit where it has them.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Registry } from 'prom-client'
import type { Awaitable } from '../runtime/awaitable.js'
import type { RefusalCode } from '../errors.js'
import {
  duration, either, flag, fn, infinite, isRecord, keyPrefix, listOf, oneOf, part, switchOrSecret, text,
  type ValueRule, whole, wrong
} from './option-rules.js'
import { type RedisOption, redisRule } from './redis-option.js'
import { algorithms, type Algorithm } from '../rules/rate-limit.js'
import type { CustomStoreConstructor } from './custom-store.js'

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
const anyLimitHeaders = [...limitHeaders, ...draftLimitHeaders] as const
const anyRefusalHeaders = [...anyLimitHeaders, 'retry-after'] as const
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

const no: ValueRule<false> = { rule: 'false', read: value => value === false ? value : wrong }

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

/** Other packages take the revision of the draft in place of `true`. */
const noRevision: ValueRule<boolean> = {
  ...flag,
  remedyFor: value => typeof value === 'string' ? 'write true' : undefined
}

/** Options of one limit, whether it is the only one or one of several. */
export const singleLimitOptions = {
  algorithm: option(oneOf(...algorithms), 'fixed-window' as Algorithm, 'how hits are counted; see "How a decision is taken"'),
  max: option(
    either(
      either(whole(0), infinite),
      fn<(request: FastifyRequest, key: string) => Awaitable<number>>('(request, key) => number')
    ),
    1000, 'hits allowed per window; `Infinity`: no limit'
  ),
  timeWindow: option(either(duration, fn<(request: FastifyRequest, key: string) => Awaitable<number>>('(request, key) => ms')), 60_000, 'length of the window'),
  burst: option(whole(1), undefined, '`gcra` only: hits that may come at once', '`max`'),
  cost: option(either(whole(1), fn<(request: FastifyRequest) => Awaitable<number>>('(request) => number')), 1, 'how many hits a request counts for; a function may answer 0 (not counted, not refused)'),
  ban: option(whole(-1), -1, '`fixed-window` only: after this many refusals in a window the next get a 403; `-1`: never'),
  continueExceeding: option(flag, false, '`fixed-window` only: each refused request begins the window anew'),
  exponentialBackoff: option(flag, false, '`fixed-window` only: each refused request begins the window anew, and twice as long, up to `maxBackoff`'),
  maxBackoff: option(duration, undefined, 'the longest window that `exponentialBackoff` makes; at least `timeWindow`', "`'1 day'`, or `timeWindow` where that is longer"),
  shadow: option(flag, undefined, 'count and report, but refuse nothing', '`false`'),
  enforce: option(part, undefined, 'for this part of the clients, always the same ones, the limit is in force, for all others in shadow', '`1`')
} satisfies { readonly [name in keyof Required<SingleLimitOptions>]: Option }

/** Options of the plugin and of each route. */
export const limitOptions = {
  ...singleLimitOptions,
  limits: option(listOf<NamedLimitOptions>('an array of 1 to 10 limits `{ name, max, timeWindow, ... }`', 1, 10, value => isRecord(value) ? value as unknown as NamedLimitOptions : wrong), undefined, 'several limits in place of `max` and `timeWindow`, decided together; see "Several limits"', 'none'),
  countWhen: option(fn<(request: FastifyRequest, reply: FastifyReply) => boolean>('(request, reply) => boolean'), undefined, 'asked when the request has been answered: whether it counts; else its hits are given back', 'each counts'),
  hook: option(oneOf(...hooks), 'onRequest' as LimitHook, "the route's hook in which the limit is decided"),
  allowList: option(
    either(
      listOf<AllowListEntry>('an array of strings and `{ key: string }`', 0, Infinity, readAllowListEntry),
      fn<(request: FastifyRequest, key: string) => Awaitable<boolean>>('(request, key) => boolean')
    ),
    [],
    'addresses, CIDR ranges and keys that are not limited; a key that looks like an address is `{ key }`. ' +
    "In the plugin's options, addresses and ranges listed here are not blocked either",
    '`[]`'
  ),
  skip: option(
    fn<NonNullable<RateLimitOptions['skip']>>('(request) => boolean'), undefined,
    'leaves requests out, such as those of routes of other plugins: they are not limited, but blocks hold; ' +
    'see "Routes of other plugins"', 'none'
  ),
  keyGenerator: option(
    fn<NonNullable<RateLimitOptions['keyGenerator']>>('(request) => string, number, BigInt, bytes, or object with a toString'),
    undefined, 'identifies the client of a request', 'the address'
  ),
  ipv6Subnet: option(whole(0, 128), 64, 'IPv6 clients are told apart by a prefix of this many bits'),
  errorResponseBuilder: option(fn<(request: FastifyRequest, context: RefusalContext) => object>('(request, context) => error'), undefined, 'what it returns is thrown as it is', "Fastify's error"),
  onExceeding: option(fn<(request: FastifyRequest, key: string) => void>('(request, key) => void'), undefined, 'called for each allowed request', 'none'),
  onExceeded: option(fn<(request: FastifyRequest, key: string) => void>('(request, key) => void'), undefined, 'called for each refused request', 'none'),
  onBanReach: option(fn<(request: FastifyRequest, key: string) => void>('(request, key) => void'), undefined, 'called for each request that `ban` refuses, after `onExceeded`', 'none'),
  onOutage: option(oneOf(...onOutages), 'memory' as typeof onOutages[number], 'while Redis is away: `memory`: each instance allows `max`; `share`: all instances together do; `allow`: requests pass uncounted; `deny`: they get a 503'),
  skipOnError: option(flag, undefined, "in place of `onOutage`, as @fastify/rate-limit has it: `true` is `'allow'`; `false`: requests get a 500", 'unset'),
  addHeaders: option(headerFlags(anyRefusalHeaders), allTrue(refusalHeaders), 'headers of a refusal', 'all `true`'),
  addHeadersOnExceeding: option(headerFlags(anyLimitHeaders), allTrue(limitHeaders), 'headers of an allowed request', 'all `true`'),
  standardHeaders: option(noRevision, false as boolean, 'also send `RateLimit` and `RateLimit-Policy`, as draft-ietf-httpapi-ratelimit-headers-11 has them'),
  problemDetails: option(flag, false, 'refuse with a body of RFC 9457, `application/problem+json`, in place of an error')
} satisfies { readonly [name in keyof Required<RateLimitOptions>]: Option }

/** Options of a route only. */
export const routeOptions = {
  groupId: option(text, undefined, 'routes of one group share a counter of each client, as far as their limits count alike: by the same algorithm, in the same window. With `gcra` each request fills the shared bucket by `timeWindow` / `max` of its own route', 'none')
} satisfies { readonly [name in Exclude<keyof Required<RouteRateLimitOptions>, keyof RateLimitOptions>]: Option }

/** Options of the plugin only. */
export const pluginOptions = {
  redis: option({ rule: redisRule, read: (value): unknown => value }, undefined, 'where Redis is; `false`: never. With `required: true` in it there is no start without Redis', 'the environment'),
  global: option(flag, true, 'limit every route that is registered later; `false`: only those with a `config.rateLimit`'),
  limitNotFound: option(flag, true, 'limit requests for what is not there, too, by the global limit and on its counter'),
  enableDraftSpec: option(flag, false, 'headers are called `ratelimit-*` in place of `x-ratelimit-*`'),
  cache: option(whole(1, 10_000_000), 5000, 'the most keys that the memory store keeps'),
  store: option(fn<CustomStoreConstructor>('such as @fastify/rate-limit takes: a class with incr and child'), undefined, 'a class of your own that counts in place of Redis and memory; blocks, events and values stay where they are', 'none'),
  nameSpace: option(keyPrefix, 'guard:', 'what every key in Redis starts with'),
  hashKeys: option(
    switchOrSecret, false as boolean | string,
    "keep and show a hash in place of a `keyGenerator`'s answer; see \"Keys that are secrets\""
  ),
  metrics: option(either(no, { rule: '{ path, registry }', read: readMetrics }), Object.freeze({ path: '/metrics', registry: undefined }), '`path: false` serves nothing, `registry` is your own, `false` turns metrics off', "`{ path: '/metrics' }`"),
  commandTimeout: option(whole(1, 60_000), 250, 'ms after which a command to Redis is given up, and memory answers'),
  connectTimeout: option(whole(1, 600_000), 5000, 'ms for connecting, and the most that start-up waits for Redis', '`REDIS_TIMEOUT`, or `5000`'),
  resetTimeout: option(whole(50, 600_000), 500, 'ms from the opening of the circuit breaker to its next probe'),
  syncInterval: option(whole(10, 60_000), 250, 'ms between two looks for changes that other instances made to the block list, and to limits'),
  maxEvents: option(whole(1, 1_000_000), 10_000, 'the most events that are kept'),
  maxJournal: option(
    whole(1, 10_000_000), 100_000,
    'the most counters, changes of blocks, events and values, all together, that wait while Redis is away. ' +
    'When it is full, events are dropped first, then counters of clients with most of their quota left'
  )
} satisfies { readonly [name in Exclude<keyof Required<RedisGuardOptions>, keyof RateLimitOptions>]: Option }

const registryMethods = ['registerMetric', 'getSingleMetric', 'removeSingleMetric', 'metrics']

function readMetrics (value: unknown): { path: string | false, registry: MetricsRegistry | undefined } | typeof wrong {
  if (!isRecord(value) || Object.keys(value).some(name => name !== 'path' && name !== 'registry')) return wrong
  const { path = '/metrics', registry } = value
  const pathIsFine = path === false || (typeof path === 'string' && path.startsWith('/'))
  const registryIsFine = registry === undefined || (isRecord(registry) && registryMethods.every(name => typeof registry[name] === 'function'))
  return pathIsFine && registryIsFine ? Object.freeze({ path, registry: registry as MetricsRegistry | undefined }) : wrong
}

function readAllowListEntry (value: unknown): AllowListEntry | typeof wrong {
  if (typeof value === 'string') return value
  if (!isRecord(value) || Object.keys(value).length !== 1) return wrong
  const { key } = value
  return typeof key === 'string' && key !== '' ? Object.freeze({ key }) : wrong
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
  return Object.freeze(Object.fromEntries(names.map(name => [name, true]))) as Record<T, boolean>
}
