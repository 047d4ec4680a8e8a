/**
 * The rules for the options inside the `redis` option: one for every option of ioredis and of Node's TLS. ioredis
 * checks none of them: it ignores an unknown one, and a wrong one ends the process later or leads to another database.
 * A test compares these tables with the types of ioredis and Node.
 */
import { isIP } from 'node:net'
import type { ConnectionOptions } from 'node:tls'
import type { ClusterOptions, RedisOptions, SentinelAddress } from 'ioredis'
import { show } from '../errors.js'
import { either, flag, fn, isRecord, listOf, oneOf, text, type ValueRule, whole, wrong } from './option-rules.js'
import { type Described, type Nested, type OptionRules, type Refused, typeName } from './redis-option-check.js'

/** The longest timeout of Node's timers. With a longer one, a timer fires at once. */
const longestTimerMs = 2 ** 31 - 1

function only (rule: string, isFine: (value: unknown) => boolean): ValueRule<unknown> {
  return { rule, read: value => isFine(value) ? value : wrong }
}

const ms = whole(0, longestTimerMs)
/** For a time limit: with 0, everything would time out. */
const limitMs = whole(1, longestTimerMs)
const port = whole(1, 65_535)
const filled: ValueRule<string> = {
  rule: 'a non-empty string',
  read: value => typeof value === 'string' && value !== '' ? value : wrong
}
/** An error does not show a wrong host: it may be a URL with a password, given as `host` by mistake. */
const host: ValueRule<unknown> & Described = {
  ...only('a host name or address', value => typeof value === 'string' && /^[^\s/@]+$/.test(value)),
  describe: value => typeof value === 'string' && /[/@]/.test(value)
    ? { received: 'a URL', remedy: 'give a URL as redis.url' }
    : { received: typeof value === 'string' ? typeName(value) : show(value) }
}
const family = only('0, 4 or 6', value => value === 0 || value === 4 || value === 6)
const secret: ValueRule<string> = { ...text, isSecret: true }
const names = listOf('an array of strings', 0, Infinity, text.read)
/** With braces in the prefix, the keys of all clients would be in one slot of a Cluster. */
const prefix: ValueRule<string> = {
  rule: 'a string without braces',
  read: value => typeof value === 'string' && !/[{}]/.test(value) ? value : wrong
}

/** For ioredis, null means that the option is not given. */
function orNull<T> ({ rule, isSecret, read }: ValueRule<T>): ValueRule<T | null> {
  return { rule: `${rule}, or null`, isSecret, read: value => value === null ? null : read(value) }
}

function refused (reason: string): Refused {
  return { refused: `left out: ${reason}` }
}

function isText (value: unknown): boolean {
  return typeof value === 'string' || value instanceof Uint8Array
}

/** Certificates and keys. Node ignores an empty one, and then trusts the default authorities, or sends none. */
function pem (rule: string, isPart: (value: unknown) => boolean): ValueRule<unknown> {
  const isFine = (value: unknown) => isPart(value) && (value as { length?: number }).length !== 0
  return {
    rule,
    isSecret: true,
    read: value => isFine(value) || (Array.isArray(value) && value.length > 0 && value.every(isFine)) ? value : wrong
  }
}

const certificate = pem('a string or Buffer, not empty, or an array of them', isText)
const privateKey = pem('a string or Buffer, not empty, or an array of them', value => isText(value) || isRecord(value))
const version = oneOf('TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3')
const ofServers = refused('it is an option of TLS servers')

const otherServer = refused('it would connect to a server other than the one in redis')

