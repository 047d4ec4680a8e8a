/** Reading the client of a request from the connection and X-Forwarded-For, and caching it. */
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { parseAddress } from '../../lib/addresses/address.js'
import { parseAddressList } from '../../lib/addresses/address-list.js'
import type { Client } from '../../lib/guard/client.js'
import { Clients } from '../../lib/guard/clients.js'
import { clientReader, longestHeader } from '../../lib/http/client-address.js'

const trusted = ['127.0.0.1', '10.0.0.0/8', '2001:db8::/32']

function textOf ({ address }: Client): string | undefined {
  return address?.text
}

/** Sends requests to an application whose hook reads the client of each request twice. */
async function readings (
  t: Test,
  trustProxy: string[] | string | boolean | ((address: string) => boolean),
  passed: unknown = trustProxy
) {
  const app = Fastify({ trustProxy })
  t.teardown(async () => await app.close())
  const clients = new Clients({ ipv6Subnet: 128, allowList: parseAddressList([]).list })
  let parsed = 0
  const read = clientReader(passed, {
    byAddress: ip => clients.byAddress(ip),
    byConnection: (peer, header, request) => clients.byConnection(peer, header, {
      get ip () {
        parsed++
        return request.ip
      }
    })
  })
  const seen: { read: (string | undefined)[], ip: string }[] = []
  app.addHook('onRequest', (request, reply, done) => {
    if (typeof request.headers['x-own'] === 'string') {
      Object.defineProperty(request, 'ip', { value: request.headers['x-own'] })
    }
    seen.push({ read: [textOf(read(request)), textOf(read(request))], ip: request.ip })
    done()
  })
  app.get('/', async () => 'ok')
  const send = async (remoteAddress: string, headers: Record<string, string> = {}) => {
    await app.inject({ url: '/', remoteAddress, headers })
    return seen.at(-1)!
  }
  return { send, parsed: () => parsed }
}

t.test('the client is that of request.ip, whatever was read before', async t => {
  const { send } = await readings(t, trusted)
  const connections = ['127.0.0.1', '10.1.2.3', '192.0.2.1', '2001:db8::1', '::1']
  const headers = [
    undefined, '', ' ', ',', '198.51.100.1', '198.51.100.1, 10.0.0.1', '10.0.0.1, 198.51.100.1', 'nonsense',
    '10.0.0.1,10.0.0.2', '::ffff:10.0.0.1, 203.0.113.9', `${'10.0.0.1, '.repeat(30)}198.51.100.7`
  ]
  for (const round of [1, 2]) {
    for (const connection of connections) {
      for (const header of headers) {
        const { read, ip } = await send(connection, header === undefined ? {} : { 'x-forwarded-for': header })
        const expected = parseAddress(ip)?.text
        t.same(read, [expected, expected], `${round} ${connection} ${header}`)
      }
    }
  }
})

t.test('behind a list of proxies, a header that comes again from the same connection is no longer parsed', async t => {
  for (const trustProxy of [trusted, '127.0.0.1']) {
    const { send, parsed } = await readings(t, trustProxy)
    const known: number[] = []
    for (let i = 0; i < 3; i++) {
      await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.1' })
      known.push(parsed())
      await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.2' })
      await send('192.0.2.1', { 'x-forwarded-for': '198.51.100.1' })
    }
    // Each request is read twice. The other connection came with a header that came before, so it was parsed once.
    t.same(known, [2, 5, 5])
  }
})

t.test('an address that the application sets wins over a cached one', async t => {
  const { send } = await readings(t, trusted)
  await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.1' })
  const { read } = await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.1', 'x-own': '203.0.113.5' })
  t.same(read, ['203.0.113.5', '203.0.113.5'])
})

t.test('a trustProxy function is called for each request', async t => {
  let trusts = true
  const trustProxy = () => trusts
  const { send } = await readings(t, trustProxy)
  t.equal((await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.1' })).read[0], '198.51.100.1')
  trusts = false
  t.equal((await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.1' })).read[0], '127.0.0.1')
})

t.test('a long header is parsed for each request', async t => {
  const { send, parsed } = await readings(t, trusted)
  const header = `${' '.repeat(longestHeader)}198.51.100.1`
  t.same((await send('127.0.0.1', { 'x-forwarded-for': header })).read, ['198.51.100.1', '198.51.100.1'])
  t.equal(parsed(), 0, 'it is not cached by its header')
})
