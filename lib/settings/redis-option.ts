/** Reads the `redis` option, or else the environment: whether Redis is used, and how to connect. */
import type { Cluster, ClusterNode, ClusterOptions, Redis, RedisOptions } from 'ioredis'
import type { Environment } from './environment.js'
import { type OptionProblem, show } from '../errors.js'
import { flag, isRecord, wrong } from './option-rules.js'
import { checkOptions, type OptionRules, typeName } from './redis-option-check.js'
import { clusterRules, nodeRules, sentinelRules, serverRules } from './redis-option-rules.js'
import { parseRedisUrl, redisUrlRule } from './redis-url.js'

/** The answer of a `CredentialsSource`. */
export interface RedisCredentials {
  /**
   * Name of the Redis user.
   *
   * @default 'default'
   */
  username?: string | undefined
  /** Password or token of the user. It is never logged. */
  password: string
}

/**
 * Returns the user and password for Redis. The guard calls it at each connect, and in `redisGuard.rotate()`. It must
 * answer within `connectTimeout`. If it fails, memory answers, and the guard calls it again within half a second.
 *
 * @example
 * redis: {
 *   url: 'rediss://cache.internal:6379',
 *   credentials: async () => ({ username: 'guard', password: await fetchToken() })
 * }
 */
export type CredentialsSource = () => RedisCredentials | Promise<RedisCredentials>

/** An option that each form of the `redis` option takes if it is an object. */
export interface RedisForm {
  /**
   * `true`: the application does not start unless Redis can be used within `connectTimeout`. `app.register` then
   * rejects with a `RedisRequiredError`, and the connection is closed. `required` changes nothing about later outages.
   *
   * @default false
   */
  required?: boolean
}

/** Options of ioredis for one server, or for the primary that Sentinels name. */
export type RedisConnectionOptions = RedisOptions & RedisForm & {
  /** Host, port, user, password, database and TLS in one URL. Options beside it replace its parts. */
  url?: string
  /** Returns the user and password, in place of `username` and `password`. */
  credentials?: CredentialsSource
}

/**
 * Your own client of ioredis 5 or 6, for a server or a Cluster. Only these members are declared, so that any copy of
 * ioredis will do. The guard does not close it. Create it with `enableOfflineQueue: false` and
 * `autoResendUnfulfilledCommands: false`.
 */
export interface OwnRedisClient {
  /** State of the connection, as ioredis reports it. */
  readonly status: string
  /** Runs a script; `Redis` and `Cluster` of ioredis have it. */
  evalsha (sha1: string, keyCount: number, ...keysAndArguments: (string | number)[]): Promise<unknown>
  /** Ends the connection. */
  disconnect (): void
}

/** Options of ioredis for a Cluster. Those of the connections to its nodes are in `redisOptions`. */
export type RedisClusterOptions = ClusterOptions & RedisForm & {
  /** Some of the nodes: `{ host, port }`, a URL, or a port. ioredis finds the others. */
  cluster: ClusterNode[]
  /** Returns the user and password for all nodes. */
  credentials?: CredentialsSource
}

/** The option `redis`: a URL, options of ioredis, a Cluster, a client of your own, or `false` for no Redis. */
export type RedisOption =
  | string
  | RedisConnectionOptions
  | RedisClusterOptions
  | OwnRedisClient
  | RedisForm & {
    /** Your own client. */
    client: OwnRedisClient
  }
  | false

/** `required`: the application does not start unless Redis can be used. */
interface Required {
  readonly required?: true
}

export type RedisSettings =
  /** `isAskedFor`: the environment suggests that Redis is wanted, so a warning is logged */
  | { readonly kind: 'none', readonly reason: string, readonly isAskedFor?: true }
  /** the user's own client, which is not closed */
  | Required & { readonly kind: 'client', readonly client: Redis | Cluster }
  /** one server, or the primary that Sentinels name */
  | Required & { readonly kind: 'server', readonly options: RedisOptions, readonly credentials?: CredentialsSource }
  | Required & {
    readonly kind: 'cluster'
    readonly nodes: ClusterNode[]
    readonly options: ClusterOptions
    readonly credentials?: CredentialsSource
  }

export const redisRule = `a URL (${redisUrlRule}), ioredis options, { cluster: [...] }, ` +
  '{ sentinels: [...], name }, an ioredis client, or false'