/** Options of Node's tls.connect. */
export const tlsRules = {
  ca: certificate,
  cert: certificate,
  crl: certificate,
  key: privateKey,
  pfx: privateKey,
  passphrase: secret,
  servername: text,
  rejectUnauthorized: flag,
  checkServerIdentity: fn('(host, certificate) => error or undefined'),
  minVersion: version,
  maxVersion: version,
  ciphers: filled,
  sigalgs: filled,
  ecdhCurve: filled,
  secureProtocol: filled,
  secureOptions: whole(0),
  minDHSize: whole(1),
  allowPartialTrustChain: flag,
  enableTrace: flag,
  ALPNProtocols: only(
    'an array of strings or a Buffer', value => value instanceof Uint8Array || names.read(value) !== wrong
  ),
  session: only('a Buffer', value => value instanceof Uint8Array),
  secureContext: only('what tls.createSecureContext returns', value => isRecord(value) && 'context' in value),
  pskCallback: fn('(hint) => { psk, identity } or null'),
  clientCertEngine: filled,
  privateKeyEngine: filled,
  privateKeyIdentifier: filled,
  lookup: fn('(host, options, callback) => void'),
  timeout: ms,
  family,
  localAddress: only('an IP address', value => isIP(String(value)) !== 0),
  autoSelectFamily: flag,
  autoSelectFamilyAttemptTimeout: limitMs,
  // ioredis has TLS profiles of these two names.
  profile: oneOf('RedisCloudFixed', 'RedisCloudFlexible'),
  host: otherServer,
  port: otherServer,
  path: otherServer,
  socket: refused('the guard could not reconnect'),
  SNICallback: ofServers,
  ALPNCallback: ofServers,
  requestCert: ofServers,
  honorCipherOrder: ofServers,
  dhparam: ofServers,
  sessionIdContext: ofServers,
  sessionTimeout: ofServers,
  ticketKeys: ofServers
} satisfies OptionRules & { readonly [name in keyof Required<ConnectionOptions>]: unknown }

const tls: Nested = {
  rule: "an object of options for Node's tls.connect",
  options: tlsRules,
  remedy: 'give {} for TLS with the defaults, and leave it out for none'
}

const address: OptionRules = {
  host,
  port
}

const natMap = only(
  "an object such as { '10.0.0.1:6379': { host, port } }, or a function (address) => { host, port } or null",
  value => typeof value === 'function' || (isRecord(value) && Object.values(value).every(isAddress))
)

/** Whether a value is `{ host, port }` and nothing else: ioredis would also use a `db` in it. */
export function isAddress (value: unknown): value is { host: string, port: number } {
  if (!isRecord(value) || Object.keys(value).some(name => !Object.hasOwn(address, name))) return false
  return host.read(value['host']) !== wrong && port.read(value['port']) !== wrong
}

const scripts = only(
  'an object such as { name: { lua, numberOfKeys } }',
  value => isRecord(value) && Object.values(value).every(isScript)
)

function isScript (value: unknown): boolean {
  if (!isRecord(value)) return false
  const { lua, numberOfKeys = 0, readOnly = false } = value
  return typeof lua === 'string' && whole(0).read(numberOfKeys) !== wrong && typeof readOnly === 'boolean'
}

const fieldsets = only('an array of { name, fields } with different names', value => {
  if (!Array.isArray(value) || !value.every(isFieldset)) return false
  return new Set(value.map(({ name }) => Buffer.from(name).toString('base64'))).size === value.length
})

function isFieldset (value: unknown): value is { name: string | Uint8Array } {
  return isRecord(value) && isText(value['name']) && Array.isArray(value['fields']) && value['fields'].every(isText)
}

const connector = only('a class with a method connect', value => {
  const { prototype } = Object(value) as { prototype?: { connect?: unknown } }
  return typeof value === 'function' && typeof prototype?.connect === 'function'
})

const delays = fn<unknown>('(attempt) => ms or null')

/** Options of any connection. */
const connectionRules = {
  username: orNull(secret),
  password: orNull(secret),
  family,
  tls,
  connectionName: orNull(text),
  keyPrefix: prefix,
  showFriendlyErrorStack: flag,
  Connector: connector,
  commandTimeout: limitMs,
  blockingTimeout: whole(-1, longestTimerMs),
  blockingTimeoutGrace: ms,
  socketTimeout: limitMs,
  connectTimeout: limitMs,
  disconnectTimeout: ms,
  maxLoadingRetryTime: ms,
  keepAlive: ms,
  noDelay: flag,
  disableClientInfo: flag,
  clientInfoTag: text,
  autoResubscribe: flag,
  autoResendUnfulfilledCommands: flag,
  reconnectOnError: orNull(fn('(error) => true, false, 1 or 2')),
  stringNumbers: flag,
  protocol: only('2 or 3', value => value === 2 || value === 3),
  replyMapping: only("'legacy': the guard reads replies in this form", value => value === 'legacy'),
  monitor: only('false: a connection in monitor mode takes no commands', value => value === false),
  maxRetriesPerRequest: orNull(whole(0)),
  enableAutoPipelining: flag,
  autoPipeliningIgnoredCommands: names,
  offlineQueue: flag,
  commandQueue: flag,
  enableReadyCheck: flag,
  lazyConnect: flag,
  scripts
} satisfies OptionRules

