/** Clients that reset their connection: they evade no limit, and requests without a delivered answer count. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, ServerResponse } from 'node:http'
import {
  type ClientHttp2Session, connect as connectHttp2, constants, type IncomingHttpHeaders, type IncomingHttpStatusHeader,
  type OutgoingHttpHeaders
} from 'node:http2'
import { type AddressInfo, connect, createServer as createNetServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { connect as connectTls, type ConnectionOptions } from 'node:tls'
import Fastify, {
  type FastifyInstance, type FastifyReply, type FastifyRequest, type FastifyServerOptions
} from 'fastify'
import t, { type Test } from 'tap'
import redisGuard from '../../lib/index.js'
import type { RedisGuardOptions, RouteRateLimitOptions } from '../../lib/settings/options.js'
import { guardedApp, logTo } from '../support/app.js'
import { Authority } from '../../tools/certificates.js'
import { RedisServer } from '../../tools/redis-server.js'
import { size } from '../support/size.js'
import { until } from '../../tools/until.js'

const authority = await Authority.create(t)
const { cert, key } = await authority.issue()

const servers = {
  HTTP: {},
  HTTPS: { https: { cert, key } },
  'HTTP/2': { http2: true },
  'HTTP/2 over TLS': { http2: true, https: { cert, key } }
} as const
type Protocol = keyof typeof servers

const get = 'GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.77\r\n\r\n'

/** `GET /` in HTTP/2: the preface, empty settings, and headers of the static table that end the stream. */
const getHttp2 = Buffer.concat([
  Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
  Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]),
  Buffer.from([0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x86, 0x41, 1, 0x78])
])

/** Listens on a free port, and counts the closed connections. */
async function listen (app: FastifyInstance): Promise<{ port: number, closed: () => number }> {
  let closed = 0
  app.server.on('connection', (socket: Socket) => socket.once('close', () => { closed++ }))
  await app.listen({ port: 0, host: '127.0.0.1' })
  return { port: (app.server.address() as { port: number }).port, closed: () => closed }
}

/** Sends all bytes and resets the connection before the server, in this same process, reads the first byte. */
async function sendAndReset (protocol: Protocol, port: number, bytes: string | Buffer): Promise<void> {
  const { raw, socket } = await open(protocol, port)
  socket.write(bytes)
  raw.resetAndDestroy()
}

/** @returns the connection, and the socket to write to, which uses TLS if the protocol does */
async function open (protocol: Protocol, port: number): Promise<{ raw: Socket, socket: Socket }> {
  const raw = connect(port, '127.0.0.1').on('error', () => {})
  await once(raw, 'connect')
  if (!('https' in servers[protocol])) return { raw, socket: raw }
  const socket = connectTls({ socket: raw, ...tlsOf(protocol) })
  await once(socket.on('error', () => {}), 'secureConnect')
  return { raw, socket }
}

function tlsOf (protocol: Protocol): ConnectionOptions {
  const ALPNProtocols = [protocol.startsWith('HTTP/2') ? 'h2' : 'http/1.1']
  return { ca: authority.ca, servername: 'localhost', ALPNProtocols }
}

/** @returns how much of a limit a client has left */
async function left (app: FastifyInstance, limit = 'GET:/', key = '127.0.0.1'): Promise<number | undefined> {
  return (await app.redisGuard.limits.peek(key)).find(({ name }) => name === limit)?.remaining
}

/** @returns how many requests the server read, and how many of them got past the hooks of the plugin */
async function flood (
  app: FastifyInstance, protocol: Protocol, count: number, bytes: string | Buffer
): Promise<{ read: number, handled: number }> {
  let read = 0
  let handled = 0
  app.server.on('request', () => { read++ })
  app.addHook('preHandler', (request, reply, done) => {
    handled++
    done()
  })
  app.all('/', async () => 'ok')
  const { port, closed } = await listen(app)
  for (let i = 0; i < count; i++) await sendAndReset(protocol, port, bytes)
  await until(() => closed() === count)
  await nextTurn()
  return { read, handled }
}

/** Handles upgrades like plugins for WebSockets, whose upgrades go through the hooks of a route. */
function upgraded (app: FastifyInstance): (request: IncomingMessage, socket: Duplex) => void {
  return (request, socket) => {
    const response = new ServerResponse(request)
    response.assignSocket(socket as Socket)
    app.server.emit('request', request, response)
  }
}

