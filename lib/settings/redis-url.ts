/**
 * Reads a Redis URL into typed options. The parser of ioredis 6 is not used: it connects without TLS for `REDISS://`,
 * keeps query values as text (`?connectTimeout=300` then throws where nothing can catch it), and fails on passwords
 * with a bare `%`. This one also takes access keys with `/`, `#` and `@` that are not percent-encoded.
 */
import type { RedisOptions } from 'ioredis'

/** The options of ioredis that a URL can hold. */
export type RedisAddress = Pick<RedisOptions, 'host' | 'port' | 'path' | 'username' | 'password' | 'db' | 'tls'>

export const redisUrlRule = 'redis://[user:password@]host[:port][/db], rediss:// for TLS, or unix:///path'

/**
 * @param text  from REDIS_URL or the `redis` option; the scheme in upper or lower case, credentials percent-encoded or
 * not
 * @returns the options, or a text that describes a URL that cannot be read, without its credentials
 */
export function parseRedisUrl (text: string): RedisAddress | string {
  const [, scheme = '', rest = ''] = /^([a-z]+):\/\/(.*)$/is.exec(text.trim()) ?? []
  switch (scheme.toLowerCase()) {
    case 'redis': return parseAuthority(rest)
    case 'rediss': {
      const address = parseAuthority(rest)
      return typeof address === 'string' ? address : { ...address, tls: {} }
    }
    case 'unix':
      if (!rest.startsWith('/')) return 'a unix:// URL without an absolute path'
      return rest.includes('?') ? withQuery : { path: rest }
    default: return 'a URL of another kind'
  }
}

const withQuery = 'a URL with a query; give these as options'

function parseAuthority (rest: string): RedisAddress | string {
  // The last @ ends the credentials: a host or database number cannot contain one.
  const at = rest.lastIndexOf('@')
  const credentials = at === -1 ? {} : parseCredentials(rest.slice(0, at))
  const [, host, bracketed, port, db, query] =
    /^(?:([^:/?#[\]\s]+)|\[([0-9a-f:.]+)\])(?::(\d{1,5}))?(?:\/(\d*))?(?:\?(.*))?$/i.exec(rest.slice(at + 1)) ?? []
  if (host === undefined && bracketed === undefined) return 'a URL without a readable host, port or database number'
  if (query !== undefined && query !== '') return withQuery
  if (Number(port ?? 1) < 1 || Number(port ?? 1) > 65535) return 'a URL with a port that is not from 1 to 65535'
  if (Number(db) > 2 ** 31 - 1) return 'a URL with a database number that is too large'
  return { host: host ?? bracketed, port: Number(port ?? 6379), db: Number(db ?? 0), ...credentials }
}

function parseCredentials (text: string): Pick<RedisAddress, 'username' | 'password'> {
  const colon = text.indexOf(':')
  const username = colon === -1 ? text : text.slice(0, colon)
  const password = colon === -1 ? '' : text.slice(colon + 1)
  return {
    ...(username === '' ? {} : { username: decode(username) }),
    ...(password === '' ? {} : { password: decode(password) })
  }
}

/** Percent-decodes if possible; a password such as `100%` stays unchanged. */
function decode (text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
