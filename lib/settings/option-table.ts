/**
 * The options, declared once each: rule, default, unit and description. README
 * lists them, and a test compares the two.
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
  value: ValueRule<T>, fallback: Fallback, description: string, shown = `\`${asCode(fallback)}\``
): Option<T, Fallback> {
  return { value, fallback, description, shown }
}

function asCode (fallback: unknown): string {
  return typeof fallback === 'string' ? `'${fallback}'` : String(fallback)
}

/** A function that an option takes, as the types declare it. */
type Given<Name extends keyof RateLimitOptions> = Extract<RateLimitOptions[Name], (...args: never[]) => unknown>

/** Other packages take the revision of the draft in place of `true`. */
const noRevision: ValueRule<boolean> = {
  ...flag,
  remedyFor: value => typeof value === 'string' ? 'write true' : undefined
}

/** Options of one limit, whether it is the only one or one of several. */
export const singleLimitOptions = {
  algorithm: option(
    oneOf(...algorithms), 'fixed-window' as Algorithm, 'how hits are counted; see "How a decision is taken"'
  ),
  max: option(
    either(either(whole(0), infinite), fn<Given<'max'>>('(request, key) => number')),
    1000, 'hits allowed per window; `Infinity`: no limit'
  ),
  timeWindow: option(
    either(duration, fn<Given<'timeWindow'>>('(request, key) => ms')), 60_000, 'length of the window'
  ),
  burst: option(whole(1), undefined, '`gcra` only: hits that may come at once', '`max`'),
  cost: option(
    either(whole(1), fn<Given<'cost'>>('(request) => number')),
    1, 'how many hits a request counts for; a function may answer 0 (not counted, not refused)'
  ),
  ban: option(
    whole(-1), -1, '`fixed-window` only: after this many refusals in a window the next get a 403; `-1`: never'
  ),
  continueExceeding: option(flag, false, '`fixed-window` only: each refused request begins the window anew'),
  exponentialBackoff: option(
    flag, false,
    '`fixed-window` only: each refused request begins the window anew, and twice as long, up to `maxBackoff`'
  ),
  maxBackoff: option(
    duration, undefined, 'the longest window that `exponentialBackoff` makes; at least `timeWindow`',
    "`'1 day'`, or `timeWindow` where that is longer"
  ),
  shadow: option(flag, undefined, 'count and report, but refuse nothing', '`false`'),
  enforce: option(
    part, undefined,
    'for this part of the clients, always the same ones, the limit is in force, for all others in shadow', '`1`'
  )
} satisfies { readonly [name in keyof Required<SingleLimitOptions>]: Option }

/** Options of the plugin and of each route. */
export const limitOptions = {
  ...singleLimitOptions,
  limits: option(
    listOf<NamedLimitOptions>('an array of 1 to 10 limits `{ name, max, timeWindow, ... }`', 1, 10, readNamedLimit),
    undefined, 'several limits in place of `max` and `timeWindow`, decided together; see "Several limits"', 'none'
  ),
  countWhen: option(
    fn<Given<'countWhen'>>('(request, reply) => boolean'), undefined,
    'asked when the request has been answered: whether it counts; else its hits are given back', 'each counts'
  ),
  hook: option(oneOf(...hooks), 'onRequest' as LimitHook, "the route's hook in which the limit is decided"),
  allowList: option(
    either(
      listOf<AllowListEntry>('an array of strings and `{ key: string }`', 0, Infinity, readAllowListEntry),
      fn<Given<'allowList'>>('(request, key) => boolean')
    ),
    [],
    'addresses, CIDR ranges and keys that are not limited; a key that looks like an address is `{ key }`. ' +
    "In the plugin's options, addresses and ranges listed here are not blocked either",
    '`[]`'
  ),
  skip: option(
    fn<Given<'skip'>>('(request) => boolean'), undefined,
    'leaves requests out, such as those of routes of other plugins: they are not limited, but blocks hold; ' +
    'see "Routes of other plugins"', 'none'
  ),
  keyGenerator: option(
    fn<Given<'keyGenerator'>>('(request) => string, number, BigInt, bytes, or object with a toString'),
    undefined, 'identifies the client of a request', 'the address'
  ),
  ipv6Subnet: option(whole(0, 128), 64, 'IPv6 clients are told apart by a prefix of this many bits'),
  errorResponseBuilder: option(
    fn<Given<'errorResponseBuilder'>>('(request, context) => error'), undefined,
    'what it returns is thrown as it is', "Fastify's error"
  ),
  onExceeding: option(
    fn<Given<'onExceeding'>>('(request, key) => void'), undefined, 'called for each allowed request', 'none'
  ),
  onExceeded: option(
    fn<Given<'onExceeded'>>('(request, key) => void'), undefined, 'called for each refused request', 'none'
  ),
  onBanReach: option(
    fn<Given<'onBanReach'>>('(request, key) => void'), undefined,
    'called for each request that `ban` refuses, after `onExceeded`', 'none'
  ),
  onOutage: option(
    oneOf(...onOutages), 'memory' as typeof onOutages[number],
    'while Redis is away: `memory`: each instance allows `max`; `share`: all instances together do; ' +
    '`allow`: requests pass uncounted; `deny`: they get a 503'
  ),
  skipOnError: option(
    flag, undefined,
    "in place of `onOutage`, as @fastify/rate-limit has it: `true` is `'allow'`; `false`: requests get a 500", 'unset'
  ),
  addHeaders: option(headerFlags(anyRefusalHeaders), allTrue(refusalHeaders), 'headers of a refusal', 'all `true`'),
  addHeadersOnExceeding: option(
    headerFlags(anyLimitHeaders), allTrue(limitHeaders), 'headers of an allowed request', 'all `true`'
  ),
  standardHeaders: option(
    noRevision, false as boolean,
    'also send `RateLimit` and `RateLimit-Policy`, as draft-ietf-httpapi-ratelimit-headers-11 has them'
  ),
  problemDetails: option(
    flag, false, 'refuse with a body of RFC 9457, `application/problem+json`, in place of an error'
  )
} satisfies { readonly [name in keyof Required<RateLimitOptions>]: Option }

