/** The codes and texts of the warnings: the guard works, but a setting leaves a hole, or Redis may lose data. */
import { nodeCredentials, type RedisSettings } from '../settings/redis-option.js'
import type { ForeignFate } from '../store/redis/foreign-values.js'
import type { GuardWarning } from '../api/warning.js'

/**
 * Reads Fastify's option `trustProxy`. `initialConfig` leaves it out, so this looks where Fastify keeps its options.
 *
 * @param fastify  an instance, or one that inherits from it
 * @returns undefined also if another release of Fastify keeps its options elsewhere; then a warning is missing
 */
export function trustProxyOf (fastify: object): unknown {
  for (let instance: object | null = fastify; instance !== null; instance = Object.getPrototypeOf(instance)) {
    const symbol = Object.getOwnPropertySymbols(instance).find(({ description }) => description === 'fastify.options')
    if (symbol !== undefined) return (instance as Record<symbol, { trustProxy?: unknown }>)[symbol]?.trustProxy
  }
  return undefined
}

/** @param trustProxy  Fastify's option, which decides the address of a request */
export function checkTrustProxy (trustProxy: unknown): GuardWarning | undefined {
  if (trustProxy === true) {
    return {
      code: 'GUARD_WARN_TRUST_PROXY',
      message: 'trustProxy: true takes the leftmost address of X-Forwarded-For, which any client can make up. So a ' +
        'client can evade limits and blocks, and have others blocked. Set trustProxy to the addresses or CIDR ranges ' +
        'of your proxies'
    }
  }
  if (typeof trustProxy === 'number') {
    return {
      code: 'GUARD_WARN_TRUST_PROXY',
      message: `trustProxy: ${trustProxy} trusts no proxy since Fastify 5.12.1. So all clients have the address of ` +
        'the proxy, and share its limits and blocks. Set trustProxy to the addresses or CIDR ranges of your proxies'
    }
  }
  return undefined
}

/**
 * @param names   such as `GET /login`
 * @param global  whether routes without a limit of their own would have been limited
 */
export function checkRoutesBefore (names: readonly string[], global: boolean): GuardWarning | undefined {
  if (names.length === 0) return undefined
  const finding = global
    ? 'These routes were added before the plugin was loaded, so they are not limited'
    : 'These routes were added before the plugin was loaded, so a rateLimit in their config is not in force'
  return {
    code: 'GUARD_WARN_ROUTES_BEFORE',
    message: `${finding}: ${names.join(', ')}. To limit them, write \`await app.register(redisGuard, ...)\` before ` +
      'them, but after plugins whose hooks have to come first, such as @fastify/cors. Fastify does not show the ' +
      'config of earlier routes, so those with rateLimit: false are listed, too'
  }
}

/** @param names  of the ignored options, without their values, which may be secrets */
export function unknownOptions (names: readonly string[]): GuardWarning | undefined {
  if (names.length === 0) return undefined
  return {
    code: 'GUARD_WARN_UNKNOWN_OPTIONS',
    message: `fastify-redis-guard ignores options that it does not know: ${names.join(', ')}. ` +
      'They may be for other plugins of the application. If you meant an option of this plugin, correct its name'
  }
}

export const lateLimiter: GuardWarning = {
  code: 'GUARD_WARN_LATE_LIMITER',
  message: 'rateLimit or createRateLimit is called while requests are served. Each call makes a limiter with its own ' +
    'counters. So a limiter that is made for each request limits nothing, and memory grows. Make it once, outside of ' +
    'handlers and hooks'
}

/** @param production  false: a Redis without a password is common in development, so there is no warning */
export function checkPassword (redis: RedisSettings, production: boolean): GuardWarning | undefined {
  if (!production || redis.kind === 'none' || hasPassword(redis)) return undefined
  return {
    code: 'GUARD_WARN_NO_PASSWORD',
    message: 'Redis is used in production without a password. Anyone who can connect to it can lift every limit and ' +
      'block. Set a password with requirepass or an ACL user, and pass it in REDIS_PASSWORD'
  }
}

/** A user who sets variables for Redis, or runs in production, may expect that all processes share the limits. */
export function checkUnusedRedis (redis: RedisSettings): GuardWarning | undefined {
  if (redis.kind !== 'none' || redis.isAskedFor !== true) return undefined
  return {
    code: 'GUARD_WARN_REDIS_UNUSED',
    message: `Redis is not used: ${redis.reason}. Each process counts and blocks on its own, in memory. ` +
      'To use Redis, pass the redis option, or set REDIS_URL and NODE_ENV=production or REDIS_ENABLED=true. ' +
      'To stay in memory without this warning, pass redis: false, or set REDIS_ENABLED=false'
  }
}

/** Checks a client of the user. The guard's own clients have no offline queue, unless the user asks for it. */
export function checkOfflineQueue (redis: RedisSettings): GuardWarning | undefined {
  if (redis.kind !== 'client' || redis.client.options?.enableOfflineQueue !== true) return undefined
  return {
    code: 'GUARD_WARN_OFFLINE_QUEUE',
    message: 'The client passed as redis has an offline queue: commands wait in it while the connection is broken. ' +
      'The guard gives them up after commandTimeout and answers from memory. They still run when Redis is back, so ' +
      'some changes are made twice. Create the client with enableOfflineQueue: false and ' +
      'autoResendUnfulfilledCommands: false'
  }
}

/** @param policy  the maxmemory-policy of Redis */
export function checkEviction (policy: string): GuardWarning | undefined {
  const begin = `Redis' maxmemory-policy is ${policy}: when memory is short, Redis`
  if (policy.startsWith('allkeys-')) {
    return {
      code: 'GUARD_WARN_EVICTION',
      message: `${begin} silently drops counters and blocks, and attackers go free. Set noeviction. ` +
        'If caches share this Redis, set a volatile-* policy instead, which keeps blocks'
    }
  }
  if (policy.startsWith('volatile-')) {
    return {
      code: 'GUARD_WARN_VOLATILE_EVICTION',
      message: `${begin} keeps blocks but drops counters, and limited clients get a new quota. ` +
        'If caches share this Redis, keep the policy and set an alert on evictions. Otherwise set noeviction'
    }
  }
  return undefined
}

/** @param key  a key of the guard in Redis, with a value or an entry that the guard did not write */
export function foreignValue (key: string, fate: ForeignFate): GuardWarning {
  const found = fate === 'deleted'
    ? 'held a value that the guard cannot use. The guard has deleted it'
    : 'holds a value or an entry that the guard did not write. The guard ignores it'
  return {
    code: 'GUARD_WARN_FOREIGN_VALUE',
    message: `The key ${key} in Redis ${found}. Another program writes to the keys of the guard. Give the guard a ` +
      'nameSpace and an ACL user of its own'
  }
}

function hasPassword (redis: Exclude<RedisSettings, { kind: 'none' }>): boolean {
  switch (redis.kind) {
    case 'client': {
      const { options } = redis.client
      const ofNodes = 'redisOptions' in options
      return isGiven(ofNodes ? options.redisOptions?.password : (options as { password?: unknown }).password)
    }
    case 'server': return redis.credentials !== undefined || isGiven(redis.options.password)
    case 'cluster':
      return redis.credentials !== undefined || isGiven(redis.options.redisOptions?.password) ||
        redis.nodes.some(node => isGiven(nodeCredentials(node).password))
  }
}

function isGiven (password: unknown): boolean {
  return password !== undefined && password !== null && password !== ''
}
