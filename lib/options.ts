/**
 * What may be asked for, and what is made of it: the options of the plugin and
 * of a route, declared once each, and read once into frozen settings. Names
 * and meanings are those of @fastify/rate-limit where it has them.
 */
import type { FastifyRequest } from 'fastify'
import type { Registry } from 'prom-client'
import type { Environment } from './env.js'
import { readEnvironment } from './env.js'
import type { Awaitable } from './awaitable.js'
import { type LimitError, type OptionProblem, OptionsError, show } from './errors.js'
import { duration, either, flag, fn, isRecord, oneOf, text, texts, type ValueRule, whole, wrong } from './option-rules.js'
import { readRedisOption, type RedisOption, redisRule, type RedisSettings } from './redis-option.js'
import { type AddressList, parseAddressList } from './rules/address-list.js'
import { type Algorithm, algorithms, defineLimit } from './rules/rate-limit.js'

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
  skipOnError?: boolean
  addHeaders?: Partial<Record<RefusalHeader, boolean>>
  addHeadersOnExceeding?: Partial<Record<LimitHeader, boolean>>
}

/** The structural part of a prom-client `Registry` that is used, so that any copy of prom-client will do. */
export type MetricsRegistry = Pick<Registry, 'registerMetric' | 'getSingleMetric' | 'metrics' | 'contentType'>

export interface MetricsOptions {
  /** where to serve; `false`: nowhere, only the registry is filled. Default `/metrics` */
  path?: string | false
  /** your own registry; default: one of the plugin's */
  registry?: MetricsRegistry
}

export interface RedisGuardOptions extends RateLimitOptions {
  redis?: RedisOption
  global?: boolean
  cache?: number
  ipv6Subnet?: number
  nameSpace?: string
  metrics?: false | MetricsOptions
  commandTimeout?: number
  connectTimeout?: number
  resetTimeout?: number
  syncInterval?: number
  maxEvents?: number
}

/** A limit's settings: every default filled in; undefined only where "not given" is a setting of its own. */
export interface LimitSettings {
  readonly algorithm: Algorithm
  readonly max: Exclude<RateLimitOptions['max'], undefined>
  /** ms */
  readonly timeWindow: number | ((request: FastifyRequest, key: string) => Awaitable<number>)
  /** undefined: as much as max */
  readonly burst: number | undefined
  readonly hook: LimitHook
  readonly allowList: AllowList
  /** undefined: the client's address */
  readonly keyGenerator: RateLimitOptions['keyGenerator']
  /** undefined: Fastify's own error shape */
  readonly errorResponseBuilder: RateLimitOptions['errorResponseBuilder']
  readonly onExceeding: RateLimitOptions['onExceeding']
  readonly onExceeded: RateLimitOptions['onExceeded']
  /** undefined: memory answers when Redis cannot */
  readonly skipOnError: boolean | undefined
  readonly addHeaders: Readonly<Record<RefusalHeader, boolean>>
  readonly addHeadersOnExceeding: Readonly<Record<LimitHeader, boolean>>
}

export interface AllowList {
  readonly addresses: AddressList<true>
  /** entries that are no address: compared with the key */
  readonly keys: ReadonlySet<string>
  readonly decide: ((request: FastifyRequest, key: string) => Awaitable<boolean>) | undefined
}

export interface Settings {
  readonly redis: RedisSettings
  readonly environment: Environment
  readonly global: boolean
  readonly limit: LimitSettings
  readonly cache: number
  readonly ipv6Subnet: number
  readonly nameSpace: string
  readonly metrics: false | Required<Pick<MetricsOptions, 'path'>> & Pick<MetricsOptions, 'registry'>
  readonly commandTimeout: number
  readonly connectTimeout: number
  readonly resetTimeout: number
  readonly syncInterval: number
  readonly maxEvents: number
}

/** One option: all that README, validation and defaults need to know. */
export interface Option<T = unknown> {
  readonly value: ValueRule<T>
  /** as README shows it */
  readonly fallback: string
  readonly description: string
}

function option<T> (value: ValueRule<T>, fallback: string, description: string): Option<T> {
  return { value, fallback, description }
}

