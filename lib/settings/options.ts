/**
 * The types of the options of the plugin and of a route. Names and meanings are those of `@fastify/rate-limit` where it
 * has the option. The doc comment of an option begins with its description and rule from option-table.ts, and ends with
 * its default; test/doc-comments.test.ts compares the two.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Registry } from 'prom-client'
import type { RefusalCode } from '../errors.js'
import type { Algorithm } from '../rules/algorithms.js'
import type { Awaitable } from '../runtime/awaitable.js'
import type { CustomStoreConstructor } from './custom-store.js'
import type { RedisOption } from './redis-option.js'

/** The refusal that `errorResponseBuilder` makes an error of. */
export interface RefusalContext {
  /** 429; 403 where `ban` refuses */
  readonly statusCode: number
  /** `GUARD_LIMITED` (429), or `GUARD_BANNED` (403) */
  readonly code: Extract<RefusalCode, 'GUARD_LIMITED' | 'GUARD_BANNED'>
  /** Name of the limit that refuses, as in `redisGuard.limits.names`. */
  readonly limit: string
  /** Whether the option `ban` refuses the request. */
  readonly ban: boolean
  /** Hits that the limit allows in a window. */
  readonly max: number
  /** ms until the client may try again; `Infinity`: the request costs more than the limit ever allows. */
  readonly ttl: number
  /** `ttl` in words, such as `1 minute`; `never` for `Infinity`. */
  readonly after: string
}

export const limitHeaders = ['x-ratelimit-limit', 'x-ratelimit-remaining', 'x-ratelimit-reset'] as const
export const draftLimitHeaders = ['ratelimit-limit', 'ratelimit-remaining', 'ratelimit-reset'] as const
export const refusalHeaders = [...limitHeaders, 'retry-after'] as const
export const anyLimitHeaders = [...limitHeaders, ...draftLimitHeaders] as const
export const anyRefusalHeaders = [...anyLimitHeaders, 'retry-after'] as const

/**
 * A header of an allowed request. With `enableDraftSpec` the header is sent without `x-`. In an option, both names mean
 * the same header.
 */
export type LimitHeader = typeof anyLimitHeaders[number]

/** A header of a refused request: a `LimitHeader`, or `retry-after`. */
export type RefusalHeader = typeof anyRefusalHeaders[number]

/**
 * How a request is answered that cannot be counted in Redis. Memory counts it, as if this were the only instance
 * (`memory`) or one of several (`share`); or it is not counted, and passes (`allow`), gets a 503 (`deny`) or a 500
 * (`fail`).
 */
export type OnOutage = 'memory' | 'share' | 'allow' | 'deny' | 'fail'

/** The values of the option `onOutage`. `fail` is set by `skipOnError: false` only. */
export const onOutages = ['memory', 'share', 'allow', 'deny'] as const satisfies readonly OnOutage[]

export const hooks = ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const
/** A hook of a route in which a limit may be decided. */
export type LimitHook = typeof hooks[number]

