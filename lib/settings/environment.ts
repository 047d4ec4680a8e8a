/**
 * The environment variables, read once into typed values. An empty variable counts as not set, as with
 * `REDIS_PASSWORD=` in a compose file.
 */
import { type OptionProblem, show } from '../errors.js'
import { parseRedisUrl, type RedisAddress, redisUrlRule } from './redis-url.js'

export interface Environment {
  /** NODE_ENV is `production` */
  readonly production: boolean
  /** NODE_ENV is `development` or `test` */
  readonly development: boolean
  /** from REDIS_URL, REDIS_PASSWORD and REDIS_TLS; undefined: REDIS_URL is not set */
  readonly redis: RedisAddress | undefined
  /** REDIS_ENABLED; undefined: not set */
  readonly enabled: boolean | undefined
  /** REDIS_TIMEOUT, ms */
  readonly connectTimeout: number | undefined
  /** LOG_LEVEL */
  readonly logLevel: string | undefined
}

export interface Variable {
  readonly rule: string
  readonly description: string
}

/** The variables. A table in the docs repeats them; a test compares the two. */
export const variables = {
  NODE_ENV: { rule: '`production`', description: 'Redis is used by default only in production' },
  REDIS_URL: { rule: redisUrlRule, description: 'where Redis is; not set: memory counts' },
  REDIS_PASSWORD: { rule: 'any characters, no escaping', description: 'the password; replaces the one in the URL' },
  REDIS_TLS: {
    rule: '`true` or `false`',
    description: '`true`: TLS for a `redis://` URL, too; a `rediss://` URL always means TLS'
  },
  REDIS_TIMEOUT: {
    rule: 'a whole number of ms from 1 to 600000',
    description: 'time limit for connecting; default 5000; the option `connectTimeout` replaces it'
  },
  REDIS_ENABLED: {
    rule: '`true` or `false`',
    description: '`true`: use Redis outside production, too; `false`: never use it'
  },
  LOG_LEVEL: {
    rule: 'a level of the logger',
    description: "level of the guard's own log lines; with `debug`, each decision is a line"
  }
} as const satisfies Readonly<Record<string, Variable>>

/**
 * @param env       such as `process.env`
 * @param problems  gets one for each wrong value
 */
export function readEnvironment (
  env: Readonly<Record<string, string | undefined>>, problems: OptionProblem[]
): Environment {
  const read = <T>(name: keyof typeof variables, parse: (text: string) => T | undefined): T | undefined => {
    const text = env[name]
    if (text === undefined || text === '') return undefined
    const value = parse(text)
    if (value === undefined) problems.push({ option: name, rule: variables[name].rule, received: show(text) })
    return value
  }
  const password = read('REDIS_PASSWORD', text => text)
  const tls = read('REDIS_TLS', parseBoolean)
  return Object.freeze({
    production: env['NODE_ENV'] === 'production',
    development: env['NODE_ENV'] === 'development' || env['NODE_ENV'] === 'test',
    redis: readUrl(env['REDIS_URL'], password, tls === true, problems),
    enabled: read('REDIS_ENABLED', parseBoolean),
    connectTimeout: read('REDIS_TIMEOUT', parseTimeout),
    logLevel: read('LOG_LEVEL', text => text)
  })
}

function readUrl (
  url: string | undefined, password: string | undefined, tls: boolean, problems: OptionProblem[]
): RedisAddress | undefined {
  if (url === undefined || url === '') return undefined
  const address = parseRedisUrl(url)
  if (typeof address === 'string') {
    problems.push({ option: 'REDIS_URL', rule: redisUrlRule, received: address })
    return undefined
  }
  return {
    ...address,
    ...(password === undefined ? {} : { password }),
    ...(tls && address.tls === undefined && address.path === undefined ? { tls: {} } : {})
  }
}

function parseBoolean (text: string): boolean | undefined {
  switch (text.trim().toLowerCase()) {
    case 'true': return true
    case 'false': return false
    default: return undefined
  }
}

function parseTimeout (text: string): number | undefined {
  const value = Number(text)
  return Number.isInteger(value) && value >= 1 && value <= 600_000 ? value : undefined
}