async function appOver (
  protocol: Protocol, t: Test, options: RedisGuardOptions = {}, server: FastifyServerOptions = {}
): Promise<FastifyInstance> {
  return await guardedApp(t, options, { ...servers[protocol], ...server } as FastifyServerOptions)
}

for (const protocol of Object.keys(servers) as Protocol[]) {
  t.test(`${protocol}: a client that resets its connection evades no block and gets no second quota`, async t => {
    const bytes = protocol.startsWith('HTTP/2') ? getHttp2 : get
    const app = await appOver(protocol, t, { max: 1000 })
    await app.redisGuard.blockIP('127.0.0.1', 60)
    const count = size(40, 200)
    const { read, handled } = await flood(app, protocol, count, bytes)
    t.ok(read > count / 2, `the server has read ${read} of ${count} requests`)
    t.equal(handled, 0)
    t.equal(await left(app, 'global', 'unknown'), 1000)
  })
}

t.test('a request on a reset connection is not handled, whatever its target and whatever trustProxy is', async t => {
  const body = 'x'.repeat(1000)
  const post = (length: number) =>
    `POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: ${length}\r\n\r\n${body}`
  const requests: Record<string, string> = {
    'a route': get,
    'a 404': get.replace('GET /', 'GET /nowhere'),
    'a body': post(body.length),
    'half of a body': post(2 * body.length),
    'an upgrade': get.replace('\r\n\r\n', '\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'),
    'several at once': get.repeat(5)
  }
  for (const [what, bytes] of Object.entries(requests)) {
    for (const trustProxy of [false, true, ['127.0.0.1'], (address: string) => address.startsWith('127.')]) {
      const lines: Record<string, unknown>[] = []
      const app = await appOver('HTTP', t, {}, { trustProxy, ...logTo(lines, 'error') })
      if (what === 'an upgrade') app.server.on('upgrade', upgraded(app))
      const { read, handled } = await flood(app, 'HTTP', 3, bytes)
      t.same([read > 0, handled], [true, 0], `${what}, trustProxy: ${String(trustProxy)}`)
      t.same(lines, [])
      await app.close()
    }
  }
})

t.test('a request on an HTTP/2 stream that ends before the guard sees it is not handled', async t => {
  const app = Fastify({ http2: true })
  t.teardown(async () => await app.close())
  let handled = 0
  let isOver = false
  app.addHook('onRequest', async (request, reply) => {
    stream.close()
    await once(reply.raw, 'close')
    isOver = true
  })
  await app.register(redisGuard, { redis: false })
  app.get('/', async () => { handled++ })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const session = connectHttp2(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  const stream = session.request().resume()
  await until(() => isOver)
  await nextTurn()
  t.equal(handled, 0)
  session.destroy()
})

t.test('no server that Fastify opens for localhost handles a request on a reset connection', async t => {
  const app = await appOver('HTTP', t)
  let handled = 0
  app.get('/', async () => { handled++ })
  await app.listen({ port: 0, host: 'localhost' })
  const addresses = app.addresses() as AddressInfo[]
  for (const { address, port } of addresses) {
    const read = once(app.server, 'request')
    const socket = connect(port, address).on('error', () => {})
    await once(socket, 'connect')
    socket.write(get)
    socket.resetAndDestroy()
    // The requests of a second server are not visible here; the next request comes after the reset one.
    if (address === addresses[0]!.address) await read
    await fetch(`http://${address.includes(':') ? `[${address}]` : address}:${port}/nowhere`)
  }
  t.equal(handled, 0)
})

t.test('on a reset connection, an address set by the application is not read', async t => {
  const app = await appOver('HTTP', t)
  const own = (request: FastifyRequest) => Object.defineProperty(request, 'ip', { value: '203.0.113.5' })
  app.addHook('onRequest', (request, reply, done) => {
    own(request)
    done()
  })
  t.same(await flood(app, 'HTTP', 3, get), { read: 3, handled: 0 })
})

t.test('a unix socket serves requests without an address, also over TLS and while the server closes', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'guard-'))
  t.teardown(async () => await rm(folder, { recursive: true }))
  for (const protocol of Object.keys(servers) as Protocol[]) {
    const path = join(folder, protocol.replaceAll(/\W/g, '-'))
    const isTls = 'https' in servers[protocol]
    const openPath = () => isTls ? connectTls({ path, ...tlsOf(protocol) }) : connect(path)
    const app = await appOver(protocol, t, { max: 1 }, { return503OnClosing: false })
    app.get('/', async () => 'ok')
    let closing: Promise<void> | undefined
    let socket: Socket | undefined
    // Closes the server, and answers after one more request has arrived on the same connection.
    app.get('/close', async () => {
      closing = app.close()
      await until(() => !app.server.listening)
      socket!.write(get)
      await once(app.server, 'request')
      return 'closing'
    })
    await app.listen({ path })
    if (protocol.startsWith('HTTP/2')) {
      const session = connectHttp2(`http${isTls ? 's' : ''}://localhost`, { createConnection: openPath })
      t.same([await statusOver(session), await statusOver(session)], [200, 429], protocol)
      session.destroy()
    } else {
      socket = openPath()
      socket.write(get.replace('GET /', 'GET /close'))
      let answers = ''
      for await (const part of socket) answers += String(part)
      t.same(answers.match(/(?<=HTTP\/1.1 )\d+/g)?.map(Number), [200, 429], protocol)
      await closing
    }
  }
})