const none: RedisSettings = { kind: 'none', reason: 'the redis option is wrong' }

/** The environment decides only where the program passes no `redis` option. */
export function readRedisOption (given: unknown, environment: Environment, problems: OptionProblem[]): RedisSettings {
  if (given === undefined) return fromEnvironment(environment)
  if (given === false) return { kind: 'none', reason: 'the redis option is false' }
  if (isClient(given)) return readClient(given, problems)
  if (typeof given === 'string') {
    const options = readUrl(given, 'redis', problems)
    return options === undefined ? none : { kind: 'server', options }
  }
  if (!isRecord(given) || isStranger(given) || given instanceof URL) {
    problems.push({ option: 'redis', rule: redisRule, ...describeStranger(given) })
    return none
  }
  return readForm(given, problems)
}

function readForm (given: Readonly<Record<string, unknown>>, problems: OptionProblem[]): RedisSettings {
  const before = problems.length
  const { required, ...options } = defined(given)
  if (required !== undefined && flag.read(required) === wrong) {
    problems.push({ option: 'redis.required', rule: flag.rule, received: show(required) })
  }
  const settings = readKind(options, problems)
  // A missing place is reported only where nothing else is wrong: a wrong option may be meant as the place.
  if (problems.length === before && !places.some(name => isGiven(options[name]))) problems.push(...withoutPlace(given))
  if (problems.length > before) return none
  return required === true && settings.kind !== 'none' ? { ...settings, required } : settings
}

function readKind (options: Readonly<Record<string, unknown>>, problems: OptionProblem[]): RedisSettings {
  if ('client' in options) return readClientForm(options, problems)
  return 'cluster' in options ? readCluster(options, problems) : readServer(options, problems)
}

function isGiven (value: unknown): boolean {
  return value !== undefined && value !== null
}

/** The options that name the place of Redis. */
const places = ['url', 'host', 'port', 'path', 'sentinels', 'cluster', 'client']

/** Without a place, ioredis would connect to 127.0.0.1:6379, and the guard would count in whatever Redis is there. */
function withoutPlace (given: Readonly<Record<string, unknown>>): readonly OptionProblem[] {
  const remedy = 'say where Redis is, or redis: false for none'
  // Inherited properties, such as those of a class, are no options: see `defined`.
  const unset = places.filter(name => Object.hasOwn(given, name))
  if (unset.length === 0) {
    return [{ option: 'redis', rule: redisRule, received: 'options that do not say where Redis is', remedy }]
  }
  return unset.map(name => ({ option: `redis.${name}`, rule: 'given', received: show(given[name]), remedy }))
}

/** Options with a check of their own. They are listed so that a misspelt name is compared with them, too. */
const byFunction = { refused: 'checked by its own function' }
const ofForms = {
  url: byFunction,
  cluster: byFunction,
  client: byFunction,
  credentials: byFunction,
  required: byFunction
}
const serverFormRules: OptionRules = { ...ofForms, ...serverRules }

function readServer (given: Readonly<Record<string, unknown>>, problems: OptionProblem[]): RedisSettings {
  const { url, credentials, ...options } = given as RedisConnectionOptions & Record<string, unknown>
  const fromUrl = url === undefined ? {} : readUrl(url, 'redis.url', problems)
  checkOptions(options, serverFormRules, 'redis', problems)
  checkSentinels(options, problems)
  const asked = readCredentials(credentials, { 'redis.url': fromUrl, redis: options }, problems)
  return { kind: 'server', options: { ...fromUrl, ...options }, ...asked }
}

function checkSentinels ({ sentinels, name }: RedisOptions, problems: OptionProblem[]): void {
  if (!Array.isArray(sentinels) || sentinels.length === 0) return
  if (!isGiven(name)) {
    const rule = 'the name by which the Sentinels know the primary'
    problems.push({ option: 'redis.name', rule, received: show(name) })
  }
  sentinels.forEach((sentinel: unknown, i) => checkPlace(sentinel, sentinelRules, `redis.sentinels[${i}]`, problems))
}

/** Checks one Sentinel, or one node of a Cluster. */
function checkPlace (place: unknown, rules: OptionRules, option: string, problems: OptionProblem[]): void {
  const before = problems.length
  if (isRecord(place)) checkOptions(place, rules, option, problems)
  const { host, port } = isRecord(place) ? defined(place) : {}
  if (problems.length > before || isGiven(host) || isGiven(port)) return
  const received = isRecord(place) ? 'an object without host and port' : typeName(place)
  problems.push({ option, rule: '{ host, port }', received })
}