/** Options of the plugin and of each route. */
export const limitOptions = {
  algorithm: option(oneOf(...algorithms), "`'fixed-window'`", 'how hits are counted; see "How a decision is taken"'),
  max: option(either(whole(0), fn<(request: FastifyRequest, key: string) => Awaitable<number>>('(request, key) => number')), '`1000`', 'hits allowed per window'),
  timeWindow: option(either(duration, fn<(request: FastifyRequest, key: string) => Awaitable<number>>('(request, key) => ms')), '`60000`', 'length of the window'),
  burst: option(whole(1), '`max`', '`gcra` only: hits that may come at once'),
  hook: option(oneOf(...hooks), "`'onRequest'`", "the route's hook in which the limit is decided"),
  allowList: option(either(texts, fn<(request: FastifyRequest, key: string) => Awaitable<boolean>>('(request, key) => boolean')), '`[]`', "addresses, CIDR ranges and keys that are not limited. In the plugin's options, addresses and ranges listed here are not blocked either"),
  keyGenerator: option(fn<(request: FastifyRequest) => Awaitable<string | number>>('(request) => text or number'), 'the address', 'what clients are told apart by'),
  errorResponseBuilder: option(fn<(request: FastifyRequest, context: RefusalContext) => object>('(request, context) => error'), "Fastify's error", 'what it returns is thrown as it is'),
  onExceeding: option(fn<(request: FastifyRequest, key: string) => void>('(request, key) => void'), 'none', 'called for each allowed request'),
  onExceeded: option(fn<(request: FastifyRequest, key: string) => void>('(request, key) => void'), 'none', 'called for each refused request'),
  skipOnError: option(flag, 'unset', 'when Redis cannot answer; unset: memory answers; `true`: the request passes uncounted; `false`: it gets a 500'),
  addHeaders: option(headerFlags(refusalHeaders), 'all `true`', 'headers of a refusal'),
  addHeadersOnExceeding: option(headerFlags(limitHeaders), 'all `true`', 'headers of an allowed request')
} satisfies { readonly [name in keyof Required<RateLimitOptions>]: Option }

/** Options of the plugin only. */
export const pluginOptions = {
  redis: option({ rule: redisRule, read: (value): unknown => value }, 'the environment', 'where Redis is; `false`: never'),
  global: option(flag, '`true`', 'limit every route that is registered later; `false`: only those with a `config.rateLimit`'),
  cache: option(whole(1, 10_000_000), '`5000`', 'the most keys that the memory store keeps'),
  ipv6Subnet: option(whole(0, 128), '`64`', 'IPv6 clients are told apart by a prefix of this many bits'),
  nameSpace: option(text, "`'guard:'`", 'what every key in Redis starts with'),
  metrics: option(either({ rule: 'false', read: (value): false | typeof wrong => value === false ? value : wrong }, { rule: '{ path, registry }', read: readMetrics }), "`{ path: '/metrics' }`", '`path: false` serves nothing, `registry` is your own, `false` turns metrics off'),
  commandTimeout: option(whole(1, 60_000), '`250`', 'ms after which a command to Redis is given up, and memory answers'),
  connectTimeout: option(whole(1, 600_000), '`5000`', 'ms for connecting, and the most that start-up waits for Redis'),
  resetTimeout: option(whole(50, 600_000), '`500`', 'ms from the opening of the circuit breaker to its next probe'),
  syncInterval: option(whole(10, 60_000), '`250`', 'ms between two looks for changes that other instances made to the block list'),
  maxEvents: option(whole(1, 1_000_000), '`10000`', 'the most events that are kept')
} satisfies { readonly [name in Exclude<keyof Required<RedisGuardOptions>, keyof RateLimitOptions>]: Option }

/** Fastify's own register options, which reach every plugin. */
const ofFastify = new Set(['prefix', 'logLevel', 'logSerializers'])

const limitDefaults: LimitSettings = {
  algorithm: 'fixed-window',
  max: 1000,
  timeWindow: 60_000,
  burst: undefined,
  hook: 'onRequest',
  allowList: readAllowList([]),
  keyGenerator: undefined,
  errorResponseBuilder: undefined,
  onExceeding: undefined,
  onExceeded: undefined,
  skipOnError: undefined,
  addHeaders: allTrue(refusalHeaders),
  addHeadersOnExceeding: allTrue(limitHeaders)
}

/**
 * @param options  as given to `fastify.register`; not changed
 * @param env      such as `process.env`
 * @throws OptionsError  naming everything that is wrong, unknown options too
 */
