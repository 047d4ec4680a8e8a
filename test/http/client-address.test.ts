/** Who sent a request, read from the connection and X-Forwarded-For, and remembered. */
import Fastify, { type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type { Client } from '../../lib/guard/client.js'
import { clientReader, longestHeader, mostPairs } from '../../lib/http/client-address.js'

const trusted = ['127.0.0.1', '10.0.0.0/8', '2001:db8::/32']

function clientOf (ip: unknown): Client {
  return { key: String(ip) } as Client
}

/** Sends requests to an application whose hook reads each of them twice. */
async function readings (t: Test, trustProxy: string[] | string | boolean | ((address: string) => boolean), passed: unknown = trustProxy) {
  const app = Fastify({ trustProxy })
  t.teardown(async () => await app.close())
  let identified = 0
  const identify = (ip: unknown) => {
    identified++
    return clientOf(ip)
  }
  const read = clientReader(passed, { identify, read: identify })
  const seen: { read: (string | undefined)[], ip: string }[] = []
  app.addHook('onRequest', (request, reply, done) => {
    if (typeof request.headers['x-own'] === 'string') Object.defineProperty(request, 'ip', { value: request.headers['x-own'] })
    seen.push({ read: [read(request).key, read(request).key], ip: request.ip })
    done()
  })
  app.get('/', async () => 'ok')
  const send = async (remoteAddress: string, headers: Record<string, string> = {}) => {
    await app.inject({ url: '/', remoteAddress, headers })
    return seen.at(-1)!
  }
  return { send, identified: () => identified }
}

t.test('the client is the one of request.ip, whatever came before', async t => {
  const { send } = await readings(t, trusted)
  const connections = ['127.0.0.1', '10.1.2.3', '192.0.2.1', '2001:db8::1', '::1']
  const headers = [undefined, '', ' ', ',', '198.51.100.1', '198.51.100.1, 10.0.0.1', '10.0.0.1, 198.51.100.1', 'nonsense', '10.0.0.1,10.0.0.2', '::ffff:10.0.0.1, 203.0.113.9', `${'10.0.0.1, '.repeat(30)}198.51.100.7`]
  for (const round of [1, 2]) {
    for (const connection of connections) {
      for (const header of headers) {
        const { read, ip } = await send(connection, header === undefined ? {} : { 'x-forwarded-for': header })
        t.same(read, [ip, ip], `${round} ${connection} ${header}`)
      }
    }
  }
})

t.test('behind a list of proxies, equal connections and headers are read once', async t => {
  for (const trustProxy of [trusted, '127.0.0.1']) {
    const { send, identified } = await readings(t, trustProxy)
    for (let i = 0; i < 3; i++) await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.1' })
    t.equal(identified(), 1)
    await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.2' })
    await send('192.0.2.1', { 'x-forwarded-for': '198.51.100.1' })
    t.equal(identified(), 3)
  }
})

t.test('an address that the application has set wins over what is remembered', async t => {
  const { send } = await readings(t, trusted)
  await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.1' })
  const { read } = await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.1', 'x-own': '203.0.113.5' })
  t.same(read, ['203.0.113.5', '203.0.113.5'])
})

t.test('a function is asked each time', async t => {
  let trusts = true
  const trustProxy = () => trusts
  const { send } = await readings(t, trustProxy)
  t.equal((await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.1' })).read[0], '198.51.100.1')
  trusts = false
  t.equal((await send('127.0.0.1', { 'x-forwarded-for': '198.51.100.1' })).read[0], '127.0.0.1')
})

t.test('remembers so many pairs of connection and header, and no long header', async t => {
  let identified = 0
  const identify = (ip: unknown) => {
    identified++
    return clientOf(ip)
  }
  const read = clientReader(trusted, { identify, read: identify })
  const request = (header: string) => ({ ip: header, raw: { headers: { 'x-forwarded-for': header }, socket: { remoteAddress: '127.0.0.1' } } }) as unknown as FastifyRequest
  // `ip` is of the prototype, as in Fastify.
  const inherited = (header: string) => Object.create(request(header)) as FastifyRequest
  const long = 'x'.repeat(longestHeader + 1)
  for (let i = 0; i < 2; i++) t.equal(read(inherited(long)).key, long)
  t.equal(identified, 2)
  for (let i = 0; i <= mostPairs; i++) read(inherited(`header ${i}`))
  identified = 0
  t.equal(read(inherited(`header ${mostPairs}`)).key, `header ${mostPairs}`)
  t.equal(identified, 0)
  read(inherited('header 0'))
  t.equal(identified, 1, 'what came first was forgotten')
})