t.test('a unix socket passed as a file descriptor serves requests without an address', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'guard-'))
  t.teardown(async () => await rm(folder, { recursive: true }))
  const app = await appOver('HTTP', t, { max: 1 })
  app.get('/', async () => 'ok')
  const path = join(folder, 'socket')
  await app.listen({ path })
  // Node returns null for a pipe of which it knows only the number.
  app.server.address = () => null
  const socket = connect(path)
  t.teardown(() => socket.destroy())
  const statuses: string[] = []
  for (let i = 0; i < 2; i++) {
    socket.write(get)
    statuses.push(String((await once(socket, 'data'))[0]).slice(9, 12))
  }
  t.same(statuses, ['200', '429'])
})

t.test('a unix socket that another server accepted serves requests without an address', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'guard-'))
  t.teardown(async () => await rm(folder, { recursive: true }))
  const app = await appOver('HTTP', t, { max: 1 })
  app.get('/', async () => 'ok')
  await app.ready()
  const accepting = createNetServer(socket => app.server.emit('connection', socket)).listen(join(folder, 'socket'))
  t.teardown(() => accepting.close())
  const socket = connect(join(folder, 'socket'))
  t.teardown(() => socket.destroy())
  socket.write(get)
  t.match(String((await once(socket, 'data'))[0]), /^HTTP\/1.1 200/)
})

async function statusOver (session: ClientHttp2Session, headers: OutgoingHttpHeaders = {}): Promise<number> {
  const stream = session.request(headers).resume()
  const [answer] = await once(stream, 'response') as [IncomingHttpHeaders & IncomingHttpStatusHeader]
  return answer[':status']!
}

t.test("serves a request on a connection without a network, as from an application's own server", async t => {
  for (const socket of [{}, undefined]) {
    const app = await guardedApp(t, { max: 1 }, {
      serverFactory: handler => createServer((request, response) => {
        Object.defineProperty(request, 'socket', { value: socket })
        handler(request, response)
      })
    })
    app.get('/', async () => 'ok')
    const { port } = await listen(app)
    const statusOf = async () => (await fetch(`http://127.0.0.1:${port}/`)).status
    t.same([await statusOf(), await statusOf()], [200, 429])
  }
})

/** Every delivered answer is refunded. */
const none = { config: { rateLimit: { max: 1, countWhen: () => false } } }

/** The example of a limit on failed logins in the README. */
const failedLogins: RouteRateLimitOptions = {
  max: 5, timeWindow: '10 minutes', countWhen: (request, reply) => reply.statusCode === 401
}

