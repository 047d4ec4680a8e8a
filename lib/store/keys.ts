/**
 * The names of all keys in Redis, made to be read with redis-cli:
 *
 *   guard:fixed-window:{203.0.113.7}:login   counters of a client
 *   guard:{blocks}                           hash: address -> reason, origin, times
 *   guard:{blocks}:expiry                    sorted set: address by end of block
 *   guard:{blocks}:changes                   stream: what was blocked and unblocked
 *   guard:{blocks}:sequence                  number of the last change
 *   guard:{blocks}:lifted                    sorted set: address by the time of its unblocking
 *   guard:{blocks}:instances                 sorted set: instance by its last heartbeat
 *   guard:{blocks}:epoch                     a random text, gone when Redis loses its data
 *   guard:{events}                           stream: requests that were refused
 *   guard:{events}:suspects                  sorted set: address by refusals
 *   guard:batch:<instance>                   number of the last call that it sent
 *   guard:batch:<instance>:fence             what Redis answered when the instance came back
 *   guard:replayed:<instance>:<id>           says that what an outage left was added
 *   guard:replayed:{203.0.113.7}:<instance>:<id>
 *                                            the same in a Cluster, for one client, value, or the events
 *   guard:restored:fixed-window:{203.0.113.7}:login
 *                                            the largest baseline that was restored of a counter, after Redis has
 *                                            lost all of its data; stored as the counter is
 *   guard:value:{<key>}                      what get, set and incr work on
 *   guard:written:{<key>}                    when, and by which instance, it was set or deleted last
 *
 * The braces are hash tags: what one script touches lies in one slot of a
 * Cluster, so all counters of one client do.
 */
import { createHash } from 'node:crypto'
import type { Algorithm } from '../rules/algorithms.js'

/** Whom a counter belongs to; see store/limit-store.ts. */
interface Owner {
  readonly key: string
  readonly counterKeys?: CounterKeys | undefined
}

interface OfLimit {
  readonly name: string
  readonly limit: { readonly algorithm: Algorithm }
}

export class Keys {
  readonly blocks: string
  readonly blockExpiry: string
  readonly blockChanges: string
  readonly blockSequence: string
  readonly blocksLifted: string
  readonly instances: string
  readonly epoch: string
  readonly events: string
  readonly suspects: string
  readonly probe: string
  readonly #nameSpace: string
  /** the long text of a client that was asked for last, and its part of a key */
  #long: { readonly client: string, readonly part: string } | undefined

  constructor (nameSpace: string) {
    this.#nameSpace = nameSpace
    this.blocks = `${nameSpace}{blocks}`
    this.blockExpiry = `${nameSpace}{blocks}:expiry`
    this.blockChanges = `${nameSpace}{blocks}:changes`
    this.blockSequence = `${nameSpace}{blocks}:sequence`
    this.blocksLifted = `${nameSpace}{blocks}:lifted`
    this.instances = `${nameSpace}{blocks}:instances`
    this.epoch = `${nameSpace}{blocks}:epoch`
    this.events = `${nameSpace}{events}`
    this.suspects = `${nameSpace}{events}:suspects`
    this.probe = `${nameSpace}probe`
  }

  /** The key of a counter, found with its owner where that keeps its keys. */
  counter ({ key, counterKeys }: Owner, { name, limit }: OfLimit): string {
    return counterKeys?.find(limit.algorithm, name) ?? this.newCounter(limit.algorithm, name, counterKeys ?? key)
  }

  /**
   * Builds the key of a counter.
   *
   * @param name    of the limit; any text
   * @param client  whom it counts: any text, or where its keys are kept
   */
  newCounter (algorithm: Algorithm, name: string, client: string | CounterKeys): string {
    if (typeof client === 'string') return `${this.#nameSpace}${algorithm}:{${this.#partOf(client)}}:${part(name)}`
    return client.find(algorithm, name) ?? client.keep(algorithm, name, this.newCounter(algorithm, name, client.client))
  }

  /**
   * A request asks for all of its limits, one after the other and several times.
   * Hashing a megabyte for each of them would hold up all other requests.
   */
  #partOf (client: string): string {
    if (client.length <= longestPart) return part(client)
    if (this.#long?.client !== client) this.#long = { client, part: part(client) }
    return this.#long.part
  }

  /** @param instance  its id */
  batch (instance: string): string {
    return `${this.#nameSpace}batch:${instance}`
  }

  fence (instance: string): string {
    return `${this.batch(instance)}:fence`
  }

  /** @param beside  a key in whose slot of a Cluster it lies; undefined: there are no slots */
  replayed (beside: string | undefined, id: string): string {
    if (beside === undefined) return `${this.#nameSpace}replayed:${id}`
    const start = beside.indexOf('{')
    return `${this.#nameSpace}replayed:${beside.slice(start, beside.indexOf('}', start) + 1)}:${id}`
  }

  /** @param counter  a key from `newCounter` */
  restored (counter: string): string {
    return `${this.#nameSpace}restored:${counter.slice(this.#nameSpace.length)}`
  }

  /** @param key  any text */
  value (key: string): string {
    return `${this.#nameSpace}value:{${part(key)}}`
  }

  written (key: string): string {
    return `${this.#nameSpace}written:{${part(key)}}`
  }
}

/** Keys of counters of one client, kept with it: a returning client finds its counters without a text being built. */
export class CounterKeys {
  readonly client: string
  readonly #kept: KeptKey[] = []
  #next = 0

  constructor (client: string) {
    this.client = client
  }

  find (algorithm: Algorithm, name: string): string | undefined {
    for (const kept of this.#kept) if (kept.name === name && kept.algorithm === algorithm) return kept.key
    return undefined
  }

  /** In place of the one that was kept longest, if there are as many as are kept. */
  keep (algorithm: Algorithm, name: string, key: string): string {
    this.#kept[this.#next] = { algorithm, name, key }
    this.#next = (this.#next + 1) % mostKept
    return key
  }
}

interface KeptKey {
  readonly algorithm: Algorithm
  readonly name: string
  readonly key: string
}

/** Of each client. More would be memory for clients times limits. */
const mostKept = 4

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
