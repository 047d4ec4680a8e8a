/** How a client is known by its address, and that what is remembered of addresses is bounded. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { DenyCache } from '../../lib/guard/refusal-cache.js'
import { Guard } from '../../lib/guard/guard.js'
import { parseAddressList } from '../../lib/addresses/address-list.js'
import { FailoverStore } from '../../lib/outage/failover.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'

function setUp (): Guard {
  const keys = new Keys('guard:')
  const denyCache = new DenyCache({ keys, capacity: 10, now: () => 0, write: async () => {} })
  const memory = new MemoryStore({ keys, capacity: 10, maxEvents: 10, now: Date.now })
  return new Guard({ store: new FailoverStore({ memory, redis: undefined, keys: new Keys('guard:'), now: Date.now }), memory, denyCache, ipv6Subnet: 56, allowList: parseAddressList(['192.0.2.0/24']).list, listeners: [] })
}

t.test('knows a client by its address, whatever form that comes in', async t => {
  const guard = setUp()
  const known: [ip: unknown, text: string | undefined, key: string, isPrefix: boolean, exempt: boolean][] = [
    ['::ffff:198.51.100.1', '198.51.100.1', '198.51.100.1', false, false],
    ['192.0.2.7', '192.0.2.7', '192.0.2.7', false, true],
    ['2001:db8:0:1ff::1', '2001:db8:0:1ff::1', '2001:db8:0:100::/56', true, false]
  ]
  for (const none of [undefined, null, 5, 'x', '']) known.push([none, undefined, 'unknown', false, false])
  for (const [ip, text, key, isPrefix, exempt] of known) {
    const client = guard.identify(ip)
    t.same([client.address?.text, client.key, client.isPrefix, client.exempt], [text, key, isPrefix, exempt], String(ip))
  }
})

t.test('what it remembers of addresses is bounded, and right for each of them', async t => {
  const guard = setUp()
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const heap = () => {
    collect()
    return process.memoryUsage().heapUsed
  }
  const before = heap()
  for (let i = 0; i < 300_000; i++) {
    const address = `10.${i >> 16}.${i >> 8 & 255}.${i & 255}`
    if (guard.identify(address).address?.text !== address) t.fail(address)
  }
  t.equal(guard.identify('10.0.0.1').key, '10.0.0.1')
  const grown = heap() - before
  t.ok(grown < 10e6, `${grown} bytes`)
})