t.test('guesses on HTTP/2 streams that are reset before the answer count', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const { NGHTTP2_NO_ERROR, NGHTTP2_CANCEL } = constants
  for (const redis of [false, server.url] as const) {
    for (const code of [NGHTTP2_NO_ERROR, NGHTTP2_CANCEL, 'end of session'] as const) {
      const app = await appOver('HTTP/2', t, { redis, nameSpace: `${code}:`, commandTimeout: 20_000 })
      let guesses = 0
      app.post('/login', { config: { rateLimit: failedLogins } }, async (request, reply) => {
        guesses++
        reset(code)
        await once(reply.raw, 'close')
        return await reply.code(401).send()
      })
      let reset: (code: number | string) => void = () => {}
      const { port } = await listen(app)
      for (let i = 0; i < size(10, 60); i++) {
        const session = connectHttp2(`http://127.0.0.1:${port}`).on('error', () => {})
        const stream = session.request({ ':path': '/login', ':method': 'POST' }).on('error', () => {}).resume()
        reset = code => { typeof code === 'number' ? stream.close(code) : session.destroy() }
        await once(stream, 'close')
        session.destroy()
      }
      t.equal(guesses, 5, `${String(redis)}, ${code}`)
    }
  }
})

t.test('a request counts if its client cuts off the answer', async t => {
  const length = 50_000_000
  const start = (reply: FastifyReply, length: number) => reply.hijack().raw.writeHead(200, { 'content-length': length })
  interface Cut {
    readonly bytes?: string
    readonly respond: (reply: FastifyReply, reset: () => Promise<void>, client: Socket) => Promise<void>
  }
  const cuts: Record<string, Cut> = {
    'while it is written': {
      respond: async (reply, reset) => {
        start(reply, length).end(Buffer.alloc(length))
        await reset()
      }
    },
    'before its last part, which is empty': {
      respond: async (reply, reset, client) => {
        const response = start(reply, 2)
        response.write('ok')
        await once(client, 'data')
        await reset()
        response.end()
      }
    },
    'before its last part, by hanging up': {
      respond: async (reply, reset, client) => {
        const response = start(reply, 2)
        response.write('ok')
        await once(client, 'data')
        client.destroy()
        await until(() => reply.request.raw.socket.destroyed)
        response.end()
      }
    },
    'while the body of its request waits': {
      bytes: `GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${length}\r\n\r\n${'x'.repeat(1_000_000)}`,
      respond: async (reply, reset) => {
        // Node has stopped reading, so it does not see the reset.
        await until(() => reply.request.raw.readableLength > 0)
        reset().catch(() => {})
        await nextTurn()
        start(reply, 2).end('ok')
      }
    }
  }
  for (const protocol of ['HTTP', 'HTTPS'] as const) {
    for (const [when, { bytes = get, respond }] of Object.entries(cuts)) {
      const app = await appOver(protocol, t)
      let finished: Promise<unknown> | undefined
      app.get('/', none, async (request, reply) => {
        finished = once(reply.raw, 'finish')
        await respond(reply, async () => {
          client.raw.resetAndDestroy()
          await until(() => request.raw.socket.destroyed)
        }, client.socket)
      })
      const { port } = await listen(app)
      const client = await open(protocol, port)
      client.socket.write(bytes)
      await until(() => finished !== undefined)
      await finished
      await nextTurn()
      t.equal(await left(app), 0, `${protocol}, ${when}`)
      await app.close()
    }
  }
})

t.test('a request is refunded if its answer was delivered, even if its connection is reset afterwards', async t => {
  for (const protocol of Object.keys(servers) as Protocol[]) {
    for (const [method, status] of [['GET', 200], ['HEAD', 200], ['GET', 204], ['GET', 304]] as const) {
      const app = await appOver(protocol, t)
      app.get('/', none, async (request, reply) => await reply.code(status).send(status === 200 ? 'ok' : undefined))
      const { port } = await listen(app)
      const { raw, socket } = await open(protocol, port)
      if (protocol.startsWith('HTTP/2')) {
        const session = connectHttp2('http://localhost', { createConnection: () => socket }).on('error', () => {})
        const stream = session.request({ ':method': method }).on('error', () => {}).resume()
        await once(stream, 'end')
      } else {
        socket.write(get.replace('GET', method))
        await once(socket, 'data')
      }
      raw.resetAndDestroy()
      await until(async () => await left(app) === 1)
      t.pass(`${protocol}, ${method}, ${status}`)
      await app.close()
    }
  }
})
