/**
 * What is made of the options and the environment: settings, read once, frozen
 * and complete.
 */
import type { FastifyRequest } from 'fastify'
import type { Awaitable } from '../runtime/awaitable.js'
import { type Environment, readEnvironment } from './environment.js'
import { type LimitError, type OptionProblem, OptionsError, show } from '../errors.js'
import { foreignOptions, isOfHost, probablyMeant } from './host-options.js'
import { text, wrong } from './option-rules.js'
import {
  draftLimitHeaders, limitHeaders, type LimitHook, limitOptions, type MetricsOptions, type OnOutage,
  type NamedLimitOptions, type Option, pluginOptions, type RateLimitOptions, type RedisGuardOptions, refusalHeaders,
  routeOptions, type RouteRateLimitOptions, singleLimitOptions, type SingleLimitOptions
} from './options.js'
import { readRedisOption, type RedisSettings } from './redis-option.js'
import { type AddressList, parseAddressList } from '../addresses/address-list.js'
import { defaultBackoffMs, defineLimit, type Algorithm } from '../rules/rate-limit.js'
import type { Excess } from '../rules/rule.js'
import type { CustomStoreConstructor } from './custom-store.js'

/** What a limit counts, and whom it refuses. */
export interface LimitDefinition {
  readonly algorithm: Algorithm
  readonly max: Exclude<SingleLimitOptions['max'], undefined>
  /** ms */
  readonly timeWindow: number | ((request: FastifyRequest, key: string) => Awaitable<number>)
  /** undefined: as much as max */
  readonly burst: number | undefined
  readonly cost: Exclude<SingleLimitOptions['cost'], undefined>
  /** refusals in a window; -1: never */
  readonly ban: number
  readonly excess: Excess
  /** ms; undefined: a day, or the window where that is longer */
  readonly maxBackoff: number | undefined
  /** part of the clients that it refuses, 0 to 1 */
  readonly enforce: number
}

/** One of the limits of a route; its name is empty where it is the only one. */
export interface NamedLimitDefinition extends LimitDefinition {
  readonly name: string
}

/** A limit's settings: every default filled in; undefined only where "not given" is a setting of its own. */
export interface LimitSettings extends LimitDefinition {
  /** whose counters a route shares; undefined: it has its own */
  readonly groupId: string | undefined
  /** what each request has to pass */
  readonly limits: readonly NamedLimitDefinition[]
  /** as given, for routes to build upon; undefined: there is one limit, without a name */
  readonly list: readonly NamedLimitOptions[] | undefined
  readonly countWhen: RateLimitOptions['countWhen']
  readonly hook: LimitHook
  readonly allowList: AllowList
  /** undefined: no request is left out */
  readonly skip: RateLimitOptions['skip']
  /** undefined: the client's address */
  readonly keyGenerator: RateLimitOptions['keyGenerator']
  /** bits, 0 to 128 */
  readonly ipv6Subnet: number
  /** undefined: Fastify's own error shape */
  readonly errorResponseBuilder: RateLimitOptions['errorResponseBuilder']
  readonly onExceeding: RateLimitOptions['onExceeding']
  readonly onExceeded: RateLimitOptions['onExceeded']
  readonly onBanReach: RateLimitOptions['onBanReach']
  /** `skipOnError` is read into it, too */
  readonly onOutage: OnOutage
  readonly addHeaders: Readonly<Record<typeof refusalHeaders[number], boolean>>
  readonly addHeadersOnExceeding: Readonly<Record<typeof limitHeaders[number], boolean>>
  /** names of the headers for limit, remaining and reset, in this order */
  readonly headerNames: readonly string[]
  readonly standardHeaders: boolean
  readonly problemDetails: boolean
}

export interface AllowList {
  /** the entries, or the function */
  readonly given: Exclude<RateLimitOptions['allowList'], undefined>
  readonly addresses: AddressList<true>
  /** entries that are neither addresses nor ranges, and keys of `{ key }` entries */
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
  readonly nameSpace: string
  readonly hashKeys: boolean | string
  readonly store: CustomStoreConstructor | undefined
  readonly metrics: false | Required<Pick<MetricsOptions, 'path'>> & Pick<MetricsOptions, 'registry'>
  readonly commandTimeout: number
  readonly connectTimeout: number
  readonly resetTimeout: number
  readonly syncInterval: number
  readonly maxEvents: number
  readonly maxJournal: number
}

