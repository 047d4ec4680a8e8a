/** Gives an own `keyGenerator` the key by which the plugin counts an address. */
import { ArgumentError, show } from '../errors.js'
import { clientKey, firstAddress, parseAddress } from '../addresses/address.js'

/**
 * The key of an address, for a `keyGenerator`: an IPv4 address, or the first address of the prefix of an IPv6 address.
 * IPv4 in the form of IPv6, such as `::ffff:192.0.2.1`, is IPv4. A string that is no address is returned in lower case.
 *
 * @param ipv6Subnet  bits of the prefix, a whole number from 0 to 128
 * @throws ArgumentError  if `ip` is no string or `ipv6Subnet` is out of range
 *
 * @example
 * normalizeIP('2001:db8::1:2:3:4') // '2001:db8::'
 */
export function normalizeIP (ip: string, ipv6Subnet = 64): string {
  if (typeof ip !== 'string') {
    throw new ArgumentError({ option: 'the address of normalizeIP', rule: 'a string', received: show(ip) })
  }
  if (!Number.isInteger(ipv6Subnet) || ipv6Subnet < 0 || ipv6Subnet > 128) {
    const rule = 'a whole number from 0 to 128'
    throw new ArgumentError({ option: 'ipv6Subnet of normalizeIP', rule, received: show(ipv6Subnet) })
  }
  const address = parseAddress(ip)
  return address === undefined ? ip.toLowerCase() : firstAddress(clientKey(address, ipv6Subnet))
}