/** Options of a route only. */
export const routeOptions = {
  groupId: option(
    text, undefined,
    'routes of one group share a counter of each client, as far as their limits count alike: by the same algorithm, ' +
    'in the same window. With `gcra` each request fills the shared bucket by `timeWindow` / `max` of its own route',
    'none'
  )
} satisfies { readonly [name in Exclude<keyof Required<RouteRateLimitOptions>, keyof RateLimitOptions>]: Option }

/** Options of the plugin only. */
export const pluginOptions = {
  redis: option(
    { rule: redisRule, read: (value): unknown => value }, undefined,
    'where Redis is; `false`: never. With `required: true` in it there is no start without Redis', 'the environment'
  ),
  global: option(
    flag, true, 'limit every route that is registered later; `false`: only those with a `config.rateLimit`'
  ),
  limitNotFound: option(
    flag, true, 'limit requests for what is not there, too, by the global limit and on its counter'
  ),
  enableDraftSpec: option(flag, false, 'headers are called `ratelimit-*` in place of `x-ratelimit-*`'),
  cache: option(whole(1, 10_000_000), 5000, 'the most keys that the memory store keeps'),
  store: option(
    fn<CustomStoreConstructor>('such as @fastify/rate-limit takes: a class with incr and child'), undefined,
    'a class of your own that counts in place of Redis and memory; blocks, events and values stay where they are',
    'none'
  ),
  nameSpace: option(keyPrefix, 'guard:', 'what every key in Redis starts with'),
  hashKeys: option(
    switchOrSecret, false as boolean | string,
    "keep and show a hash in place of a `keyGenerator`'s answer; see \"Keys that are secrets\""
  ),
  metrics: option(
    either(no, { rule: '{ path, registry }', read: readMetrics }),
    Object.freeze({ path: '/metrics', registry: undefined }),
    '`path: false` serves nothing, `registry` is your own, `false` turns metrics off', "`{ path: '/metrics' }`"
  ),
  commandTimeout: option(
    whole(1, 60_000), 250, 'ms after which a command to Redis is given up, and memory answers'
  ),
  connectTimeout: option(
    whole(1, 600_000), 5000,
    'ms for connecting, and the most that start-up waits for Redis', '`REDIS_TIMEOUT`, or `5000`'
  ),
  resetTimeout: option(whole(50, 600_000), 500, 'ms from the opening of the circuit breaker to its next probe'),
  syncInterval: option(
    whole(10, 60_000), 250,
    'ms between two looks for changes that other instances made to the block list, and to limits'
  ),
  maxEvents: option(whole(1, 1_000_000), 10_000, 'the most events that are kept'),
  maxJournal: option(
    whole(1, 10_000_000), 100_000,
    'the most counters, changes of blocks, events and values, all together, that wait while Redis is away. ' +
    'When it is full, events are dropped first, then counters of clients with most of their quota left'
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

/** What stands in it is read with the limits. */
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
