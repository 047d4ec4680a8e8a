/**
 * The `redis` option and the environment, made into one answer: whether there
 * is a Redis, and how to reach it.
 */
import type { Cluster, ClusterNode, ClusterOptions, Redis, RedisOptions } from 'ioredis'
import type { Environment } from './env.js'
import { type OptionProblem, show } from './errors.js'
import { isRecord } from './option-rules.js'
import { parseRedisUrl, redisUrlRule } from './redis-url.js'

/** ioredis' options, and optionally a URL that says host, port, credentials, database and TLS. */
export type RedisConnectionOptions = RedisOptions & { url?: string }

export type RedisOption =
  | string
  | RedisConnectionOptions
  | { cluster: ClusterNode[] } & ClusterOptions
  | Redis
  | Cluster
  | false

export type RedisSettings =
  | { readonly kind: 'none', readonly reason: string }
  /** the user's own client: used, and not closed */
  | { readonly kind: 'client', readonly client: Redis | Cluster }
  /** one server, or the one that the sentinels name */
  | { readonly kind: 'server', readonly options: RedisOptions }
  | { readonly kind: 'cluster', readonly nodes: ClusterNode[], readonly options: ClusterOptions }

export const redisRule = `a URL (${redisUrlRule}), ioredis options, { cluster: [...] }, { sentinels: [...], name }, an ioredis client, or false`

/**
 * What the program passes is explicit and wins; only where it passes nothing,
 * the environment decides.
 */
export function readRedisOption (given: unknown, environment: Environment, problems: OptionProblem[]): RedisSettings {
  if (given === undefined) return fromEnvironment(environment)
  if (given === false) return { kind: 'none', reason: 'the redis option is false' }
  if (isClient(given)) return { kind: 'client', client: given }
  const none: RedisSettings = { kind: 'none', reason: 'the redis option is wrong' }
  if (typeof given === 'string') {
    const options = readUrl(given, 'redis', problems)
    return options === undefined ? none : { kind: 'server', options }
  }
  if (!isRecord(given)) {
    problems.push({ option: 'redis', rule: redisRule, received: show(given) })
    return none
  }
  if ('cluster' in given) return readCluster(given, problems) ?? none
  const { url, ...options } = given as RedisConnectionOptions
  const fromUrl = url === undefined ? {} : readUrl(url, 'redis.url', problems)
  if (typeof options.host === 'string' && /[/@]/.test(options.host)) {
    problems.push({ option: 'redis.host', rule: 'a host name or address', received: 'a URL', remedy: 'give a URL as redis.url' })
    return none
  }
  return fromUrl === undefined ? none : { kind: 'server', options: { ...fromUrl, ...options } }
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
  const { cluster, ...options } = given
  const isNode = (node: unknown): node is ClusterNode => typeof node === 'string' || isRecord(node) || typeof node === 'number'
  if (Array.isArray(cluster) && cluster.length > 0 && cluster.every(isNode)) return { kind: 'cluster', nodes: cluster, options }
  problems.push({ option: 'redis.cluster', rule: 'an array of { host, port }, not empty', received: typeof cluster === 'string' ? 'a text' : show(cluster) })
  return undefined
}

/** By its shape, since it may come from another copy or version of ioredis. */
function isClient (value: unknown): value is Redis | Cluster {
  if (typeof value !== 'object' || value === null) return false
  const client = value as Record<string, unknown>
  return typeof client['evalsha'] === 'function' && typeof client['on'] === 'function' && typeof client['status'] === 'string'
}
