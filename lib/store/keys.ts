/**
 * The names of all keys in Redis, readable in redis-cli:
 *
 *   guard:fixed-window:{203.0.113.7}:login   counters of a client
 *   guard:{blocks}                           hash: address -> reason, origin, times
 *   guard:{blocks}:expiry                    sorted set: address by end of block
 *   guard:{blocks}:changes                   stream: blocks and unblocks
 *   guard:{blocks}:sequence                  number of the last change
 *   guard:{blocks}:lifted                    sorted set: address by the time of its unblocking
 *   guard:{blocks}:instances                 sorted set: instance by its last heartbeat
 *   guard:{blocks}:epoch                     a random text, which is gone if Redis loses its data
 *   guard:{events}                           stream: requests that were refused
 *   guard:{events}:suspects                  sorted set: address by refusals
 *   guard:batch:<instance>                   number of the last call of the instance that ran
 *   guard:batch:<instance>:fence             what Redis answered when the instance came back
 *   guard:replayed:<instance>:<id>           marker: this chunk of a journal was replayed
 *   guard:replayed:{203.0.113.7}:<instance>:<id>
 *                                            the same in a Cluster, for one client, one value, or the events
 *   guard:restored:fixed-window:{203.0.113.7}:login
 *                                            largest baseline restored to this counter after Redis lost all of its
 *                                            data; stored like the counter
 *   guard:value:{<key>}                      value of get, set and incr
 *   guard:written:{<key>}                    when the value was last set or deleted, and by which instance
 *
 * The braces are hash tags: all keys of one script call lie in one slot of a
 * Cluster, so all counters of one client do too.
 */
import { createHash } from 'node:crypto'
import type { Algorithm } from '../rules/algorithms.js'

/** The owner of a counter; see store/limit-store.ts. */
interface Owner {
  readonly clientKey: string
  readonly counterKeys?: CounterKeys | undefined
}

interface NamedLimit {
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
  /** the last long client key, and its part of a Redis key */
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

  /** The Redis key of a counter; the owner's `counterKeys` may remember it. */
  counter (owner: Owner, check: NamedLimit): string {
    return this.place(owner, check).key
  }

  /** The place of a counter: the same object for each hit, as long as the owner's `counterKeys` remember it. */
  place ({ clientKey, counterKeys }: Owner, { name, limit }: NamedLimit): CounterPlace {
    const known = counterKeys?.find(limit.algorithm, name)
    if (known !== undefined) return known
    const key = this.newCounter(limit.algorithm, name, clientKey)
    return counterKeys?.remember(limit.algorithm, name, key) ?? { key, entry: undefined }
  }

  /**
   * Builds the Redis key of a counter.
   *
   * @param name    name of the limit; any text
   * @param client  key of the client; any text
   */
  newCounter (algorithm: Algorithm, name: string, client: string): string {
    return `${this.#nameSpace}${algorithm}:{${this.#partOf(client)}}:${part(name)}`
  }

  /**
   * A client's part of a Redis key. A request asks for the part once or more for
   * each limit, so the last long one is remembered: hashing a client key of a
   * megabyte each time would delay all other requests.
   */
  #partOf (client: string): string {
    if (client.length <= longestPart) return part(client)
    if (this.#long?.client !== client) this.#long = { client, part: part(client) }
    return this.#long.part
  }

  /** @param instance  id of the instance */
  batch (instance: string): string {
    return `${this.#nameSpace}batch:${instance}`
  }

  fence (instance: string): string {
    return `${this.batch(instance)}:fence`
  }

  /** @param beside  a key in the slot of a Cluster that the marker must lie in; undefined: there are no slots */
  replayed (beside: string | undefined, id: string): string {
    if (beside === undefined) return `${this.#nameSpace}replayed:${id}`
    const start = beside.indexOf('{')
    return `${this.#nameSpace}replayed:${beside.slice(start, beside.indexOf('}', start) + 1)}:${id}`
  }

  /** The key of a counter's restored baseline. @param counter  key of the counter, from `newCounter` */
  restored (counter: string): string {
    return `${this.#nameSpace}restored:${counter.slice(this.#nameSpace.length)}`
  }

  /** @param key  key of the value; any text */
  value (key: string): string {
    return `${this.#nameSpace}value:{${part(key)}}`
  }

  written (key: string): string {
    return `${this.#nameSpace}written:{${part(key)}}`
  }
}

/**
 * Remembers the places of one client's counters. So a returning client needs no new text, and the memory store finds
 * its counter without a look-up by text.
 */
export class CounterKeys {
  readonly client: string
  /** the newest place first. Almost every client has one, so this is no array */
  #newest: KnownPlace | undefined

  constructor (client: string) {
    this.client = client
  }

  find (algorithm: Algorithm, name: string): CounterPlace | undefined {
    for (let place = this.#newest; place !== undefined; place = place.older) {
      if (place.name === name && place.algorithm === algorithm) return place
    }
    return undefined
  }

  /** Remembers a place instead of the oldest one, if there are `mostRemembered` already. */
  remember (algorithm: Algorithm, name: string, key: string): CounterPlace {
    const newest: KnownPlace = { algorithm, name, key, entry: undefined, older: this.#newest }
    this.#newest = newest
    let oldest = newest
    for (let kept = 1; kept < mostRemembered && oldest.older !== undefined; kept++) oldest = oldest.older
    oldest.older = undefined
    return newest
  }
}

/** Where a counter is found. */
export interface CounterPlace {
  /** its key in Redis */
  readonly key: string
  /** its entry in memory, if the memory store has found it here before; only that store reads and writes it */
  entry: unknown
}

interface KnownPlace extends CounterPlace {
  readonly algorithm: Algorithm
  readonly name: string
  older: KnownPlace | undefined
}

/** The most places that are remembered for a client. With more, memory would grow with clients times limits. */
const mostRemembered = 4

/** Longer texts are stored as their hash. Otherwise a header of 100 kB would be part of the key of every counter. */
const longestPart = 200

/**
 * Escapes a text as a part of a Redis key, so that it cannot end the part, the
 * hash tag or the line. Different texts stay different: `%` itself is escaped,
 * so no client can send a text that becomes `%empty` or `%sha256-...`.
 */
function part (text: string): string {
  if (text.length <= longestPart) {
    if (plain.test(text)) return text
    if (text === '') return '%empty'
    return text.replace(notPlain, escape)
  }
  // As UTF-16: in UTF-8 all lone surrogates have the same code.
  return `%sha256-${createHash('sha256').update(text, 'utf16le').digest('base64url')}`
}

const plain = /^[\w.:/@+*=,;!$&'()~|-]+$/
const notPlain = /[^\w.:/@+*=,;!$&'()~|-]/g

function escape (unit: string): string {
  return `%${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
}
