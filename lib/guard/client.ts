/** The client that sent a request, identified by its address. */
import { type Address, clientKey, firstAddress } from '../addresses/address.js'
import { CounterKeys } from '../store/keys.js'

export interface ClientIdentity {
  /** undefined: the request came through a unix socket, or `request.ip` is no address */
  readonly address: Address | undefined
  /** bits of the prefix that identifies an IPv6 client */
  readonly ipv6Subnet: number
  /** on the plugin's allow list */
  readonly exempt: boolean
}

export class Client {
  readonly address: Address | undefined
  /** the key of its counters, unless a `keyGenerator` gives another one */
  readonly key: string
  /** whether the key is a range of addresses, such as the /64 of an IPv6 client */
  readonly isPrefix: boolean
  /** the key that the user's functions get: for a range its first address, as in @fastify/rate-limit */
  readonly shown: string
  /** on the plugin's allow list: never blocked, and not limited by a limit that uses this list */
  readonly exempt: boolean
  readonly counterKeys: CounterKeys
  readonly #ipv6Subnet: number
  /** the same client with the other prefix that was asked for last */
  #other: Client | undefined

  constructor ({ address, ipv6Subnet, exempt }: ClientIdentity) {
    this.address = address
    // All clients without a readable address share one counter: such an address must be no way around the limit.
    this.key = address === undefined ? 'unknown' : clientKey(address, ipv6Subnet)
    this.isPrefix = address?.family === 6 && ipv6Subnet < 128
    this.shown = this.isPrefix ? firstAddress(this.key) : this.key
    this.exempt = exempt
    this.counterKeys = new CounterKeys(this.key)
    this.#ipv6Subnet = ipv6Subnet
  }

  /** This client for a limit with another `ipv6Subnet`. */
  inSubnet (ipv6Subnet: number): Client {
    if (this.address?.family !== 6 || ipv6Subnet === this.#ipv6Subnet) return this
    if (this.#other === undefined || this.#other.#ipv6Subnet !== ipv6Subnet) {
      this.#other = new Client({ address: this.address, ipv6Subnet, exempt: this.exempt })
    }
    return this.#other
  }
}
