/**
 * Reads the options of a limit into settings: once, complete and frozen. A route's options are read on top of the
 * plugin's.
 */
import type { FastifyRequest } from 'fastify'
import { type AddressList, parseAddressList } from '../addresses/address-list.js'
import { type LimitError, type OptionProblem, OptionsError, show } from '../errors.js'
import { type Algorithm, algorithmsWith, ruleOf } from '../rules/algorithms.js'
import { defaultBackoffMs, defineLimit } from '../rules/rate-limit.js'
import type { Excess } from '../rules/rule.js'
import type { Awaitable } from '../runtime/awaitable.js'
import { fallbacks, type Given, pick, readGiven } from './given.js'
import { text } from './option-rules.js'
import { limitOptions, type Option, routeOptions, singleLimitOptions } from './option-table.js'
import {
  limitHeaders, type LimitHook, type NamedLimitOptions, type OnOutage, type RateLimitOptions, type refusalHeaders,
  type RouteRateLimitOptions, type SingleLimitOptions
} from './options.js'

/** The numbers of a limit. */
export interface LimitDefinition {
  readonly algorithm: Algorithm
  readonly max: Exclude<SingleLimitOptions['max'], undefined>
  /** ms */
  readonly timeWindow: number | ((request: FastifyRequest, key: string) => Awaitable<number>)
  /** undefined: equal to max */
  readonly burst: number | undefined
  readonly cost: Exclude<SingleLimitOptions['cost'], undefined>
  /** refusals in a window; -1: never */
  readonly ban: number
  readonly excess: Excess
  /** ms; undefined: a day, or the window if that is longer */
  readonly maxBackoff: number | undefined
  /** the part of the clients that it may refuse, 0 to 1 */
  readonly enforce: number
}

/** One of the limits of a route. The name of an only limit is empty. */
export interface NamedLimitDefinition extends LimitDefinition {
  readonly name: string
}

/** A limit's settings, with all defaults filled in. A setting is undefined only where that has a meaning. */
export interface LimitSettings extends LimitDefinition {
  /** the group whose counters a route shares; undefined: it has its own counters */
  readonly groupId: string | undefined
  /** the limits that each request has to pass */
  readonly limits: readonly NamedLimitDefinition[]
  /** `limits` as given, the default of routes; undefined: there is one limit, without a name */
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
  /** also set by `skipOnError` */
  readonly onOutage: OnOutage
  readonly addHeaders: Readonly<Record<typeof refusalHeaders[number], boolean>>
  readonly addHeadersOnExceeding: Readonly<Record<typeof limitHeaders[number], boolean>>
  readonly headerNames: readonly [limit: string, remaining: string, reset: string]
  readonly standardHeaders: boolean
  readonly problemDetails: boolean
}

export interface AllowList {
  /** the entries or the function, as given */
  readonly given: Exclude<RateLimitOptions['allowList'], undefined>
  readonly addresses: AddressList<true>
  /** entries that are neither addresses nor ranges, and keys of `{ key }` entries */
  readonly keys: ReadonlySet<string>
  readonly decide: ((request: FastifyRequest, key: string) => Awaitable<boolean>) | undefined
}

/** These options are no settings: they set `onOutage`, `enforce`, `excess` and `list`. */
const { skipOnError, shadow, continueExceeding, exponentialBackoff, limits, ...ownLimitOptions } = limitOptions

