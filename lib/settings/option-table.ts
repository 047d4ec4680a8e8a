/**
 * The options, declared once each: rule, default, unit and description. The tables in docs/options.md and the doc
 * comments in options.ts repeat them; tests compare both with this file.
 */
import { algorithms, type Algorithm } from '../rules/algorithms.js'
import type { CustomStoreConstructor } from './custom-store.js'
import {
  duration, either, flag, fn, infinite, isRecord, keyPrefix, listOf, oneOf, part, switchOrSecret, text,
  type ValueRule, whole, wrong
} from './option-rules.js'
import {
  type AllowListEntry, anyLimitHeaders, anyRefusalHeaders, hooks, limitHeaders, type LimitHook, type MetricsRegistry,
  type NamedLimitOptions, onOutages, type RateLimitOptions, type RedisGuardOptions, refusalHeaders,
  type RouteRateLimitOptions, type SingleLimitOptions
} from './options.js'
import { redisRule } from './redis-option.js'

const customStore: ValueRule<CustomStoreConstructor> = {
  ...fn<CustomStoreConstructor>(''),
  rule: 'a class with the methods incr and child'
}

const no: ValueRule<false> = { rule: 'false', read: value => value === false ? value : wrong }

/** One option: all that validation, defaults and documentation need to know. */
export interface Option<T = unknown, Fallback = unknown> {
  readonly value: ValueRule<T>
  /** the value of an option that is not given */
  readonly fallback: Fallback
  /** the default as the documentation shows it */
  readonly shown: string
  /** sentences without the last full stop */
  readonly description: string
}

function option<T, Fallback extends T | undefined> (
  value: ValueRule<T>, fallback: Fallback, description: string, shown = `\`${asCode(fallback)}\``
): Option<T, Fallback> {
  return { value, fallback, description, shown }
}

function asCode (fallback: unknown): string {
  return typeof fallback === 'string' ? `'${fallback}'` : String(fallback)
}

/** The type of the function that an option takes, as options.ts declares it. */
type FunctionOf<Name extends keyof RateLimitOptions> = Extract<RateLimitOptions[Name], (...args: never[]) => unknown>

/** Other packages take a revision of the draft where this option takes `true`. */
const noRevision: ValueRule<boolean> = {
  ...flag,
  remedyFor: value => typeof value === 'string' ? 'write true' : undefined
}

/** Options of one limit, whether it is the only one or one of several. */
export const singleLimitOptions = {
  algorithm: option(
    oneOf(...algorithms), 'fixed-window' as Algorithm,
    "How hits are counted. `fixed-window`: in windows that begin with a client's first hit. `sliding-window`: the " +
    'hits of the window before fade out evenly. `gcra`: a bucket that drains evenly'
  ),
  max: option(
    either(either(whole(0), infinite), fn<FunctionOf<'max'>>('(request, key) => number')),
    1000, 'Hits that a client may make in a window. `Infinity`: no limit'
  ),
  timeWindow: option(
    either(duration, fn<FunctionOf<'timeWindow'>>('(request, key) => ms')), 60_000, 'Length of the window'
  ),
  burst: option(whole(1), undefined, 'For `gcra` only: hits that may come at once', '`max`'),
  cost: option(
    either(whole(1), fn<FunctionOf<'cost'>>('(request) => number')),
    1, 'How many hits a request counts as. A function may return 0: the request is neither counted nor refused'
  ),
  ban: option(
    whole(-1), -1,
    'For `fixed-window` only: after this many refusals in a window, further refusals are a 403 instead of a 429. ' +
    '`-1`: never'
  ),
  continueExceeding: option(flag, false, 'For `fixed-window` only: each refused request restarts the window'),
  exponentialBackoff: option(
    flag, false,
    'For `fixed-window` only: each refused request restarts the window. From the second refusal on, the window is ' +
    'twice as long each time, up to `maxBackoff`'
  ),
  maxBackoff: option(
    duration, undefined, 'The longest window that `exponentialBackoff` makes. At least `timeWindow`',
    "`'1 day'`, or `timeWindow` where that is longer"
  ),
  shadow: option(flag, undefined, 'Counts and reports, but refuses nothing', '`false`'),
  enforce: option(
    part, undefined,
    'The part of the clients that the limit refuses, always the same ones. For all others it is in shadow', '`1`'
  )
} satisfies { readonly [name in keyof Required<SingleLimitOptions>]: Option }

