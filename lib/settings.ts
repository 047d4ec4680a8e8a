/**
 * What is made of the options and the environment: settings, read once, frozen
 * and complete.
 */
import type { FastifyRequest } from 'fastify'
import type { Awaitable } from './awaitable.js'
import { type Environment, readEnvironment } from './env.js'
import { type LimitError, type OptionProblem, OptionsError, show } from './errors.js'
import { wrong } from './option-rules.js'
import {
  type LimitHeader, type LimitHook, limitOptions, type MetricsOptions, type Option, pluginOptions, type RateLimitOptions,
  type RedisGuardOptions, type RefusalHeader, routeOptions, type RouteRateLimitOptions
} from './options.js'
import { readRedisOption, type RedisSettings } from './redis-option.js'
import { type AddressList, parseAddressList } from './rules/address-list.js'
import { type Algorithm, defineLimit } from './rules/rate-limit.js'
import type { OnOutage } from './rules/verdict.js'

/** A limit's settings: every default filled in; undefined only where "not given" is a setting of its own. */
export interface LimitSettings {
  /** whose counters a route shares; undefined: it has its own */
  readonly groupId: string | undefined
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
  /** `skipOnError` is read into it, too */
  readonly onOutage: OnOutage
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
  readonly limitNotFound: boolean
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
  readonly maxJournal: number
}

/** Fastify's own register options, which reach every plugin. */
const ofFastify = new Set(['prefix', 'logLevel', 'logSerializers'])

/** Without `skipOnError`: it is another word for `onOutage`, and no setting. */
const { skipOnError, ...ownLimitOptions } = limitOptions

const limitDefaults: LimitSettings = {
  ...fallbacks(ownLimitOptions),
  ...fallbacks(routeOptions),
  allowList: readAllowList(limitOptions.allowList.fallback),
  addHeaders: limitOptions.addHeaders.fallback,
  addHeadersOnExceeding: limitOptions.addHeadersOnExceeding.fallback
}

/**
 * @param options  as given to `fastify.register`; not changed
 * @param env      such as `process.env`
 * @throws OptionsError  naming everything that is wrong, unknown options too
 */
export function resolveOptions (options: RedisGuardOptions, env: Readonly<Record<string, string | undefined>>): Settings {
  const problems: OptionProblem[] = []
  const ofEnvironment: OptionProblem[] = []
  const environment = readEnvironment(env, ofEnvironment)
  const unused = unusedVariables(options, environment)
  problems.push(...ofEnvironment.filter(({ option }) => !unused.includes(option)))
  const given = readGiven({ ...pluginOptions, ...limitOptions }, options, name => name, problems, ofFastify)
  const settings: Settings = {
    ...pick({ ...fallbacks(pluginOptions), ...given }, pluginOptions),
    connectTimeout: given.connectTimeout ?? environment.connectTimeout ?? pluginOptions.connectTimeout.fallback,
    redis: readRedisOption(options.redis, environment, problems),
    environment,
    limit: resolveLimit(pick(given, limitOptions), limitDefaults, '', problems)
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
export function resolveRouteLimit (config: RouteRateLimitOptions, base: LimitSettings, place: string): LimitSettings {
  const problems: OptionProblem[] = []
  const { groupId, ...given } = readGiven({ ...limitOptions, ...routeOptions }, config, name => `${place}.${name}`, problems)
  const settings = resolveLimit(given, base, `${place}.`, problems)
  if (problems.length > 0) throw new OptionsError(problems)
  return Object.freeze({ ...settings, groupId: groupId === '' ? undefined : groupId })
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

/** What the program says wins over these, so that they may be wrong. */
function unusedVariables ({ redis }: RedisGuardOptions, { enabled }: Environment): readonly string[] {
  if (redis !== undefined) return ['REDIS_URL', 'REDIS_TLS', 'REDIS_ENABLED']
  return enabled === false ? ['REDIS_URL', 'REDIS_TLS'] : []
}

type Fallbacks<Declared> = { [name in keyof Declared]: Declared[name] extends Option<infer T, infer Fallback> ? (undefined extends Fallback ? T | undefined : T) : never }

function fallbacks<Declared extends Readonly<Record<string, Option>>> (declared: Declared): Fallbacks<Declared> {
  return Object.fromEntries(Object.entries(declared).map(([name, { fallback }]) => [name, fallback])) as Fallbacks<Declared>
}

function pick<T extends object, Declared extends object> (from: T, declared: Declared): Pick<T, keyof T & keyof Declared> {
  return Object.fromEntries(Object.entries(from).filter(([name]) => Object.hasOwn(declared, name))) as Pick<T, keyof T & keyof Declared>
}

function resolveLimit (given: Given<typeof limitOptions>, base: LimitSettings, prefix: string, problems: OptionProblem[]): LimitSettings {
  const { allowList, addHeaders, addHeadersOnExceeding, skipOnError, ...rest } = given
  const settings: LimitSettings = {
    ...base,
    ...(skipOnError === undefined ? {} : { onOutage: skipOnError ? 'allow' : 'fail' }),
    ...rest,
    allowList: allowList === undefined ? base.allowList : readAllowList(allowList),
    addHeaders: Object.freeze({ ...base.addHeaders, ...addHeaders }),
    addHeadersOnExceeding: Object.freeze({ ...base.addHeadersOnExceeding, ...addHeadersOnExceeding })
  }
  if (given.onOutage !== undefined && skipOnError !== undefined) {
    problems.push({ option: `${prefix}skipOnError`, rule: 'left out beside onOutage', received: show(skipOnError) })
  }
  if (given.burst !== undefined && settings.algorithm !== 'gcra') {
    problems.push({ option: `${prefix}burst`, rule: "left out, unless algorithm is 'gcra'", received: show(given.burst) })
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