/** The plugin's own limit without options. */
export const limitDefaults: LimitSettings = {
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

/**
 * @param config  a route's `config.rateLimit`
 * @param base    the plugin's settings: the defaults of a route
 * @param place   prefix of the name of a wrong option, such as `GET /login config.rateLimit`
 * @throws OptionsError
 */
export function resolveRouteLimit (
  config: RouteRateLimitOptions, base: LimitSettings, place: string
): LimitSettings {
  const problems: OptionProblem[] = []
  const { groupId, ...given } = readGiven(
    { ...limitOptions, ...routeOptions }, config, problems, { nameOf: name => `${place}.${name}` }
  )
  const settings = resolveLimit(given, base, `${place}.`, problems)
  if (problems.length > 0) throw new OptionsError(problems)
  return Object.freeze({ ...settings, groupId: groupId === '' ? undefined : groupId })
}

/** @param prefix  of the name of a wrong option, such as `GET /login config.rateLimit.` */
export function resolveLimit (
  given: Given<typeof limitOptions>, base: LimitSettings, prefix: string, problems: OptionProblem[]
): LimitSettings {
  const {
    allowList, addHeaders, addHeadersOnExceeding, skipOnError,
    shadow, enforce, continueExceeding, exponentialBackoff, limits, ...rest
  } = given
  const single = resolveSingle(given, base, prefix, problems)
  // A route with a single limit does not inherit the plugin's list.
  const list = limits ?? (ofSingle.some(name => given[name] !== undefined) ? undefined : base.list)
  const settings: LimitSettings = {
    ...base,
    ...(skipOnError === undefined ? {} : { onOutage: skipOnError ? 'allow' : 'fail' }),
    ...rest,
    ...single,
    list,
    limits: list === undefined
      ? [checked({ ...single, name: '' }, prefix, problems)]
      : resolveList(list, single, prefix, problems),
    allowList: allowList === undefined ? base.allowList : readAllowList(allowList),
    addHeaders: readHeaders(addHeaders, base, base.addHeaders),
    addHeadersOnExceeding: readHeaders(addHeadersOnExceeding, base, base.addHeadersOnExceeding)
  }
  if (given.onOutage !== undefined && skipOnError !== undefined) {
    problems.push({ option: `${prefix}skipOnError`, rule: 'left out beside onOutage', received: show(skipOnError) })
  }
  if (given.problemDetails === true && given.errorResponseBuilder !== undefined) {
    const rule = 'left out beside problemDetails'
    problems.push({ option: `${prefix}errorResponseBuilder`, rule, received: 'a function' })
  }
  if (limits !== undefined) {
    for (const name of ofSingle) {
      if (given[name] === undefined) continue
      problems.push({ option: `${prefix}${name}`, rule: 'left out beside limits', received: show(given[name]) })
    }
  }
  return Object.freeze(settings)
}

/** Options of a single limit, which `limits` replaces. */
const ofSingle = ['max', 'timeWindow', 'burst'] as const

function resolveSingle (
  given: Given<typeof singleLimitOptions>, base: LimitDefinition, prefix: string, problems: OptionProblem[]
): LimitDefinition {
  const { algorithm, max, timeWindow, burst, cost, maxBackoff, enforce } = base
  const { shadow, continueExceeding, exponentialBackoff, ...rest } = given
  const { hasBurst, notesRefusals } = ruleOf({ algorithm: given.algorithm ?? algorithm })
  // A limit that does not note refusals inherits no option about refusals.
  const { ban, excess } = notesRefusals ? base : limitDefaults
  if (shadow !== undefined && given.enforce !== undefined) {
    problems.push({ option: `${prefix}shadow`, rule: 'left out beside enforce', received: show(shadow) })
  }
  if (given.burst !== undefined && !hasBurst) {
    problems.push({ option: `${prefix}burst`, rule: leftOutUnless('hasBurst'), received: show(given.burst) })
  }
  if (given.maxBackoff !== undefined && given.algorithm !== undefined && !notesRefusals) {
    const rule = leftOutUnless('notesRefusals')
    problems.push({ option: `${prefix}maxBackoff`, rule, received: show(given.maxBackoff) })
  }
  if (given.maxBackoff !== undefined && continueExceeding === true) {
    const rule = 'left out beside continueExceeding'
    problems.push({ option: `${prefix}maxBackoff`, rule, received: show(given.maxBackoff) })
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

function leftOutUnless (trait: Parameters<typeof algorithmsWith>[0]): string {
  return `left out, unless algorithm is ${algorithmsWith(trait).map(name => `'${name}'`).join(' or ')}`
}

function readExcess (restarts: boolean, backsOff: boolean): Excess {
  if (restarts) return 'restart'
  return backsOff ? 'backoff' : 'none'
}

const namedLimitOptions = {
  name: { value: text, fallback: undefined, shown: '', description: '' }, ...singleLimitOptions
} satisfies { readonly [name in keyof Required<NamedLimitOptions>]: Option }

function resolveList (
  list: readonly NamedLimitOptions[], base: LimitDefinition, prefix: string, problems: OptionProblem[]
): readonly NamedLimitDefinition[] {
  const names = new Set<string>()
  return Object.freeze(list.map((options, i) => {
    const place = `${prefix}limits[${i}].`
    const nameOf = (option: string) => `${place}${option}`
    const { name, ...given } = readGiven(namedLimitOptions, options, problems, { nameOf })
    for (const option of ['max', 'timeWindow'] as const) {
      if (options[option] !== undefined) continue
      problems.push({ option: `${place}${option}`, rule: 'given', received: 'nothing' })
    }
    if (name === undefined || !limitName.test(name)) {
      const rule = '1 to 50 letters, digits, ".", "_" or "-"'
      problems.push({ option: `${place}name`, rule, received: show(options.name) })
    } else if (names.has(name)) {
      problems.push({ option: `${place}name`, rule: 'different from the names before it', received: show(name) })
    } else names.add(name)
    return checked({ ...resolveSingle(given, base, place, problems), name: name ?? '' }, place, problems)
  }))
}

const limitName = /^[\w.-]{1,50}$/

/** Checks whether the numbers of a limit fit together. @returns the limit with its `maxBackoff` */
function checked (limit: NamedLimitDefinition, prefix: string, problems: OptionProblem[]): NamedLimitDefinition {
  const { algorithm, max, timeWindow, burst, cost, ban, excess, maxBackoff } = limit
  if (!ruleOf(limit).notesRefusals) {
    const rule = leftOutUnless('notesRefusals')
    const ofExcess = excess === 'restart' ? 'continueExceeding' : 'exponentialBackoff'
    if (ban !== -1) problems.push({ option: `${prefix}ban`, rule, received: show(ban) })
    if (excess !== 'none') problems.push({ option: `${prefix}${ofExcess}`, rule, received: 'true' })
  }
  if (excess === 'backoff' && maxBackoff !== undefined && typeof timeWindow === 'number' && maxBackoff < timeWindow) {
    const rule = `at least timeWindow, which is ${timeWindow} ms`
    problems.push({ option: `${prefix}maxBackoff`, rule, received: show(maxBackoff) })
  }
  const capped = Object.freeze({ ...limit, maxBackoff: capOf(limit) })
  if (typeof max !== 'number' || typeof timeWindow !== 'number') return capped
  try {
    const defined = defineLimit(algorithm, max, timeWindow, { burst })
    if (typeof cost === 'number' && cost > 1 && cost > defined.burst) {
      const rule = `at most ${defined.burst}, or no request would ever fit`
      problems.push({ option: `${prefix}cost`, rule, received: show(cost) })
    }
  } catch (error) {
    const remedy = (error as LimitError).message
    const rule = 'a number that can be counted exactly in this timeWindow'
    problems.push({ option: `${prefix}max`, rule, received: show(max), remedy })
  }
  return capped
}

/** Returns the same for equal caps, given or default. @returns undefined: refusals do not make the window longer */
function capOf ({ timeWindow, excess, maxBackoff = defaultBackoffMs }: LimitDefinition): number | undefined {
  if (excess !== 'backoff') return undefined
  return typeof timeWindow === 'number' ? Math.max(maxBackoff, timeWindow) : maxBackoff
}

/**
 * As in @fastify/rate-limit: headers that the plugin's options leave out are on, and those that a route's options leave
 * out are off. The settings have the names with `x-`, also with `enableDraftSpec`.
 */
function readHeaders<T extends Readonly<Record<string, boolean>>> (
  given: Readonly<Partial<Record<string, boolean>>> | undefined, { limits }: LimitSettings, base: T
): T {
  if (given === undefined) return base
  const isOfRoute = limits.length > 0
  const nameHere = (name: string) => name.replace(/^ratelimit-/, 'x-ratelimit-')
  const renamed = Object.fromEntries(Object.entries(given).map(([name, on]) => [nameHere(name), on]))
  const entries = Object.keys(base).map(name => [name, renamed[name] ?? (isOfRoute ? false : base[name])])
  return Object.freeze(Object.fromEntries(entries)) as T
}

function readAllowList (given: AllowList['given']): AllowList {
  const entries = typeof given === 'object' ? given : []
  const { list, rest } = parseAddressList(entries.filter(entry => typeof entry === 'string'))
  const keys = new Set([...rest, ...entries.filter(entry => typeof entry === 'object').map(({ key }) => key)])
  return Object.freeze({ given, addresses: list, keys, decide: typeof given === 'function' ? given : undefined })
}