/** Options that each of several limits has for itself. */
export interface SingleLimitOptions {
  /**
   * How hits are counted. `fixed-window`: in windows that begin with a client's first hit. `sliding-window`: the hits
   * of the window before fade out evenly. `gcra`: a bucket that drains evenly. One of 'fixed-window', 'sliding-window',
   * 'gcra'.
   *
   * A `fixed-window` lets up to twice `max` pass around the end of a window. The other two do not.
   *
   * @default 'fixed-window'
   */
  algorithm?: Algorithm
  /**
   * Hits that a client may make in a window. `Infinity`: no limit. A whole number >= 0, or Infinity, or a function
   * (request, key) => number.
   *
   * With `Infinity`, also from a function, the request is not counted and gets no headers.
   *
   * @default 1000
   * @example
   * max: async (request, key) => await planOf(key)
   */
  max?: number | ((request: FastifyRequest, key: string) => Awaitable<number>)
  /**
   * Length of the window. Whole ms from 1 to 316224000000 (ten years), or a string such as '1 minute', or a function
   * (request, key) => ms.
   *
   * A function must return the same for all requests of a client: a shorter window ends a longer one.
   *
   * @default 60000
   * @example
   * timeWindow: '15 minutes'
   */
  timeWindow?: number | string | ((request: FastifyRequest, key: string) => Awaitable<number>)
  /**
   * For `gcra` only: hits that may come at once. A whole number >= 1.
   *
   * @default max
   * @example
   * algorithm: 'gcra', max: 60, timeWindow: '1 minute', burst: 5
   */
  burst?: number
  /**
   * How many hits a request counts as. A function may return 0: the request is neither counted nor refused. A whole
   * number >= 1, or a function (request) => number.
   *
   * A client must not be able to choose a cost of 0. A request that costs more than the limit ever allows gets a 429
   * without `retry-after`. If a function returns a negative number or a fraction, the request gets a 500.
   *
   * @default 1
   * @example
   * cost: request => Array.isArray(request.body) ? Math.max(1, request.body.length) : 1
   */
  cost?: number | ((request: FastifyRequest) => Awaitable<number>)
  /**
   * For `fixed-window` only: after this many refusals in a window, further refusals are a 403 instead of a 429. `-1`:
   * never. A whole number >= -1.
   *
   * @default -1
   */
  ban?: number
  /**
   * For `fixed-window` only: each refused request restarts the window. True or false.
   *
   * @default false
   */
  continueExceeding?: boolean
  /**
   * For `fixed-window` only: each refused request restarts the window. From the second refusal on, the window is twice
   * as long each time, up to `maxBackoff`. True or false.
   *
   * @default false
   */
  exponentialBackoff?: boolean
  /**
   * The longest window that `exponentialBackoff` makes. At least `timeWindow`. Whole ms from 1 to 316224000000 (ten
   * years), or a string such as '1 minute'.
   *
   * Where a function or `limits.set` makes the window longer than this, the window itself is the longest.
   *
   * @default '1 day', or timeWindow where that is longer
   */
  maxBackoff?: number | string
  /**
   * Counts and reports, but refuses nothing. True or false.
   *
   * Requests get no headers. The metric `redis_guard_decisions_total{outcome="shadowed"}` counts those that would have
   * been refused. In the plugin's options, blocks refuse nothing either.
   *
   * @default false
   */
  shadow?: boolean
  /**
   * The part of the clients that the limit refuses, always the same ones. For all others it is in shadow. A number from
   * 0 to 1.
   *
   * @default 1
   * @example
   * enforce: 0.1
   */
  enforce?: number
}

/** One of several limits, in the option `limits`. */
export interface NamedLimitOptions extends SingleLimitOptions {
  /** 1 to 50 letters, digits, `.`, `_` or `-`; no two limits of a list have the same name. */
  name: string
  /** See `max` of a single limit. Required here. */
  max: Exclude<SingleLimitOptions['max'], undefined>
  /** See `timeWindow` of a single limit. Required here. */
  timeWindow: Exclude<SingleLimitOptions['timeWindow'], undefined>
}

/** An address, a CIDR range or a key. `{ key }` is for a key that looks like an address. */
export type AllowListEntry = string | {
  /** Compared with the key of the request only, though it may look like an address. */
  readonly key: string
}

/**
 * An id of a client. It is counted by its text: a finite number or a BigInt in digits, a `Buffer` or `Uint8Array` in
 * hex, any other object, such as an ObjectId or a URL, by its own `toString`. So `1`, `1n` and `'1'` are one client.
 *
 * With any other value the request gets a 500. TypeScript cannot reject some of these: arrays, dates, and objects
 * without a `toString` of their own.
 */
export type ClientId = string | number | bigint | (object & {
  /** No promise: `keyGenerator` may return a promise of an id, but an id is none. */
  readonly then?: never
})