/** Other words for `onOutage`, `enforce` and `excess`, and no settings. */
const { skipOnError, shadow, continueExceeding, exponentialBackoff, limits, ...ownLimitOptions } = limitOptions

const limitDefaults: LimitSettings = {
  ...fallbacks(ownLimitOptions),
  ...fallbacks(routeOptions),
  excess: 'none',
  enforce: 1,
  limits: [],
  list: undefined,
  allowList: readAllowList(limitOptions.allowList.fallback),
  addHeaders: limitOptions.addHeaders.fallback,
  addHeadersOnExceeding: limitOptions.addHeadersOnExceeding.fallback,
  headerNames: limitHeaders
}

/** All names of ours. A route's own are known to the plugin as well: there they are misplaced. */
const ownOptions = Object.keys({ ...pluginOptions, ...limitOptions, ...routeOptions })

/** @returns names of options that nobody can have meant for this plugin, and that `resolveOptions` ignores */
export function ignoredOptions (options: RedisGuardOptions): readonly string[] {
  return foreignOptions(options, ownOptions)
}

/**
 * @param options  as given to `fastify.register`; not changed
 * @param env      such as `process.env`
 * @throws OptionsError  naming everything that is wrong, and unknown options that look like one of ours
 */
export function resolveOptions (options: RedisGuardOptions, env: Readonly<Record<string, string | undefined>>): Settings {
  const problems: OptionProblem[] = []
  const ofEnvironment: OptionProblem[] = []
  const environment = readEnvironment(env, ofEnvironment)
  const unused = unusedVariables(options, environment)
  problems.push(...ofEnvironment.filter(({ option }) => !unused.includes(option)))
  const ignored = (name: string) => isOfHost(name, options) || probablyMeant(name, ownOptions) === undefined
  const given = readGiven({ ...pluginOptions, ...limitOptions }, options, name => name, problems, ignored)
  const settings: Settings = {
    ...pick({ ...fallbacks(pluginOptions), ...given }, pluginOptions),
    connectTimeout: given.connectTimeout ?? environment.connectTimeout ?? pluginOptions.connectTimeout.fallback,
    redis: readRedisOption(options.redis, environment, problems),
    environment,
    limit: resolveLimit(pick(given, limitOptions), { ...limitDefaults, headerNames: given.enableDraftSpec === true ? draftLimitHeaders : limitHeaders }, '', problems)
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
  declared: Declared, options: object, nameOf: (name: string) => string, problems: OptionProblem[],
  ignored: (name: string) => boolean = () => false
): Given<Declared> {
  const given: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue
    const declaration = Object.hasOwn(declared, name) ? declared[name] : undefined
    if (declaration === undefined) {
      if (ignored(name)) continue
      const meant = probablyMeant(name, Object.keys(declared))
      // The value stays out of the message: a misplaced option may be a password, or a URL with one.
      problems.push({
        option: nameOf(name),
        rule: 'a known option',
        received: `a value of type ${typeof value}`,
        remedy: `${meant === undefined ? '' : `did you mean ${meant}? `}known are ${Object.keys(declared).join(', ')}`
      })
      continue
    }
    const read = declaration.value.read(value)
    const { rule, isSecret } = declaration.value
    const received = isSecret ? `a value of type ${typeof value}` : show(value)
    const remedy = declaration.value.remedyFor?.(value)
    if (read === wrong) problems.push({ option: nameOf(name), rule, received, remedy })
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
  const { allowList, addHeaders, addHeadersOnExceeding, skipOnError, shadow, enforce, continueExceeding, exponentialBackoff, limits, ...rest } = given
  const single = resolveSingle(given, base, prefix, problems)
  // A single limit of a route's own is in place of the plugin's list.
  const list = limits ?? (ofSingle.some(name => given[name] !== undefined) ? undefined : base.list)
  const settings: LimitSettings = {
    ...base,
    ...(skipOnError === undefined ? {} : { onOutage: skipOnError ? 'allow' : 'fail' }),
    ...rest,
    ...single,
    list,
    limits: list === undefined ? [checked({ ...single, name: '' }, prefix, problems)] : resolveList(list, single, prefix, problems),
    allowList: allowList === undefined ? base.allowList : readAllowList(allowList),
    addHeaders: readHeaders(addHeaders, base, base.addHeaders),
    addHeadersOnExceeding: readHeaders(addHeadersOnExceeding, base, base.addHeadersOnExceeding)
  }
  if (given.onOutage !== undefined && skipOnError !== undefined) {
    problems.push({ option: `${prefix}skipOnError`, rule: 'left out beside onOutage', received: show(skipOnError) })
  }
  if (given.problemDetails === true && given.errorResponseBuilder !== undefined) {
    problems.push({ option: `${prefix}errorResponseBuilder`, rule: 'left out beside problemDetails', received: 'a function' })
  }
  if (limits !== undefined) {
    for (const name of ofSingle) {
      if (given[name] !== undefined) problems.push({ option: `${prefix}${name}`, rule: 'left out beside limits', received: show(given[name]) })
    }
  }
  return Object.freeze(settings)
}

/** Options that say that there is one limit. */
const ofSingle = ['max', 'timeWindow', 'burst'] as const

function resolveSingle (given: Given<typeof singleLimitOptions>, base: LimitDefinition, prefix: string, problems: OptionProblem[]): LimitDefinition {
  const { algorithm, max, timeWindow, burst, cost, maxBackoff, enforce } = base
  const { shadow, continueExceeding, exponentialBackoff, ...rest } = given
  // What only a fixed-window has is not handed on to another one.
  const { ban, excess } = (given.algorithm ?? algorithm) === 'fixed-window' ? base : limitDefaults
  if (shadow !== undefined && given.enforce !== undefined) {
    problems.push({ option: `${prefix}shadow`, rule: 'left out beside enforce', received: show(shadow) })
  }
  if (given.burst !== undefined && (given.algorithm ?? algorithm) !== 'gcra') {
    problems.push({ option: `${prefix}burst`, rule: "left out, unless algorithm is 'gcra'", received: show(given.burst) })
  }
  if (given.maxBackoff !== undefined && given.algorithm !== undefined && given.algorithm !== 'fixed-window') {
    const rule = "left out, unless algorithm is 'fixed-window'"
    problems.push({ option: `${prefix}maxBackoff`, rule, received: show(given.maxBackoff) })
  }
  if (given.maxBackoff !== undefined && continueExceeding === true) {
    problems.push({ option: `${prefix}maxBackoff`, rule: 'left out beside continueExceeding', received: show(given.maxBackoff) })
  }
  return pick({
    algorithm,
    max,
    timeWindow,
    burst,
    cost,
    ban,
    maxBackoff,
    ...rest,
    excess: readExcess(continueExceeding ?? excess === 'restart', exponentialBackoff ?? excess === 'backoff'),
    enforce: given.enforce ?? (shadow === undefined ? enforce : shadow ? 0 : 1)
  }, { ...singleLimitOptions, excess: true }) as LimitDefinition
}

function readExcess (restarts: boolean, backsOff: boolean): Excess {
  if (restarts) return 'restart'
  return backsOff ? 'backoff' : 'none'
}

const namedLimitOptions = { name: { value: text, fallback: undefined, shown: '', description: '' }, ...singleLimitOptions } satisfies { readonly [name in keyof Required<NamedLimitOptions>]: Option }

function resolveList (list: readonly NamedLimitOptions[], base: LimitDefinition, prefix: string, problems: OptionProblem[]): readonly NamedLimitDefinition[] {
  const names = new Set<string>()
  return Object.freeze(list.map((options, i) => {
    const place = `${prefix}limits[${i}].`
    const { name, ...given } = readGiven(namedLimitOptions, options, option => `${place}${option}`, problems)
    for (const option of ['max', 'timeWindow'] as const) {
      if (options[option] === undefined) problems.push({ option: `${place}${option}`, rule: 'given', received: 'nothing' })
    }
    if (name === undefined || !limitName.test(name)) problems.push({ option: `${place}name`, rule: 'a text of 1 to 50 letters, digits, ".", "_" or "-"', received: show(options.name) })
    else if (names.has(name)) problems.push({ option: `${place}name`, rule: 'another one than those before', received: show(name) })
    else names.add(name)
    return checked({ ...resolveSingle(given, base, place, problems), name: name ?? '' }, place, problems)
  }))
}

const limitName = /^[\w.-]{1,50}$/

/** @returns the same with its cap, having looked whether its numbers go together */
function checked (limit: NamedLimitDefinition, prefix: string, problems: OptionProblem[]): NamedLimitDefinition {
  const { algorithm, max, timeWindow, burst, cost, ban, excess, maxBackoff } = limit
  if (algorithm !== 'fixed-window') {
    // A refusal leaves no trace with the others.
    if (ban !== -1) problems.push({ option: `${prefix}ban`, rule: "left out, unless algorithm is 'fixed-window'", received: show(ban) })
    if (excess !== 'none') problems.push({ option: `${prefix}${excess === 'restart' ? 'continueExceeding' : 'exponentialBackoff'}`, rule: "left out, unless algorithm is 'fixed-window'", received: 'true' })
  }
  if (excess === 'backoff' && maxBackoff !== undefined && typeof timeWindow === 'number' && maxBackoff < timeWindow) {
    const rule = `at least timeWindow, which is ${timeWindow} ms`
    problems.push({ option: `${prefix}maxBackoff`, rule, received: show(maxBackoff) })
  }
  const capped = Object.freeze({ ...limit, maxBackoff: capOf(limit) })
  if (typeof max !== 'number' || typeof timeWindow !== 'number') return capped
  try {
    const defined = defineLimit(algorithm, max, timeWindow, burst)
    if (typeof cost === 'number' && cost > 1 && cost > defined.burst) {
      problems.push({ option: `${prefix}cost`, rule: `at most ${defined.burst}, or no request would ever fit`, received: show(cost) })
    }
  } catch (error) {
    problems.push({ option: `${prefix}max`, rule: 'in range with timeWindow', received: show(max), remedy: (error as LimitError).message })
  }
  return capped
}

/** The same for all that have the same cap, whether it was given or not; undefined: no refusal makes a window longer. */
function capOf ({ timeWindow, excess, maxBackoff = defaultBackoffMs }: LimitDefinition): number | undefined {
  if (excess !== 'backoff') return undefined
  return typeof timeWindow === 'number' ? Math.max(maxBackoff, timeWindow) : maxBackoff
}

/**
 * The plugin's options say what differs from all headers, a route's which
 * there are, as in @fastify/rate-limit. What `enableDraftSpec` calls
 * `ratelimit-limit` is `x-ratelimit-limit` here.
 */
function readHeaders<T extends Readonly<Record<string, boolean>>> (given: Readonly<Partial<Record<string, boolean>>> | undefined, { limits }: LimitSettings, base: T): T {
  if (given === undefined) return base
  const isOfRoute = limits.length > 0
  const renamed = Object.fromEntries(Object.entries(given).map(([name, on]) => [name.replace(/^ratelimit-/, 'x-ratelimit-'), on]))
  return Object.freeze(Object.fromEntries(Object.keys(base).map(name => [name, renamed[name] ?? (isOfRoute ? false : base[name])]))) as T
}

function readAllowList (given: AllowList['given']): AllowList {
  const entries = typeof given === 'object' ? given : []
  const { list, rest } = parseAddressList(entries.filter(entry => typeof entry === 'string'))
  const keys = new Set([...rest, ...entries.filter(entry => typeof entry === 'object').map(({ key }) => key)])
  return Object.freeze({ given, addresses: list, keys, decide: typeof given === 'function' ? given : undefined })
}
