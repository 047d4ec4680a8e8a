/** Finding a client by address or connection; what is remembered of clients is bounded. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { parseAddressList } from '../../lib/addresses/address-list.js'
import { Clients, cacheCapacity } from '../../lib/guard/clients.js'

function newClients (): Clients {
  return new Clients({ ipv6Subnet: 56, allowList: parseAddressList(['192.0.2.0/24']).list })
}

t.test('knows a client by its address, however it is written', async t => {
  const clients = newClients()
  const known: [ip: unknown, text: string | undefined, key: string, isPrefix: boolean, exempt: boolean][] = [
    ['::ffff:198.51.100.1', '198.51.100.1', '198.51.100.1', false, false],
    ['192.0.2.7', '192.0.2.7', '192.0.2.7', false, true],
    ['2001:db8:0:1ff::1', '2001:db8:0:1ff::1', '2001:db8:0:100::/56', true, false]
  ]
  for (const none of [undefined, null, 5, 'x', '']) known.push([none, undefined, 'unknown', false, false])
  for (const [ip, text, key, isPrefix, exempt] of known) {
    const client = clients.byAddress(ip)
    t.same(
      [client.address?.text, client.key, client.isPrefix, client.exempt],
      [text, key, isPrefix, exempt],
      String(ip)
    )
    t.equal(clients.byAddress(ip), clients.byAddress(ip), 'it is remembered from its second request on')
  }
})

t.test('knows a client by its connection and header, apart from clients known by address', async t => {
  const clients = newClients()
  const keyOf = (peer: string | undefined, header: string, ip: string) => clients.byConnection(peer, header, { ip }).key
  for (let i = 0; i < 2; i++) t.equal(keyOf('10.0.0.1', '198.51.100.1', '198.51.100.1'), '198.51.100.1')
  t.equal(keyOf('10.0.0.1', '198.51.100.1', 'not read'), '198.51.100.1')
  t.equal(keyOf('10.0.0.2', '198.51.100.1', '10.0.0.2'), '10.0.0.2')
  t.equal(keyOf(undefined, '198.51.100.1', '198.51.100.9'), '198.51.100.9')
  t.equal(clients.byAddress('198.51.100.1').key, '198.51.100.1')
})

t.test('forgets the least recent headers, and keeps one that comes often', async t => {
  const clients = newClients()
  let read = 0
  const byHeader = (header: string) =>
    clients.byConnection('10.0.0.1', header, { get ip () { return `read ${++read}` } })
  for (let i = 0; i < 3 * cacheCapacity; i++) {
    // Twice: then it is cached.
    byHeader(`header ${i}`)
    byHeader(`header ${i}`)
    if (i % 1000 === 0) byHeader('again and again')
  }
  const before = 2 * 3 * cacheCapacity
  t.ok(read >= before + 2 && read < before + 10, `${read - before} of ${3 * cacheCapacity / 1000} were read`)
  read = 0
  byHeader(`header ${3 * cacheCapacity - 1}`)
  byHeader('again and again')
  t.equal(read, 0)
  byHeader('header 0')
  t.equal(read, 1)
})

t.test('equal answers of a keyGenerator share their counter keys; long answers are not remembered', async t => {
  const clients = newClients()
  for (const answer of ['user-1', 'ünlü', '\ud83d\ude00', '\ud800', '']) {
    t.equal(clients.counterKeysOf(answer).client, answer)
    t.equal(clients.counterKeysOf(answer), clients.counterKeysOf(answer), 'from its second request on')
  }
  t.not(clients.counterKeysOf('user-1'), clients.counterKeysOf('user-2'))
  const long = 'x'.repeat(201)
  t.equal(clients.counterKeysOf(long).client, long)
  t.not(clients.counterKeysOf(long), clients.counterKeysOf(long))
})

t.test('with hashKeys, counter keys are made of the hash of an answer', async t => {
  const { list } = parseAddressList([])
  const clients = new Clients({ ipv6Subnet: 64, allowList: list, hashKey: answer => `hash of ${answer}` })
  t.equal(clients.counterKeysOf('secret').client, 'hash of secret')
  t.equal(clients.counterKeysOf('secret'), clients.counterKeysOf('secret'))
})

t.test('remembers a bounded number of addresses, and answers correctly for all', async t => {
  const clients = newClients()
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const heap = () => {
    collect()
    return process.memoryUsage().heapUsed
  }
  const before = heap()
  for (let i = 0; i < 300_000; i++) {
    const address = `10.${i >> 16}.${i >> 8 & 255}.${i & 255}`
    for (let time = 1; time <= 2; time++) if (clients.byAddress(address).address?.text !== address) t.fail(address)
  }
  t.equal(clients.byAddress('10.0.0.1').key, '10.0.0.1')
  const grown = heap() - before
  t.ok(grown < 10e6, `${grown} bytes`)
})