/** Options of a limit, in the plugin's options and in a route's `config.rateLimit`. */
export interface RateLimitOptions extends SingleLimitOptions {
  /**
   * Several limits instead of `max` and `timeWindow`. They are decided together. An array of 1 to 10 limits
   * `{ name, max, timeWindow, ... }`.
   *
   * A request that one of them refuses is not counted by the others. The other options of the route are the defaults of
   * each limit.
   *
   * @default none
   * @example
   * limits: [
   *   { name: 'burst', max: 10, timeWindow: '1s' },
   *   { name: 'daily', max: 5000, timeWindow: '1 day' }
   * ]
   */
  limits?: readonly NamedLimitOptions[]
  /**
   * Called when a request has been answered: whether it counts. `false`: its hits are given back. A function (request,
   * reply) => boolean.
   *
   * The request counts until it is answered. A request whose answer was not delivered as a whole stays counted.
   *
   * @default every request counts
   * @example
   * countWhen: (request, reply) => reply.statusCode === 401
   */
  countWhen?: (request: FastifyRequest, reply: FastifyReply) => boolean
  /**
   * The hook of the route in which the limit is decided. One of 'onRequest', 'preParsing', 'preValidation',
   * 'preHandler'.
   *
   * `request.body` exists from `preValidation` on.
   *
   * @default 'onRequest'
   */
  hook?: LimitHook
  /**
   * Addresses, CIDR ranges and keys that are not limited. Write a key that looks like an address as `{ key }`.
   * Addresses and ranges in the plugin's own list are not blocked either. An array of strings and `{ key: string }`, or
   * a function (request, key) => boolean.
   *
   * Addresses and ranges are compared with the address of the request only, so sending one as a key exempts nobody.
   *
   * @default []
   * @example
   * allowList: ['10.0.0.0/8', 'partner', { key: '203.0.113.7' }]
   */
  allowList?: readonly AllowListEntry[] | ((request: FastifyRequest, key: string) => Awaitable<boolean>)
  /**
   * Leaves out the requests for which it returns true, such as those of routes of other plugins. They are not limited,
   * but blocks apply. A function (request) => boolean.
   *
   * It is called before all other functions of the limit, so the request needs no key. Any truthy answer leaves the
   * request out. Compare the pattern of the route: a client can choose `request.url`.
   *
   * @default none
   * @example
   * skip: request => request.routeOptions.url === '/status'
   */
  skip?: (request: FastifyRequest) => Awaitable<boolean | undefined>
  /**
   * Returns what identifies the client of a request. A function (request) => string, number, BigInt, bytes, or object
   * with a toString.
   *
   * `undefined`, `null` and `''` mean the address. Functions that are called with the key get the value itself, which
   * may be a number.
   *
   * @default the address
   * @example
   * keyGenerator: request => request.headers['x-api-key']
   */
  keyGenerator?: (request: FastifyRequest) => Awaitable<ClientId | null | undefined>
  /**
   * Length of the IPv6 prefix, in bits. All addresses with the same prefix are one client. A whole number from 0 to
   * 128.
   *
   * @default 64
   */
  ipv6Subnet?: number
  /**
   * Returns the error that is thrown for a refused request. A function (request, context) => error.
   *
   * It must not be async.
   *
   * @default Fastify's error
   * @example
   * errorResponseBuilder: (request, { statusCode, after }) =>
   *   Object.assign(new Error(`Retry in ${after}`), { statusCode })
   */
  errorResponseBuilder?: (request: FastifyRequest, context: RefusalContext) => object
  /**
   * Called for each allowed request. A function (request, key) => void.
   *
   * It is not awaited: a promise that fails is logged. If it throws, the request gets that error.
   *
   * @default none
   */
  onExceeding?: (request: FastifyRequest, key: string) => void
  /**
   * Called for each refused request. A function (request, key) => void.
   *
   * It is not awaited: a promise that fails is logged. If it throws, the request gets that error.
   *
   * @default none
   */
  onExceeded?: (request: FastifyRequest, key: string) => void
  /**
   * Called for each request that `ban` refuses, after `onExceeded`. A function (request, key) => void.
   *
   * It is not awaited: a promise that fails is logged. If it throws, the request gets that error.
   *
   * @default none
   */
  onBanReach?: (request: FastifyRequest, key: string) => void
  /**
   * How requests are answered while Redis is away. `memory`: each instance allows `max`. `share`: all instances
   * together allow `max`. `allow`: requests pass uncounted. `deny`: requests get a 503. One of 'memory', 'share',
   * 'allow', 'deny'.
   *
   * @default 'memory'
   */
  onOutage?: typeof onOutages[number]
  /**
   * The option of `@fastify/rate-limit` in place of `onOutage`. `true` is `onOutage: 'allow'`. `false`: requests get a
   * 500 while Redis is away. True or false.
   *
   * @default not set
   */
  skipOnError?: boolean
  /**
   * Which headers a refused request gets. An object of booleans named x-ratelimit-limit, x-ratelimit-remaining,
   * x-ratelimit-reset, ratelimit-limit, ratelimit-remaining, ratelimit-reset, retry-after.
   *
   * In the plugin's options, a header that is left out is `true`; in those of a route, it is `false`.
   *
   * @default all true
   */
  addHeaders?: Partial<Record<RefusalHeader, boolean>>
  /**
   * Which headers an allowed request gets. An object of booleans named x-ratelimit-limit, x-ratelimit-remaining,
   * x-ratelimit-reset, ratelimit-limit, ratelimit-remaining, ratelimit-reset.
   *
   * In the plugin's options, a header that is left out is `true`; in those of a route, it is `false`.
   *
   * @default all true
   */
  addHeadersOnExceeding?: Partial<Record<LimitHeader, boolean>>
  /**
   * Adds the headers `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-11. True or false.
   *
   * @default false
   */
  standardHeaders?: boolean
  /**
   * Answers refused requests with a problem of RFC 9457 (`application/problem+json`) instead of throwing an error. True
   * or false.
   *
   * @default false
   */
  problemDetails?: boolean
}

