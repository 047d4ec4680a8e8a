/** Reads the options of the plugin and the environment into settings: once, complete and frozen. */
import { type OptionProblem, OptionsError } from '../errors.js'
import type { CustomStoreConstructor } from './custom-store.js'
import { type Environment, readEnvironment } from './environment.js'
import { fallbacks, pick, readGiven } from './given.js'
import { foreignOptions, isOfHost, probablyMeant } from './host-options.js'
import { limitDefaults, type LimitSettings, resolveLimit } from './limit-settings.js'
import { limitOptions, pluginOptions, routeOptions } from './option-table.js'
import { draftLimitHeaders, limitHeaders, type MetricsOptions, type RedisGuardOptions } from './options.js'
import { readRedisOption, type RedisSettings } from './redis-option.js'

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

/** The names of all options. Those of a route only are among them: in the plugin's options they are an error. */
const ownOptions = Object.keys({ ...pluginOptions, ...limitOptions, ...routeOptions })

/** @returns names of options that are not meant for this plugin; `resolveOptions` ignores them */
export function ignoredOptions (options: RedisGuardOptions): readonly string[] {
  return foreignOptions(options, ownOptions)
}

/**
 * @param options  as given to `fastify.register`; not changed
 * @param env      such as `process.env`
 * @throws OptionsError  names all wrong options, and all unknown ones that look like an option of the guard
 */
export function resolveOptions (
  options: RedisGuardOptions, env: Readonly<Record<string, string | undefined>>
): Settings {
  const problems: OptionProblem[] = []
  const ofEnvironment: OptionProblem[] = []
  const environment = readEnvironment(env, ofEnvironment)
  const unused = unusedVariables(options, environment)
  problems.push(...ofEnvironment.filter(({ option }) => !unused.includes(option)))
  const given = readGiven({ ...pluginOptions, ...limitOptions }, options, problems, {
    nameOf: name => name,
    isIgnored: name => isOfHost(name, options) || probablyMeant(name, ownOptions) === undefined
  })
  const headerNames = given.enableDraftSpec === true ? draftLimitHeaders : limitHeaders
  const settings: Settings = {
    ...pick({ ...fallbacks(pluginOptions), ...given }, pluginOptions),
    connectTimeout: given.connectTimeout ?? environment.connectTimeout ?? pluginOptions.connectTimeout.fallback,
    redis: readRedisOption(options.redis, environment, problems),
    environment,
    limit: resolveLimit(pick(given, limitOptions), { ...limitDefaults, headerNames }, '', problems)
  }
  if (problems.length > 0) throw new OptionsError(problems)
  return Object.freeze(settings)
}

/** Variables that the `redis` option or REDIS_ENABLED makes irrelevant, so they may be wrong. */
function unusedVariables ({ redis }: RedisGuardOptions, { enabled }: Environment): readonly string[] {
  if (redis !== undefined) return ['REDIS_URL', 'REDIS_TLS', 'REDIS_ENABLED']
  return enabled === false ? ['REDIS_URL', 'REDIS_TLS'] : []
}
