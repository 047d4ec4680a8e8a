/**
 * Finds the client of a request, and caches recent clients. Without the cache, reading the address, the allow list and
 * the X-Forwarded-For header of proxies would be most of the work that the guard does for a request.
 */
import { type Address, parseAddress } from '../addresses/address.js'
import type { AddressList } from '../addresses/address-list.js'
import { CounterKeys } from '../store/keys.js'
import { BoundedCache } from './bounded-cache.js'
import { Client } from './client.js'
import type { KeyHash } from './key-hash.js'

export interface ClientsOptions {
  /** bits of the prefix that identifies an IPv6 client */
  readonly ipv6Subnet: number
  /** addresses that are never blocked */
  readonly allowList: AddressList<true>
  /** hashes the answer of a `keyGenerator`; undefined: the answer itself is counted and shown */
  readonly hashKey?: KeyHash | undefined
}

export class Clients {
  readonly #ipv6Subnet: number
  readonly #allowList: AddressList<true>
  readonly #hashKey: KeyHash | undefined
  readonly #byAddress = new BoundedCache<Client>(cacheCapacity)
  readonly #byConnection = new BoundedCache<Client>(cacheCapacity)
  readonly #byAnswer = new BoundedCache<CounterKeys>(cacheCapacity)
  readonly #unknown: Client

  constructor ({ ipv6Subnet, allowList, hashKey }: ClientsOptions) {
    this.#ipv6Subnet = ipv6Subnet
    this.#allowList = allowList
    this.#hashKey = hashKey
    this.#unknown = new Client({ address: undefined, ipv6Subnet, exempt: false })
  }

  /** @param ip  `request.ip`, which may be undefined, or any string that a trusted proxy passed on */
  byAddress (ip: unknown): Client {
    const known = this.#byAddress.get(undefined, ip as string)
    if (known !== undefined) return known
    const address = parseAddress(ip)
    if (address === undefined) return this.#unknown
    const client = this.#clientAt({ ...address, text: copy(address.text) })
    this.#byAddress.offer(undefined, copy(String(ip)), client)
    return client
  }

  /**
   * A client behind proxies. The same peer and header always give the same address.
   *
   * @param peer     address that the connection comes from
   * @param header   X-Forwarded-For; short, since it is cached
   * @param request  its `ip` parses both; read only if the two are not cached
   */
  byConnection (peer: string | undefined, header: string, request: { readonly ip: unknown }): Client {
    const known = this.#byConnection.get(peer, header)
    if (known !== undefined) return known
    const address = parseAddress(request.ip)
    // The text may be a slice of the header. It is not copied, since the header is short.
    const client = address === undefined ? this.#unknown : this.#clientAt(address)
    this.#byConnection.offer(peer, header, client)
    return client
  }

  /**
   * The counters of a client that a `keyGenerator` has identified.
   *
   * @param answer  of the `keyGenerator`, as a string
   */
  counterKeysOf (answer: string): CounterKeys {
    const key = this.#hashKey?.(answer) ?? answer
    if (key.length > longestAnswer) return new CounterKeys(key)
    const known = this.#byAnswer.get(undefined, key)
    if (known !== undefined) return known
    const counterKeys = new CounterKeys(copy(key))
    this.#byAnswer.offer(undefined, counterKeys.client, counterKeys)
    return counterKeys
  }

  #clientAt (address: Address): Client {
    return new Client({ address, ipv6Subnet: this.#ipv6Subnet, exempt: this.#allowList.find(address) === true })
  }
}

/** Copies a string: a slice of a header would keep the whole header in memory. */
function copy (text: string): string {
  const encoding = beyondLatin1.test(text) ? 'utf16le' : 'latin1'
  return Buffer.from(text, encoding).toString(encoding)
}

const beyondLatin1 = /[\u0100-\uffff]/

/** Longer answers of a `keyGenerator` are not cached, so that clients cannot fill the memory with them. */
const longestAnswer = 200

/** The capacity of each of the three caches: by address, by connection, and by answer of a `keyGenerator`. */
export const cacheCapacity = 10_000