/** Options of a route (`config.rateLimit`), and of `fastify.rateLimit` and `fastify.createRateLimit`. */
export interface RouteRateLimitOptions extends RateLimitOptions {
  /**
   * Limits with the same `groupId`, algorithm and window share one counter for each client. With `gcra`, each request
   * fills the shared bucket by `timeWindow` / `max` of its own route. A string.
   *
   * @default none
   */
  groupId?: string
}

/**
 * `false` in a route's `config.rateLimit`: the route has no limit.
 *
 * The properties, which `false` does not have, are for editors: without them, TypeScript finds two declarations of an
 * option in a route's `config`, and an editor that points at the option shows no documentation.
 */
export type NoRateLimit = false & { readonly [name in keyof RouteRateLimitOptions]?: undefined }

/** The methods of a prom-client `Registry` that the guard calls. So any copy or version of prom-client will do. */
export type MetricsRegistry = Pick<
  Registry, 'registerMetric' | 'getSingleMetric' | 'removeSingleMetric' | 'metrics' | 'contentType'
>

/** The option `metrics`. */
export interface MetricsOptions {
  /**
   * Path of the route that serves the metrics. `false`: no route; the registry is filled all the same.
   *
   * @default '/metrics'
   */
  path?: string | false
  /**
   * Your own prom-client registry, which gets the metrics of the guard.
   *
   * @default a new registry
   */
  registry?: MetricsRegistry
}