export function resolveOptions (options: RedisGuardOptions, env: Readonly<Record<string, string | undefined>>): Settings {
  const problems: OptionProblem[] = []
  const environment = readEnvironment(env, problems)
  const given = readGiven({ ...pluginOptions, ...limitOptions }, options, name => name, problems, ofFastify)
  const settings: Settings = {
    redis: readRedisOption(options.redis, environment, problems),
    environment,
    global: given.global ?? true,
    limit: resolveLimit(given, limitDefaults, '', problems),
    cache: given.cache ?? 5000,
    ipv6Subnet: given.ipv6Subnet ?? 64,
    nameSpace: given.nameSpace ?? 'guard:',
    metrics: given.metrics ?? Object.freeze({ path: '/metrics', registry: undefined }),
    commandTimeout: given.commandTimeout ?? 250,
    connectTimeout: given.connectTimeout ?? environment.connectTimeout ?? 5000,
    resetTimeout: given.resetTimeout ?? 500,
    syncInterval: given.syncInterval ?? 250,
    maxEvents: given.maxEvents ?? 10_000
  }
  if (problems.length > 0) throw new OptionsError(problems)
  return Object.freeze(settings)
}

/**
 * @param config  a route's `config.rateLimit`
 * @param base    what the plugin's options say; an option not given is as there
 * @param place   begins the name of a wrong option, such as `GET /login config.rateLimit`
 * @throws OptionsError
 */
export function resolveRouteLimit (config: RateLimitOptions, base: LimitSettings, place: string): LimitSettings {
  const problems: OptionProblem[] = []
  const given = readGiven(limitOptions, config, name => `${place}.${name}`, problems)
  const settings = resolveLimit(given, base, `${place}.`, problems)
  if (problems.length > 0) throw new OptionsError(problems)
  return settings
}

type Given<Declared> = { -readonly [name in keyof Declared]?: Declared[name] extends Option<infer T> ? T : never }

/** Reads what was given; `undefined` counts as not given. */
function readGiven<Declared extends Readonly<Record<string, Option>>> (
  declared: Declared, options: object, nameOf: (name: string) => string, problems: OptionProblem[], ignored: ReadonlySet<string> = new Set()
): Given<Declared> {
  const given: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || ignored.has(name)) continue
    const declaration = Object.hasOwn(declared, name) ? declared[name] : undefined
    if (declaration === undefined) {
      // The value stays out of the message: a misplaced option may be a password, or a URL with one.
      problems.push({ option: nameOf(name), rule: 'a known option', received: `a value of type ${typeof value}`, remedy: `known are ${Object.keys(declared).join(', ')}` })
      continue
    }
    const read = declaration.value.read(value)
    if (read === wrong) problems.push({ option: nameOf(name), rule: declaration.value.rule, received: show(value) })
    else given[name] = read
  }
  return given as Given<Declared>
}

function resolveLimit (given: Given<typeof limitOptions>, base: LimitSettings, prefix: string, problems: OptionProblem[]): LimitSettings {
  const { allowList, addHeaders, addHeadersOnExceeding, ...rest } = given
  const settings: LimitSettings = {
    ...base,
    ...rest,
    allowList: allowList === undefined ? base.allowList : readAllowList(allowList),
    addHeaders: Object.freeze({ ...base.addHeaders, ...addHeaders }),
    addHeadersOnExceeding: Object.freeze({ ...base.addHeadersOnExceeding, ...addHeadersOnExceeding })
  }
  if (typeof settings.max === 'number' && typeof settings.timeWindow === 'number') {
    try {
      defineLimit(settings.algorithm, settings.max, settings.timeWindow, settings.burst)
    } catch (error) {
      problems.push({ option: `${prefix}max`, rule: 'in range with timeWindow', received: show(settings.max), remedy: (error as LimitError).message })
    }
  }
  return Object.freeze(settings)
}

function readAllowList (given: readonly string[] | AllowList['decide']): AllowList {
  const { list, rest } = parseAddressList(typeof given === 'object' ? given : [])
  return Object.freeze({ addresses: list, keys: new Set(rest), decide: typeof given === 'function' ? given : undefined })
}

function readMetrics (value: unknown): Exclude<Settings['metrics'], false> | typeof wrong {
  if (!isRecord(value) || Object.keys(value).some(name => name !== 'path' && name !== 'registry')) return wrong
  const { path = '/metrics', registry } = value
  const pathIsFine = path === false || (typeof path === 'string' && path.startsWith('/'))
  const registryIsFine = registry === undefined || (isRecord(registry) && typeof registry['registerMetric'] === 'function')
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