/** Options of the plugin and of each route. */
export const limitOptions = {
  ...singleLimitOptions,
  limits: option(
    listOf<NamedLimitOptions>('an array of 1 to 10 limits `{ name, max, timeWindow, ... }`', 1, 10, readNamedLimit),
    undefined, 'Several limits instead of `max` and `timeWindow`. They are decided together', 'none'
  ),
  countWhen: option(
    fn<FunctionOf<'countWhen'>>('(request, reply) => boolean'), undefined,
    'Called when a request has been answered: whether it counts. `false`: its hits are given back',
    'every request counts'
  ),
  hook: option(oneOf(...hooks), 'onRequest' as LimitHook, 'The hook of the route in which the limit is decided'),
  allowList: option(
    either(
      listOf<AllowListEntry>('an array of strings and `{ key: string }`', 0, Infinity, readAllowListEntry),
      fn<FunctionOf<'allowList'>>('(request, key) => boolean')
    ),
    [],
    'Addresses, CIDR ranges and keys that are not limited. Write a key that looks like an address as `{ key }`. ' +
    "Addresses and ranges in the plugin's own list are not blocked either",
    '`[]`'
  ),
  skip: option(
    fn<FunctionOf<'skip'>>('(request) => boolean'), undefined,
    'Leaves out the requests for which it returns true, such as those of routes of other plugins. They are not ' +
    'limited, but blocks apply', 'none'
  ),
  keyGenerator: option(
    fn<FunctionOf<'keyGenerator'>>('(request) => string, number, BigInt, bytes, or object with a toString'),
    undefined, 'Returns what identifies the client of a request', 'the address'
  ),
  ipv6Subnet: option(
    whole(0, 128), 64, 'Length of the IPv6 prefix, in bits. All addresses with the same prefix are one client'
  ),
  errorResponseBuilder: option(
    fn<FunctionOf<'errorResponseBuilder'>>('(request, context) => error'), undefined,
    'Returns the error that is thrown for a refused request', "Fastify's error"
  ),
  onExceeding: option(
    fn<FunctionOf<'onExceeding'>>('(request, key) => void'), undefined, 'Called for each allowed request', 'none'
  ),
  onExceeded: option(
    fn<FunctionOf<'onExceeded'>>('(request, key) => void'), undefined, 'Called for each refused request', 'none'
  ),
  onBanReach: option(
    fn<FunctionOf<'onBanReach'>>('(request, key) => void'), undefined,
    'Called for each request that `ban` refuses, after `onExceeded`', 'none'
  ),
  onOutage: option(
    oneOf(...onOutages), 'memory' as typeof onOutages[number],
    'How requests are answered while Redis is away. `memory`: each instance allows `max`. `share`: all instances ' +
    'together allow `max`. `allow`: requests pass uncounted. `deny`: requests get a 503'
  ),
  skipOnError: option(
    flag, undefined,
    "The option of `@fastify/rate-limit` in place of `onOutage`. `true` is `onOutage: 'allow'`. `false`: requests " +
    'get a 500 while Redis is away', 'not set'
  ),
  addHeaders: option(
    headerFlags(anyRefusalHeaders), allTrue(refusalHeaders), 'Which headers a refused request gets', 'all `true`'
  ),
  addHeadersOnExceeding: option(
    headerFlags(anyLimitHeaders), allTrue(limitHeaders), 'Which headers an allowed request gets', 'all `true`'
  ),
  standardHeaders: option(
    noRevision, false as boolean,
    'Adds the headers `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-11'
  ),
  problemDetails: option(
    flag, false,
    'Answers refused requests with a problem of RFC 9457 (`application/problem+json`) instead of throwing an error'
  )
} satisfies { readonly [name in keyof Required<RateLimitOptions>]: Option }