/** Options of the plugin. A wrong or misspelt option stops the start, with one error that names all of them. */
export interface RedisGuardOptions extends RateLimitOptions {
  /**
   * Where Redis is. `false`: no Redis. With `required: true` in it, the application does not start without Redis. A URL
   * (redis://[user:password@]host[:port][/db], rediss:// for TLS, or unix:///path), ioredis options, { cluster: [...]
   * }, { sentinels: [...], name }, an ioredis client, or false.
   *
   * By default, the variables `REDIS_URL`, `REDIS_PASSWORD`, `REDIS_TLS`, `REDIS_ENABLED` and `NODE_ENV` decide.
   *
   * @default the environment
   * @example
   * redis: { url: 'rediss://cache.internal:6379', required: true }
   */
  redis?: RedisOption
  /**
   * Limits every route that is registered later. `false`: only routes with a `config.rateLimit`. True or false.
   *
   * @default true
   */
  global?: boolean
  /**
   * Also limits requests that match no route (404), on the counter of the global limit. True or false.
   *
   * @default true
   */
  limitNotFound?: boolean
  /**
   * Names the headers `ratelimit-*` instead of `x-ratelimit-*`. True or false.
   *
   * @default false
   */
  enableDraftSpec?: boolean
  /**
   * The most counters that each process keeps in memory. A whole number from 1 to 10000000.
   *
   * @default 5000
   */
  cache?: number
  /**
   * Prefix of every key in Redis. A non-empty string without braces.
   *
   * Applications that share a Redis, and should not share counters and blocks, need different prefixes.
   *
   * @default 'guard:'
   */
  nameSpace?: string
  /**
   * Stores and shows a hash instead of the key that `keyGenerator` returns. True, false, or a secret of at least 16
   * characters.
   *
   * The hash stands in the names of keys in Redis, in events, log lines and diagnostics channels, and your own `store`
   * gets it. Callbacks get the key itself, and `allowList`, `limits.peek` and `limits.reset` take it. Addresses are not
   * hashed.
   *
   * `true` is HMAC-SHA-256 with the `nameSpace` as its secret. It hides keys that nobody can guess, such as random API
   * keys. A secret of your own also hides e-mail addresses and user numbers. It must be the same on all instances. A
   * new secret resets all counters by key.
   *
   * @default false
   * @example
   * keyGenerator: request => request.headers['x-api-key'], hashKeys: process.env.KEY_HASH_SECRET
   */
  hashKeys?: boolean | string
  /**
   * A class of your own, as for `@fastify/rate-limit`, that counts instead of Redis and memory. Blocks, events and
   * values stay where they are. A class with the methods incr and child.
   *
   * @default none
   */
  store?: CustomStoreConstructor
  /**
   * Where Prometheus metrics are served (`path`; `false`: nowhere), and the prom-client registry that holds them
   * (`registry`; default: a new one). `false`: no metrics. False, or { path, registry }.
   *
   * @default { path: '/metrics' }
   * @example
   * metrics: { path: '/internal/metrics' }
   */
  metrics?: false | MetricsOptions
  /**
   * ms after which the guard gives up a command to Redis, and memory answers. A whole number from 1 to 60000.
   *
   * @default 250
   */
  commandTimeout?: number
  /**
   * ms that connecting to Redis may take, and the longest that the start waits for Redis. A whole number from 1 to
   * 600000.
   *
   * @default REDIS_TIMEOUT, or 5000
   */
  connectTimeout?: number
  /**
   * ms from the opening of the circuit breaker until it tries Redis again. A whole number from 50 to 600000.
   *
   * @default 500
   */
  resetTimeout?: number
  /**
   * ms between two reads of the changes that other instances made to blocks and limits. A whole number from 10 to
   * 60000.
   *
   * @default 250
   */
  syncInterval?: number
  /**
   * The most events that are kept. A whole number from 1 to 1000000.
   *
   * @default 10000
   */
  maxEvents?: number
  /**
   * The most entries that wait while Redis is away: counters, changes of blocks, events and values together. When the
   * journal is full, events are dropped first, then counters of clients with most of their quota left. A whole number
   * from 1 to 10000000.
   *
   * @default 100000
   */
  maxJournal?: number
}
