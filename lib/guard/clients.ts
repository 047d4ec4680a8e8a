/**
 * Whose request it is. Reading an address, its network and the allow list, and
 * behind proxies a whole X-Forwarded-For, costs more than all else that the
 * guard does for a request; so clients that came lately are remembered.
 */
import { parseAddress } from '../addresses/address.js'
import type { AddressList } from '../addresses/address-list.js'
import { CounterKeys } from '../store/keys.js'
import { BoundedCache } from './bounded-cache.js'
import { Client } from './client.js'
import type { KeyHash } from './key-hash.js'

export interface ClientsOptions {
  /** bits of the network that one IPv6 client is taken to have */
  readonly ipv6Subnet: number
  /** addresses that are never blocked */
  readonly allowList: AddressList<true>
  /** replaces the answer of a `keyGenerator`; undefined: the answer itself is counted and shown */
  readonly hashKey?: KeyHash | undefined
}

export class Clients {
  readonly #ipv6Subnet: number
  readonly #allowList: AddressList<true>
  readonly #hashKey: KeyHash | undefined
  readonly #byAddress = new BoundedCache<Client>(mostRemembered)
  readonly #byConnection = new BoundedCache<Client>(mostRemembered)
  readonly #byAnswer = new BoundedCache<CounterKeys>(mostRemembered)
  readonly #unknown: Client

  constructor ({ ipv6Subnet, allowList, hashKey }: ClientsOptions) {
    this.#ipv6Subnet = ipv6Subnet
    this.#allowList = allowList
    this.#hashKey = hashKey
    this.#unknown = new Client({ address: undefined, ipv6Subnet, exempt: false })
  }

  /** @param ip  `request.ip`: may be undefined, or any text that a trusted proxy passed on */
  byAddress (ip: unknown): Client {
    const known = this.#byAddress.get(undefined, ip as string)
    if (known !== undefined) return known
    const client = this.#read(ip)
    if (client !== this.#unknown) this.#byAddress.set(undefined, copy(String(ip)), client)
    return client
  }

  /**
   * A client behind proxies: equal connections and headers give equal addresses.
   *
   * @param peer     address that the connection comes from
   * @param header   the proxies' header; short, since it is remembered
   * @param request  read where the two are not remembered: its `ip` parses both
   */
  byConnection (peer: string | undefined, header: string, request: { readonly ip: unknown }): Client {
    const known = this.#byConnection.get(peer, header)
    if (known !== undefined) return known
    const client = this.#read(request.ip)
    this.#byConnection.set(peer, header, client)
    return client
  }

  /**
   * Whom a request is counted against whose client is not known by its address.
   *
   * @param answer  of a `keyGenerator`
   */
  counterKeysOf (answer: string): CounterKeys {
    const key = this.#hashKey?.(answer) ?? answer
    if (key.length > longestAnswer) return new CounterKeys(key)
    const known = this.#byAnswer.get(undefined, key)
    if (known !== undefined) return known
    const counterKeys = new CounterKeys(copy(key))
    this.#byAnswer.set(undefined, counterKeys.client, counterKeys)
    return counterKeys
  }

  #read (ip: unknown): Client {
    const found = parseAddress(ip)
    if (found === undefined) return this.#unknown
    const address = { ...found, text: copy(found.text) }
    return new Client({ address, ipv6Subnet: this.#ipv6Subnet, exempt: this.#allowList.find(address) === true })
  }
}

/** The text itself may be a part of a header, and would keep all of it in memory. */
function copy (text: string): string {
  const encoding = beyondLatin1.test(text) ? 'utf16le' : 'latin1'
  return Buffer.from(text, encoding).toString(encoding)
}

const beyondLatin1 = /[\u0100-\uffff]/

/** Longer answers of a `keyGenerator` are not remembered: nobody is to fill the memory with them. */
const longestAnswer = 200

/** Clients that are remembered by their addresses, as many by their connections, and by answers of a `keyGenerator`. */
export const mostRemembered = 10_000
