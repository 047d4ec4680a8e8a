/**
 * The `redis` option and the environment, made into one answer: whether there
 * is a Redis, and how to reach it.
 */
import type { Cluster, ClusterNode, ClusterOptions, Redis, RedisOptions } from 'ioredis'
import type { Environment } from './env.js'
import { type OptionProblem, show } from './errors.js'
import { isRecord } from './option-rules.js'
import { parseRedisUrl, redisUrlRule } from './redis-url.js'

/** As Redis knows them; without a username it is the user `default`. */
export interface RedisCredentials {
  username?: string | undefined
  password: string
}

/** Asked at each connect, and by `redisGuard.rotate()`. */
export type CredentialsSource = () => RedisCredentials | Promise<RedisCredentials>

/** ioredis' options, and optionally a URL that says host, port, credentials, database and TLS. */
export type RedisConnectionOptions = RedisOptions & { url?: string, credentials?: CredentialsSource }

/** A client of ioredis 5 or 6, for a server or a Cluster; the structural part that tells it from options, so that any copy of ioredis will do. */
export interface OwnRedisClient {
  readonly status: string
  evalsha (sha1: string, keyCount: number, ...keysAndArguments: (string | number)[]): Promise<unknown>
  disconnect (): void
}

export type RedisOption =
  | string
  | RedisConnectionOptions
  | { cluster: ClusterNode[], credentials?: CredentialsSource } & ClusterOptions
  | OwnRedisClient
  | false

export type RedisSettings =
  | { readonly kind: 'none', readonly reason: string }
  /** the user's own client: used, and not closed */
  | { readonly kind: 'client', readonly client: Redis | Cluster }
  /** one server, or the one that the sentinels name */
  | { readonly kind: 'server', readonly options: RedisOptions, readonly credentials?: CredentialsSource }
  | { readonly kind: 'cluster', readonly nodes: ClusterNode[], readonly options: ClusterOptions, readonly credentials?: CredentialsSource }

export const redisRule = `a URL (${redisUrlRule}), ioredis options, { cluster: [...] }, { sentinels: [...], name }, an ioredis client, or false`

/**
 * What the program passes is explicit and wins; only where it passes nothing,
 * the environment decides.
 */
export function readRedisOption (given: unknown, environment: Environment, problems: OptionProblem[]): RedisSettings {
  if (given === undefined) return fromEnvironment(environment)
  if (given === false) return { kind: 'none', reason: 'the redis option is false' }
  const none: RedisSettings = { kind: 'none', reason: 'the redis option is wrong' }
  if (isClient(given)) return readClient(given, problems)
  if (typeof given === 'string') {
    const options = readUrl(given, 'redis', problems)
    return options === undefined ? none : { kind: 'server', options }
  }
  if (!isRecord(given)) {
    problems.push({ option: 'redis', rule: redisRule, received: show(given) })
    return none
  }
  if ('cluster' in given) return readCluster(given, problems) ?? none
  const { url, credentials, ...options } = defined(given) as RedisConnectionOptions
  const fromUrl = url === undefined ? {} : readUrl(url, 'redis.url', problems)
  if (typeof options.host === 'string' && /[/@]/.test(options.host)) {
    problems.push({ option: 'redis.host', rule: 'a host name or address', received: 'a URL', remedy: 'give a URL as redis.url' })
    return none
  }
  checkRole(options, problems)
  const asked = readCredentials(credentials, { 'redis.url': fromUrl, redis: options }, problems)
  return fromUrl === undefined ? none : { kind: 'server', options: { ...fromUrl, ...options }, ...asked }
}

function fromEnvironment ({ enabled, production, redis }: Environment): RedisSettings {
  if (enabled === false) return { kind: 'none', reason: 'REDIS_ENABLED is false' }
  if (redis === undefined) return { kind: 'none', reason: 'REDIS_URL is not set' }
  if (!production && enabled === undefined) {
    return { kind: 'none', reason: 'NODE_ENV is not production, and REDIS_ENABLED is not true' }
  }
  return { kind: 'server', options: redis }
}

function readUrl (url: unknown, option: string, problems: OptionProblem[]): RedisOptions | undefined {
  const address = typeof url === 'string' ? parseRedisUrl(url) : show(url)
  if (typeof address !== 'string') return address
  problems.push({ option, rule: redisUrlRule, received: address })
  return undefined
}

