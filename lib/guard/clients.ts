/**
 * Whose request it is. Reading an address, its network and the allow list, and
 * behind proxies a whole X-Forwarded-For, costs more than all else that the
 * guard does for a request; so clients that came lately are remembered.
 */
import { parseAddress } from '../addresses/address.js'
import type { AddressList } from '../addresses/address-list.js'
import { BoundedCache } from './bounded-cache.js'
import { Client } from './client.js'

export interface ClientsOptions {
  /** bits of the network that one IPv6 client is taken to have */
  readonly ipv6Subnet: number
  /** addresses that are never blocked */
  readonly allowList: AddressList<true>
}

export class Clients {
  readonly #ipv6Subnet: number
  readonly #allowList: AddressList<true>
  readonly #byAddress = new BoundedCache<Client>(mostRemembered)
  readonly #byConnection = new BoundedCache<Client>(mostRemembered)
  readonly #unknown: Client

  constructor ({ ipv6Subnet, allowList }: ClientsOptions) {
    this.#ipv6Subnet = ipv6Subnet
    this.#allowList = allowList
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

  #read (ip: unknown): Client {
    const found = parseAddress(ip)
    if (found === undefined) return this.#unknown
    const address = { ...found, text: copy(found.text) }
    return new Client({ address, ipv6Subnet: this.#ipv6Subnet, exempt: this.#allowList.find(address) === true })
  }
}

/** The text itself may be a part of a header, and would keep all of it in memory. */
function copy (address: string): string {
  return Buffer.from(address, 'latin1').toString('latin1')
}

/** Clients that are remembered, by their addresses and by their connections. */
export const mostRemembered = 10_000
