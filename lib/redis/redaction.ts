/**
 * Removes usernames and passwords from messages of servers, proxies and ioredis.
 * Some of these messages repeat AUTH or the URL, and they go into logs and
 * `status.reason`.
 */
import type { ClusterNode, RedisOptions } from 'ioredis'
import { nodeCredentials, type RedisSettings } from '../settings/redis-option.js'

/** @returns the text without secrets */
export type Redact = (text: string) => string

/** The text in place of a secret. */
const mask = '***'

/**
 * A secret with fewer characters is part of many words, so it is replaced only
 * between quotes and in the credentials of a URL.
 */
const shortSecret = 4

/** A text that begins with so many characters of a secret is redacted: Redis shortens what it repeats. */
const headLength = 16

/**
 * Makes a function that removes secrets from a text.
 *
 * @param secretsOf  returns the current usernames and passwords; called for each
 *   text, since they may change. undefined, null, '' and `default` are no secrets
 */
export function redactor (secretsOf: () => Iterable<unknown>): Redact {
  return text => {
    const known = new Set([...secretsOf()].flatMap(secret => isSecret(secret) ? formsOf(String(secret)) : []))
    // The longest first: one secret may be a part of another.
    return [...known].sort((a, b) => b.length - a.length).reduce(without, text)
  }
}

/** Usernames and passwords of servers and Sentinels, from the settings or from the user's client. */
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

/** The members of an ioredis client, for a server or a Cluster, that hold credentials. */
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

/** A secret may be an object whose text is made when it is sent (credentials.ts). */
function isSecret (secret: unknown): boolean {
  return secret !== undefined && secret !== null && String(secret) !== '' && String(secret) !== 'default'
}

/** The forms of a secret in messages: plain, in a URL, JSON-escaped, and with spaces in place of line breaks. */
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
