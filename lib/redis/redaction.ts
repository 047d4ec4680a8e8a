/**
 * Removes user and password from messages of servers, proxies and ioredis. Some
 * of them repeat AUTH or the URL, and their messages go into logs and
 * `status.reason`.
 */
import type { ClusterNode, RedisOptions } from 'ioredis'
import { nodeCredentials, type RedisSettings } from '../settings/redis-option.js'

/** @returns the text without secrets */
export type Redact = (text: string) => string

/** Replaces a secret. */
const mask = '***'

/**
 * A secret of fewer characters is part of many words, so it is replaced only
 * between quotes and in the credentials of a URL.
 */
const shortSecret = 4

/** So many characters of a longer secret are enough: Redis shortens what it repeats. */
const headLength = 16

/**
 * @param secretsOf  returns the current users and passwords; called each time,
 *   since they may change. Missing ones and `default` are no secrets
 */
export function redactor (secretsOf: () => Iterable<unknown>): Redact {
  return text => {
    const known = new Set([...secretsOf()].flatMap(secret => isSecret(secret) ? formsOf(String(secret)) : []))
    // The longest first: one may be a part of another.
    return [...known].sort((a, b) => b.length - a.length).reduce(without, text)
  }
}

/** Users and passwords of the servers and Sentinels in the settings, or of the user's own client. */
export function secretsOf (settings: Exclude<RedisSettings, { kind: 'none' }>): readonly unknown[] {
  switch (settings.kind) {
    case 'server': return secretsIn(settings.options)
    case 'cluster': return [...secretsIn(settings.options.redisOptions), ...secretsOfNodes(settings.nodes)]
    case 'client': {
      const { options, startupNodes = [] } = settings.client as unknown as ClientOptions
      return [...secretsIn(options), ...secretsIn(options.redisOptions), ...secretsOfNodes(startupNodes)]
    }
  }
}

/** Where an ioredis client, for a server or a Cluster, keeps them. */
interface ClientOptions {
  readonly options: RedisOptions & { readonly redisOptions?: RedisOptions }
  readonly startupNodes?: readonly ClusterNode[]
}

function secretsOfNodes (nodes: readonly ClusterNode[]): readonly unknown[] {
  return nodes.flatMap(node => secretsIn(nodeCredentials(node)))
}

function secretsIn (options: object | undefined): readonly unknown[] {
  const given = (options ?? {}) as Readonly<Record<string, unknown>>
  return ['username', 'password', 'sentinelUsername', 'sentinelPassword'].map(name => given[name])
}

/** An object may stand for a string that is made when it is sent. */
function isSecret (secret: unknown): boolean {
  return secret !== undefined && secret !== null && String(secret) !== '' && String(secret) !== 'default'
}

/** The forms of a secret in messages: plain, in a URL, with escapes, and with spaces in place of line ends. */
function formsOf (secret: string): readonly string[] {
  const encoded = encodeURIComponent(Buffer.from(secret).toString())
  const inUrl = [encoded, encoded.replace(/%../g, escape => escape.toLowerCase()), decoded(secret)]
  return [secret, ...inUrl, JSON.stringify(secret).slice(1, -1), secret.replace(/[\r\n]/g, ' ')]
}

/** A secret from the URL of a node is still percent-encoded. */
function decoded (secret: string): string {
  try {
    return decodeURIComponent(secret)
  } catch {
    return secret
  }
}

function without (text: string, secret: string): string {
  if (secret.length < shortSecret) {
    const itself = secret.replace(/[^\w\s]/g, '\\$&')
    const places = [`(?<=["'\`])${itself}(?=["'\`])`, `(?<=//)${itself}(?=[:@])`, `(?<=:)${itself}(?=@)`]
    return text.replace(new RegExp(places.join('|'), 'g'), mask)
  }
  const head = secret.slice(0, headLength)
  let [result, from] = ['', 0]
  for (let at = text.indexOf(head); at !== -1; at = text.indexOf(head, from)) {
    let end = at + head.length
    while (end - at < secret.length && text[end] === secret[end - at]) end++
    result += text.slice(from, at) + mask
    from = end
  }
  return result + text.slice(from)
}
