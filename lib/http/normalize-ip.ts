/** The key by which the plugin tells an address from others, for a `keyGenerator` of one's own. */
import { ArgumentError, show } from '../errors.js'
import { clientKey, firstAddress, parseAddress } from '../addresses/address.js'

/**
 * @param ip          an IPv4 address, which is answered as it is; or an IPv6
 *   one, of which the prefix is; IPv4 in the form of IPv6 is IPv4
 * @param ipv6Subnet  bits of the prefix, 0 to 128
 * @returns the text itself, in small letters, where it is no address
 */
export function normalizeIP (ip: string, ipv6Subnet = 64): string {
  if (typeof ip !== 'string') {
    throw new ArgumentError({ option: 'the address of normalizeIP', rule: 'a text', received: show(ip) })
  }
  if (!Number.isInteger(ipv6Subnet) || ipv6Subnet < 0 || ipv6Subnet > 128) {
    const rule = 'a whole number from 0 to 128'
    throw new ArgumentError({ option: 'ipv6Subnet of normalizeIP', rule, received: show(ipv6Subnet) })
  }
  const address = parseAddress(ip)
  return address === undefined ? ip.toLowerCase() : firstAddress(clientKey(address, ipv6Subnet))
}