/** Options of a connection to one server, or to the primary that Sentinels name. */
export const serverRules = {
  ...connectionRules,
  host,
  port,
  path: filled,
  db: whole(0, longestTimerMs),
  retryStrategy: orNull(delays),
  readOnly: flag,
  enableOfflineQueue: flag,
  himportFieldsets: fieldsets,
  name: orNull(filled),
  role: only("'master': a replica takes no writes", value => value === 'master'),
  // checkSentinels reads the items, so that an error names the wrong one.
  sentinels: orNull(only('an array of { host, port }, not empty', value => Array.isArray(value) && value.length > 0)),
  sentinelUsername: orNull(secret),
  sentinelPassword: orNull(secret),
  sentinelTLS: tls,
  sentinelRetryStrategy: delays,
  sentinelReconnectStrategy: delays,
  sentinelCommandTimeout: limitMs,
  sentinelMaxConnections: whole(1),
  enableTLSForSentinelMode: flag,
  updateSentinels: flag,
  failoverDetector: flag,
  preferredSlaves: refused('the guard writes, and only the primary takes writes'),
  natMap: orNull(natMap)
} satisfies OptionRules & { readonly [name in keyof Required<RedisOptions>]: unknown }

const ofNodes = refused('each node has its own, in redis.cluster')
const misplacedCredentials = { credentials: refused('give it as redis.credentials') }

/** Options of the connections to the nodes of a Cluster. */
export const nodeConnectionRules: OptionRules = {
  ...all(serverRules, refused('a Cluster has no Sentinels')),
  ...misplacedCredentials,
  ...connectionRules,
  db: only('0, the only database of a Cluster', value => value === 0),
  host: ofNodes,
  port: ofNodes,
  path: ofNodes,
  readOnly: ofNodes,
  retryStrategy: refused('give it as redis.clusterNodeRetryStrategy'),
  enableOfflineQueue: refused('give it as redis.enableOfflineQueue'),
  natMap: refused('give it as redis.natMap'),
  himportFieldsets: refused('give it as redis.himportFieldsets')
}

function all (rules: OptionRules, refusal: Refused): OptionRules {
  return Object.fromEntries(Object.keys(rules).map(name => [name, refusal]))
}

/** Options of a Cluster. */
export const clusterRules = {
  keyPrefix: prefix,
  showFriendlyErrorStack: flag,
  clusterRetryStrategy: orNull(delays),
  clusterNodeRetryStrategy: orNull(delays),
  enableOfflineQueue: flag,
  enableReadyCheck: flag,
  scaleReads: either(oneOf('master', 'slave', 'all'), fn('(nodes, command) => node')),
  maxRedirections: whole(1),
  retryDelayOnFailover: ms,
  retryDelayOnClusterDown: ms,
  retryDelayOnTryAgain: ms,
  retryDelayOnMoved: ms,
  slotsRefreshTimeout: limitMs,
  slotsRefreshInterval: ms,
  shardedSubscribers: flag,
  redisOptions: { rule: 'an object of options for the connections to the nodes', options: nodeConnectionRules },
  lazyConnect: flag,
  useSRVRecords: flag,
  resolveSrv: fn('(host, callback) => void'),
  dnsLookup: fn('(host, callback) => void'),
  natMap: orNull(natMap),
  enableAutoPipelining: flag,
  autoPipeliningIgnoredCommands: names,
  scripts,
  himportFieldsets: fieldsets
} satisfies OptionRules & { readonly [name in keyof Required<ClusterOptions>]: unknown }

/** Options of one node of a Cluster. All others are the same for all nodes. */
export const nodeRules: OptionRules = {
  ...all(connectionRules, refused('it is the same for all nodes: give it in redis.redisOptions')),
  ...misplacedCredentials,
  host,
  port,
  family,
  username: orNull(secret),
  password: orNull(secret),
  connectionName: orNull(text),
  tls
}

/** Options of one Sentinel. */
export const sentinelRules = {
  host,
  port,
  family
} satisfies OptionRules & { readonly [name in keyof Required<SentinelAddress>]: unknown }
