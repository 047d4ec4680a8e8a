/** The key that counts a client and the address that shows it, in the plugin's subnet and in that of a limit. */
import t from 'tap'
import { parseAddress } from '../../lib/addresses/address.js'
import { Client } from '../../lib/guard/client.js'

function clientOf (ip: string, exempt = false): Client {
  return new Client({ address: parseAddress(ip), ipv6Subnet: 64, exempt })
}

t.test('IPv6 clients are counted by network and shown by its first address', async t => {
  const clients: [ip: string, key: string, shown: string, isPrefix: boolean][] = [
    ['2001:db8:1:2:3::4', '2001:db8:1:2::/64', '2001:db8:1:2::', true],
    ['192.0.2.1', '192.0.2.1', '192.0.2.1', false],
    ['no address', 'unknown', 'unknown', false]
  ]
  for (const [ip, ...expected] of clients) {
    const { key, shown, isPrefix } = clientOf(ip)
    t.same([key, shown, isPrefix], expected, ip)
  }
})

t.test('a limit may use another IPv6 subnet', async t => {
  const client = clientOf('2001:db8:1:2:3::4', true)
  const keys = [48, 128, 48, 0, 64].map(ipv6Subnet => client.inSubnet(ipv6Subnet).key)
  t.same(keys, ['2001:db8:1::/48', '2001:db8:1:2:3::4', '2001:db8:1::/48', '::/0', '2001:db8:1:2::/64'])
  t.equal(client.inSubnet(128).isPrefix, false)
  t.equal(client.inSubnet(48).exempt, true)
  t.equal(client.inSubnet(48).address, client.address)
})

t.test('a client with the same key in another subnet is not made again', async t => {
  const client = clientOf('2001:db8::1')
  t.equal(client.inSubnet(64), client)
  t.equal(client.inSubnet(48), client.inSubnet(48))
  for (const same of [clientOf('192.0.2.1'), clientOf('no address')]) t.equal(same.inSubnet(48), same)
})
