/**
 * The names of all keys in Redis, made to be read with redis-cli:
 *
 *   guard:fixed-window:{203.0.113.7}:login   counters of a client
 *   guard:{blocks}                           hash: address -> reason, origin, times
 *   guard:{blocks}:expiry                    sorted set: address by end of block
 *   guard:{blocks}:changes                   stream: what was blocked and unblocked
 *   guard:{blocks}:sequence                  number of the last change
 *   guard:{events}                           stream: requests that were refused
 *   guard:{events}:suspects                  sorted set: address by refusals
 *   guard:value:<key>                        what get, set and incr work on
 *
 * The braces are hash tags: what one script touches lies in one slot of a
 * Cluster, so all counters of one client do.
 */
import { createHash } from 'node:crypto'
import type { Algorithm } from '../rules/rate-limit.js'

export class Keys {
  readonly blocks: string
  readonly blockExpiry: string
  readonly blockChanges: string
  readonly blockSequence: string
  readonly events: string
  readonly suspects: string
  readonly probe: string
  readonly #nameSpace: string
  /** parts of keys by names of limits, of which there are as many as routes */
  readonly #names = new Map<string, string>()

  constructor (nameSpace: string) {
    this.#nameSpace = nameSpace
    this.blocks = `${nameSpace}{blocks}`
    this.blockExpiry = `${nameSpace}{blocks}:expiry`
    this.blockChanges = `${nameSpace}{blocks}:changes`
    this.blockSequence = `${nameSpace}{blocks}:sequence`
    this.events = `${nameSpace}{events}`
    this.suspects = `${nameSpace}{events}:suspects`
    this.probe = `${nameSpace}probe`
  }

  /** @param name  of the limit; @param client  whom it counts; both any text */
  limit (algorithm: Algorithm, name: string, client: string): string {
    let namePart = this.#names.get(name)
    if (namePart === undefined) this.#names.set(name, namePart = part(name))
    return `${this.#nameSpace}${algorithm}:{${part(client)}}:${namePart}`
  }

  value (key: string): string {
    return `${this.#nameSpace}value:${key}`
  }
}

/** Longer texts are stored as their hash: a header of 100 kB is no key for a million counters. */
const longestPart = 200

/**
 * A part of a key in which nothing can end the part, the hash tag or the line.
 * Different texts stay different: `%` itself is escaped, so that `%empty` and
 * `%sha256-...` cannot be had by asking for them.
 */
function part (text: string): string {
  if (text.length <= longestPart) {
    if (plain.test(text)) return text
    if (text === '') return '%empty'
    return text.replace(notPlain, escape)
  }
  // As UTF-16: UTF-8 has one and the same code for all lone surrogates.
  return `%sha256-${createHash('sha256').update(text, 'utf16le').digest('base64url')}`
}

const plain = /^[\w.:/@+*=,;!$&'()~|-]+$/
const notPlain = /[^\w.:/@+*=,;!$&'()~|-]/g

function escape (unit: string): string {
  return `%${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
}
