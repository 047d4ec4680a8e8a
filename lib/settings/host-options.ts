/**
 * Which options that we do not know are mistakes, and which are for others.
 * @fastify/autoload gives each plugin the options of the whole application.
 * fastify-cli adds what follows `--` on its command line, and with `--options`
 * those of the server.
 */
import { editDistance, plainName } from './near-name.js'

/** Names that the program around a plugin uses, none of which is an option of ours; a test compares them. */
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

/** What other limiters call an option of ours, and what belongs inside of one. No words that any plugin may use. */
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

/** @param options  all that were given: of one word fastify-cli gives `my-option` beside `myOption` */
export function isOfHost (name: string, options: object): boolean {
  return hostOptions.has(name) || (name.includes('-') && Object.hasOwn(options, camelCase(name)))
}

/**
 * @param known  the names of our options
 * @returns the option that was probably meant; undefined: none, so that the name is somebody else's
 */
export function probablyMeant (name: string, known: readonly string[]): string | undefined {
  return otherNames.get(plainName(name)) ?? known.find(option => isNear(plainName(name), plainName(option)))
}

/** @returns names that are neither ours nor the host's, nor a mistake for one of ours */
export function foreignOptions (options: object, known: readonly string[]): readonly string[] {
  const given = Object.entries(options).filter(([, value]) => value !== undefined).map(([name]) => name)
  return given.filter(name => !isOfHost(name, options) && probablyMeant(name, known) === undefined)
}

function camelCase (name: string): string {
  return name.replaceAll(/-+(\w)/g, (dashed, letter: string) => letter.toUpperCase())
}

/** Typing errors spare the first letter. Short names are near to many words, so less is near to them. */
function isNear (name: string, option: string): boolean {
  if (name === option) return true
  if (name[0] !== option[0]) return false
  // "map" and "bar" are words of their own, "maxx" is none.
  if (option.length < 4 && name.length === option.length) return false
  return editDistance(name, option) <= (option.length < 6 ? 1 : 2)
}
