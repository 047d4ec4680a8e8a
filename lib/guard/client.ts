/** The client that sent a request, identified by its address. */
import { type Address, clientKey, firstAddress } from '../addresses/address.js'
import { CounterKeys } from '../store/keys.js'

export interface ClientParts {
  /** undefined: a unix socket, or what is no address */
  readonly address: Address | undefined
  /** bits of the network that one IPv6 client is taken to have */
  readonly ipv6Subnet: number
  /** on the plugin's allow list */
  readonly exempt: boolean
}

export class Client {
  readonly address: Address | undefined
  /** the key of its counters, unless a `keyGenerator` gives another one */
  readonly key: string
  /** the key is a range of addresses, such as the /64 of an IPv6 client */
  readonly isPrefix: boolean
  /** the key as the user's functions see it: of a range the first address, as @fastify/rate-limit has it */
  readonly shown: string
  /** on the plugin's allow list: never blocked, and not limited by limits that use that list */
  readonly exempt: boolean
  readonly counterKeys: CounterKeys
  readonly #ipv6Subnet: number
  /** the same client in another subnet, as it was asked for last */
  #other: Client | undefined

  constructor ({ address, ipv6Subnet, exempt }: ClientParts) {
    this.address = address
    // All whose address cannot be read share one counter: it must not be a way around the limit.
    this.key = address === undefined ? 'unknown' : clientKey(address, ipv6Subnet)
    this.isPrefix = address?.family === 6 && ipv6Subnet < 128
    this.shown = this.isPrefix ? firstAddress(this.key) : this.key
    this.exempt = exempt
    this.counterKeys = new CounterKeys(this.key)
    this.#ipv6Subnet = ipv6Subnet
  }

  /** The client as a limit sees it that tells IPv6 clients apart by another prefix. */
  inSubnet (ipv6Subnet: number): Client {
    if (this.address?.family !== 6 || ipv6Subnet === this.#ipv6Subnet) return this
    if (this.#other === undefined || this.#other.#ipv6Subnet !== ipv6Subnet) {
      this.#other = new Client({ address: this.address, ipv6Subnet, exempt: this.exempt })
    }
    return this.#other
  }
}
