/**
 * Decides whether an unknown option is a mistake or is meant for another part of the application. @fastify/autoload
 * gives each plugin the options of the whole application. fastify-cli adds those after `--` on its command line, and
 * with `--options` those of the server.
 */
import { editDistance, plainName } from './near-name.js'

/** Option names of Fastify, @fastify/autoload and fastify-cli. A test checks that none is an option of the guard. */
export const hostOptions: ReadonlySet<string> = new Set([
  // fastify.register
  'prefix', 'logLevel', 'logSerializers',
  // fastify-cli, and the tests that it generates
  'skipOverride', 'ready', 'options', '_', '--',
  // @fastify/autoload
  'dir', 'dirNameRoutePrefix', 'matchFilter', 'ignoreFilter', 'ignorePattern', 'scriptPattern', 'indexPattern',
  'maxDepth', 'forceESM', 'encapsulate', 'autoHooks', 'autoHooksPattern', 'cascadeHooks', 'overwriteHooks',
  'routeParams', 'packageType',
  // Fastify()
  'ignoreTrailingSlash', 'ignoreDuplicateSlashes', 'connectionTimeout', 'keepAliveTimeout', 'maxRequestsPerSocket',
  'forceCloseConnections', 'requestTimeout', 'pluginTimeout', 'bodyLimit', 'handlerTimeout', 'maxParamLength',
  'disableRequestLogging', 'logController', 'exposeHeadRoutes', 'onProtoPoisoning', 'onConstructorPoisoning', 'logger',
  'loggerInstance', 'serializerOpts', 'serverFactory', 'caseSensitive', 'allowUnsafeRegex', 'requestIdHeader',
  'requestIdLogLabel', 'useSemicolonDelimiter', 'genReqId', 'trustProxy', 'querystringParser', 'constraints',
  'schemaController', 'return503OnClosing', 'ajv', 'frameworkErrors', 'rewriteUrl', 'schemaErrorFormatter',
  'clientErrorHandler', 'childLoggerFactory', 'allowErrorHandlerOverride', 'routerOptions', 'http', 'https', 'http2',
  'http2SessionTimeout',
  // fastify.listen
  'port', 'host', 'path', 'backlog', 'exclusive', 'readableAll', 'writableAll', 'ipv6Only', 'signal',
  'listenTextResolver'
])

/**
 * Names that other limiters use for an option of the guard, and names that belong inside one of its options. No general
 * words: those may be meant for another plugin.
 */
const otherNames: ReadonlyMap<string, string> = new Map(Object.entries({
  max: ['limit', 'points', 'maximum', 'maxRequests', 'maxHits'],
  timeWindow: ['window', 'windowMs', 'duration'],
  allowList: ['whitelist', 'safelist'],
  nameSpace: ['keyPrefix'],
  redis: ['storeClient', 'redisClient', 'redisUrl', 'redisOptions', 'cluster', 'sentinels', 'credentials'],
  countWhen: ['skipFailedRequests', 'skipSuccessfulRequests', 'requestWasSuccessful'],
  errorResponseBuilder: ['onLimitReached'],
  addHeaders: ['legacyHeaders', 'disableHeader'],
  onOutage: ['passOnStoreError', 'insuranceLimiter'],
  ban: ['blockDuration'],
  'app.redisGuard.blockIP': ['denyList', 'blackList', 'blockList']
}).flatMap(([option, names]) => names.map(name => [plainName(name), option])))

/** @param options  all that were given: fastify-cli gives both `my-option` and `myOption` for one argument */
export function isOfHost (name: string, options: object): boolean {
  return hostOptions.has(name) || (name.includes('-') && Object.hasOwn(options, camelCase(name)))
}

/**
 * @param known  the names of the guard's options
 * @returns the option that was probably meant; undefined: none, so the name is meant for another part of the
 * application
 */
export function probablyMeant (name: string, known: readonly string[]): string | undefined {
  return otherNames.get(plainName(name)) ?? known.find(option => isNear(plainName(name), plainName(option)))
}

/** @returns names that are not of the guard, not of the host, and not a misspelling of an option of the guard */
export function foreignOptions (options: object, known: readonly string[]): readonly string[] {
  const given = Object.entries(options).filter(([, value]) => value !== undefined).map(([name]) => name)
  return given.filter(name => !isOfHost(name, options) && probablyMeant(name, known) === undefined)
}

function camelCase (name: string): string {
  return name.replaceAll(/-+(\w)/g, (dashed, letter: string) => letter.toUpperCase())
}

/** Typing errors rarely change the first letter. Many words are near a short name, so it allows fewer changes. */
function isNear (name: string, option: string): boolean {
  if (name === option) return true
  if (name[0] !== option[0]) return false
  // For `max`, "map" is a different word, and "maxx" is a typing error.
  if (option.length < 4 && name.length === option.length) return false
  return editDistance(name, option) <= (option.length < 6 ? 1 : 2)
}