function readCluster (given: Readonly<Record<string, unknown>>, problems: OptionProblem[]): RedisSettings | undefined {
  const { cluster, credentials, ...options } = defined(given)
  const isNode = (node: unknown): node is ClusterNode => typeof node === 'string' || isRecord(node) || typeof node === 'number'
  if (Array.isArray(cluster) && cluster.length > 0 && cluster.every(isNode)) {
    const { redisOptions, tls } = options as ClusterOptions & { tls?: unknown }
    if (tls !== undefined) {
      problems.push({ option: 'redis.tls', rule: 'left out beside redis.cluster', received: typeName(tls), remedy: 'give it as redis.redisOptions.tls' })
    }
    const places = Object.fromEntries(cluster.map((node, i) => [`redis.cluster[${i}]`, nodeCredentials(node)]))
    return { kind: 'cluster', nodes: cluster, options: withTls(cluster, options), ...readCredentials(credentials, { redis: options, 'redis.redisOptions': redisOptions, ...places }, problems) }
  }
  problems.push({ option: 'redis.cluster', rule: 'an array of { host, port }, not empty', received: typeof cluster === 'string' ? 'a text' : show(cluster) })
  return undefined
}

/** ioredis takes a rediss:// node of a Cluster for an unencrypted one; and what one node speaks, those that it names do. */
function withTls (nodes: readonly ClusterNode[], { redisOptions, ...options }: ClusterOptions): ClusterOptions {
  const isTls = nodes.some(node => typeof node === 'string' && /^rediss:/i.test(node))
  return { ...options, redisOptions: { ...(isTls ? { tls: {} } : {}), ...defined({ ...redisOptions }) } }
}

/** One that is undefined is left out: it is not to hide what the URL says, or what a guard needs. */
function defined (options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
}

function readClient (client: Redis | Cluster, problems: OptionProblem[]): RedisSettings {
  const { credentials } = { ...client.options, ...client } as { credentials?: unknown }
  checkRole({ ...client.options } as RedisOptions, problems)
  if (credentials !== undefined) {
    problems.push({ option: 'redis.credentials', rule: 'left out with a client of your own', received: typeName(credentials), remedy: 'give options in place of the client' })
  }
  return { kind: 'client', client }
}

/** Sentinels would name a replica, which refuses every write. */
function checkRole ({ role, sentinels }: RedisOptions, problems: OptionProblem[]): void {
  if (!sentinels || role === undefined || role === 'master') return
  problems.push({ option: 'redis.role', rule: "'master' or left out", received: show(role), remedy: 'a replica takes no writes' })
}

/**
 * @param places  where else a user or password could be given, by the names of
 *   these options; what they are is not to be seen in a problem
 */
function readCredentials (credentials: unknown, places: Readonly<Record<string, object | undefined>>, problems: OptionProblem[]): { credentials?: CredentialsSource } {
  for (const [place, options = {}] of Object.entries(places)) {
    const { username, password, Connector, credentials: misplaced } = options as RedisConnectionOptions
    if (misplaced !== undefined) {
      problems.push({ option: `${place}.credentials`, rule: 'left out', received: typeName(misplaced), remedy: 'give it as redis.credentials' })
    }
    if (credentials === undefined) continue
    for (const [name, value] of Object.entries({ username, password, Connector })) {
      if (value === undefined || value === null) continue
      problems.push({ option: `${place}.${name}`, rule: 'left out beside redis.credentials', received: typeName(value), remedy: 'give one of the two' })
    }
  }
  if (credentials === undefined) return {}
  if (typeof credentials !== 'function') {
    problems.push({ option: 'redis.credentials', rule: 'a function () => { username, password } or a promise of them', received: typeName(credentials) })
    return {}
  }
  return { credentials: credentials as CredentialsSource }
}

/** The user and password in a node's own options or URL: a node may be given as a port, a URL, or options. */
export function nodeCredentials (node: ClusterNode): { username?: unknown, password?: unknown } {
  if (typeof node === 'number') return {}
  if (typeof node === 'object') return node as RedisOptions
  const [, username, password] = /\/\/([^:/@]*)(?::([^/@]*))?@/.exec(node) ?? []
  return { username: username || undefined, password: password || undefined }
}

/** In place of a value that may be a secret. */
function typeName (value: unknown): string {
  return value === null ? 'null' : `a value of type ${typeof value}`
}

/** By its shape, since it may come from another copy or version of ioredis. */
function isClient (value: unknown): value is Redis | Cluster {
  if (typeof value !== 'object' || value === null) return false
  const client = value as Record<string, unknown>
  return typeof client['evalsha'] === 'function' && typeof client['on'] === 'function' && typeof client['status'] === 'string'
}