function readClientForm (given: Readonly<Record<string, unknown>>, problems: OptionProblem[]): RedisSettings {
  const { client, ...others } = given
  for (const [name, value] of Object.entries(others)) {
    problems.push({
      option: `redis.${name}`,
      rule: 'left out beside redis.client',
      received: typeName(value),
      remedy: 'give it to the client'
    })
  }
  if (isClient(client)) return readClient(client, problems)
  problems.push({ option: 'redis.client', rule: 'a client of ioredis', ...describeStranger(client) })
  return none
}

function fromEnvironment ({ enabled, production, development, redis }: Environment): RedisSettings {
  const without = (reason: string, isAskedFor: boolean): RedisSettings =>
    ({ kind: 'none', reason, ...(isAskedFor ? { isAskedFor } : {}) })
  if (enabled === false) return without('REDIS_ENABLED is false', false)
  if (redis === undefined) return without('REDIS_URL is not set', production || enabled === true)
  if (!production && enabled === undefined) {
    return without('NODE_ENV is not production, and REDIS_ENABLED is not true', !development)
  }
  return { kind: 'server', options: redis }
}

function readUrl (url: unknown, option: string, problems: OptionProblem[]): RedisOptions | undefined {
  const address = typeof url === 'string' ? parseRedisUrl(url) : show(url)
  if (typeof address !== 'string') return address
  problems.push({ option, rule: redisUrlRule, ...(url instanceof URL ? urlObject : { received: address }) })
  return undefined
}

const clusterFormRules: OptionRules = {
  ...refusedBesideCluster(Object.keys(serverRules), name => `: give it as redis.redisOptions.${name}`),
  ...refusedBesideCluster(['url', 'host', 'port', 'path', 'sentinels', 'name'], () => ''),
  ...clusterRules,
  cluster: byFunction,
  credentials: byFunction
}

function refusedBesideCluster (names: readonly string[], remedy: (name: string) => string): OptionRules {
  return Object.fromEntries(names.map(name => [name, { refused: `left out beside redis.cluster${remedy(name)}` }]))
}

function readCluster (given: Readonly<Record<string, unknown>>, problems: OptionProblem[]): RedisSettings {
  const { cluster, credentials, ...options } = given as typeof given & ClusterOptions
  checkOptions(options, clusterFormRules, 'redis', problems)
  if (!Array.isArray(cluster) || cluster.length === 0) {
    problems.push({
      option: 'redis.cluster',
      rule: 'an array of { host, port }, not empty',
      received: typeof cluster === 'string' ? 'a string' : show(cluster)
    })
    return none
  }
  const nodes = cluster.map((node: unknown, i) => readNode(node, `redis.cluster[${i}]`, problems))
  const nodePlaces = Object.fromEntries(nodes.map((node, i) => [`redis.cluster[${i}]`, nodeCredentials(node)]))
  const credentialPlaces = { redis: options, 'redis.redisOptions': options.redisOptions, ...nodePlaces }
  const isTls = cluster.some(node => typeof node === 'string' && /^\s*rediss:/i.test(node))
  const withCredentials = readCredentials(credentials, credentialPlaces, problems)
  return { kind: 'cluster', nodes, options: withTls(isTls, options), ...withCredentials }
}

/**
 * A node may be a port, a URL, or options. A URL is read here, not by ioredis: that would use the query of the URL as
 * options, as text, and some of these end the process.
 */
function readNode (node: unknown, option: string, problems: OptionProblem[]): ClusterNode {
  if (typeof node === 'number') {
    checkOptions({ port: node }, nodeRules, option, problems)
    return node
  }
  if (typeof node !== 'string') {
    checkPlace(node, nodeRules, option, problems)
    return isRecord(node) ? defined(node) : {}
  }
  const isPortAlone = /^\d+$/.test(node)
  const parsed = parseRedisUrl(node.includes('://') ? node : `redis://${node}`)
  if (isPortAlone || typeof parsed === 'string' || parsed.path !== undefined || parsed.db !== 0) {
    const problem = typeof parsed === 'string' ? parsed : 'a URL with a path or a database'
    problems.push({
      option,
      rule: 'redis://[user:password@]host[:port], rediss:// for TLS, a port as a number, or { host, port }',
      received: isPortAlone ? 'a string of digits' : problem
    })
    return node
  }
  const { tls, db, ...place } = parsed
  return place
}