/** Options of a route only. */
export const routeOptions = {
  groupId: option(
    text, undefined,
    'Limits with the same `groupId`, algorithm and window share one counter for each client. With `gcra`, each ' +
    'request fills the shared bucket by `timeWindow` / `max` of its own route',
    'none'
  )
} satisfies { readonly [name in Exclude<keyof Required<RouteRateLimitOptions>, keyof RateLimitOptions>]: Option }

/** Options of the plugin only. */
export const pluginOptions = {
  redis: option(
    { rule: redisRule, read: (value): unknown => value }, undefined,
    'Where Redis is. `false`: no Redis. With `required: true` in it, the application does not start without Redis',
    'the environment'
  ),
  global: option(
    flag, true, 'Limits every route that is registered later. `false`: only routes with a `config.rateLimit`'
  ),
  limitNotFound: option(
    flag, true, 'Also limits requests that match no route (404), on the counter of the global limit'
  ),
  enableDraftSpec: option(flag, false, 'Names the headers `ratelimit-*` instead of `x-ratelimit-*`'),
  cache: option(whole(1, 10_000_000), 5000, 'The most counters that each process keeps in memory'),
  store: option(
    customStore, undefined,
    'A class of your own, as for `@fastify/rate-limit`, that counts instead of Redis and memory. Blocks, events and ' +
    'values stay where they are',
    'none'
  ),
  nameSpace: option(keyPrefix, 'guard:', 'Prefix of every key in Redis'),
  hashKeys: option(
    switchOrSecret, false as boolean | string,
    'Stores and shows a hash instead of the key that `keyGenerator` returns'
  ),
  metrics: option(
    either(no, { rule: '{ path, registry }', read: readMetrics }),
    Object.freeze({ path: '/metrics', registry: undefined }),
    'Where Prometheus metrics are served (`path`; `false`: nowhere), and the prom-client registry that holds them ' +
    '(`registry`; default: a new one). `false`: no metrics', "`{ path: '/metrics' }`"
  ),
  commandTimeout: option(
    whole(1, 60_000), 250, 'ms after which the guard gives up a command to Redis, and memory answers'
  ),
  connectTimeout: option(
    whole(1, 600_000), 5000,
    'ms that connecting to Redis may take, and the longest that the start waits for Redis',
    '`REDIS_TIMEOUT`, or `5000`'
  ),
  resetTimeout: option(
    whole(50, 600_000), 500, 'ms from the opening of the circuit breaker until it tries Redis again'
  ),
  syncInterval: option(
    whole(10, 60_000), 250, 'ms between two reads of the changes that other instances made to blocks and limits'
  ),
  maxEvents: option(whole(1, 1_000_000), 10_000, 'The most events that are kept'),
  maxJournal: option(
    whole(1, 10_000_000), 100_000,
    'The most entries that wait while Redis is away: counters, changes of blocks, events and values together. When ' +
    'the journal is full, events are dropped first, then counters of clients with most of their quota left'
  )
} satisfies { readonly [name in Exclude<keyof Required<RedisGuardOptions>, keyof RateLimitOptions>]: Option }

const registryMethods = ['registerMetric', 'getSingleMetric', 'removeSingleMetric', 'metrics']

interface ReadMetrics {
  readonly path: string | false
  readonly registry: MetricsRegistry | undefined
}

function readMetrics (value: unknown): ReadMetrics | typeof wrong {
  if (!isRecord(value) || Object.keys(value).some(name => name !== 'path' && name !== 'registry')) return wrong
  const { path = '/metrics', registry } = value
  const pathIsFine = path === false || (typeof path === 'string' && path.startsWith('/'))
  const registryIsFine = registry === undefined ||
    (isRecord(registry) && registryMethods.every(name => typeof registry[name] === 'function'))
  if (!pathIsFine || !registryIsFine) return wrong
  return Object.freeze({ path, registry: registry as MetricsRegistry | undefined })
}

/** The options inside a limit are read later, by resolveList. */
function readNamedLimit (value: unknown): NamedLimitOptions | typeof wrong {
  return isRecord(value) ? value as unknown as NamedLimitOptions : wrong
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