/** TLS of one node means TLS of all: they come from one list. ioredis connects to a rediss:// node without TLS. */
function withTls (isTls: boolean, { redisOptions, ...options }: ClusterOptions): ClusterOptions {
  return { ...options, redisOptions: { ...(isTls ? { tls: {} } : {}), ...defined({ ...redisOptions }) } }
}

/** Without the options that are undefined: they would replace parts of the URL, and the guard's own options. */
function defined (options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
}

function readClient (client: Redis | Cluster, problems: OptionProblem[]): RedisSettings {
  const { credentials } = { ...client.options, ...client } as { credentials?: unknown }
  checkRole({ ...client.options } as RedisOptions, problems)
  if (credentials !== undefined) {
    problems.push({
      option: 'redis.credentials',
      rule: 'left out with a client of your own',
      received: typeName(credentials),
      remedy: 'give options in place of the client'
    })
  }
  return { kind: 'client', client }
}

/** Refuses a client of the user's whose Sentinels would name a replica. */
function checkRole ({ role, sentinels }: RedisOptions, problems: OptionProblem[]): void {
  if (!sentinels || role === undefined || role === 'master') return
  problems.push({ option: 'redis.role', rule: serverRules.role.rule, received: show(role) })
}

/** @param places  other places for a user and password, by their names; a problem does not show the values */
function readCredentials (
  credentials: unknown, places: Readonly<Record<string, object | undefined>>, problems: OptionProblem[]
): { credentials?: CredentialsSource } {
  if (credentials === undefined) return {}
  for (const [place, options] of Object.entries(places)) {
    const { username, password, Connector } = Object(options) as RedisOptions
    for (const [name, value] of Object.entries({ username, password, Connector })) {
      if (!isGiven(value)) continue
      problems.push({
        option: `${place}.${name}`,
        rule: 'left out beside redis.credentials',
        received: typeName(value),
        remedy: 'give one of the two'
      })
    }
  }
  if (typeof credentials !== 'function') {
    problems.push({
      option: 'redis.credentials',
      rule: 'a function that returns { username, password } or a promise of them',
      received: typeName(credentials)
    })
    return {}
  }
  return { credentials: credentials as CredentialsSource }
}

/** The user and password of a node, which may be given as a port, a URL or options. */
export function nodeCredentials (node: ClusterNode): { username?: unknown, password?: unknown } {
  if (typeof node === 'number') return {}
  if (typeof node === 'object') return node as RedisOptions
  const [, username, password] = /\/\/([^:/@]*)(?::([^/@]*))?@/.exec(node) ?? []
  return { username: username || undefined, password: password || undefined }
}

/** Checks the shape, since the client may come from another copy or version of ioredis. */
function isClient (value: unknown): value is Redis | Cluster {
  if (typeof value !== 'object' || value === null) return false
  const client = value as Record<string, unknown>
  const hasMethods = typeof client['evalsha'] === 'function' && typeof client['on'] === 'function'
  return hasMethods && typeof client['status'] === 'string'
}

const urlObject = { received: 'a URL object', remedy: 'give url.href' }

/** Whether a value is a client of another package: options have none of these methods. */
function isStranger (value: object): boolean {
  return ['on', 'connect', 'sendCommand'].some(name => typeof (value as Record<string, unknown>)[name] === 'function')
}

function describeStranger (value: unknown): Pick<OptionProblem, 'received' | 'remedy'> {
  if (value instanceof URL) return urlObject
  if (!isRecord(value) || !isStranger(value)) {
    return { received: typeof value === 'string' ? typeName(value) : show(value) }
  }
  const remedy = 'give an ioredis client, or what it connects to'
  if (typeof value['sendCommand'] === 'function' && 'isOpen' in value) {
    return { received: 'a client of node-redis', remedy }
  }
  if (value.constructor?.name === 'RedisMock') {
    const remedy = 'it cannot run the scripts of the guard: give redis: false, and memory answers'
    return { received: 'a client of ioredis-mock', remedy }
  }
  return { received: 'a client of another package', remedy }
}
