/**
 * Asynchronous contexts, with an AsyncLocalStorage as applications and tracers use it: work for a request runs in the
 * context of that request, whichever hits share a call to Redis, and the guard's own work runs in no request's context.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import redisGuard, { channelNames } from '../../lib/index.js'
import type { LimitHook, RedisGuardOptions } from '../../lib/settings/options.js'
import type { CustomStoreConstructor } from '../../lib/settings/custom-store.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { size } from '../support/size.js'
import { until } from '../../tools/until.js'

const hooks: readonly LimitHook[] = ['onRequest', 'preParsing', 'preValidation', 'preHandler']

/** Holds the user of the current request: the address, which is also the key of the client. */
const storage = new AsyncLocalStorage<string>()

let namespaces = 0

/** Something that ran outside the context of its request. */
interface Stray { readonly place: string, readonly user: string | undefined, readonly store: string | undefined }

/** A line of the log; `store` is what its mixin read. */
interface Line {
  readonly msg: string
  readonly reqId?: string
  readonly decision?: { readonly client: { readonly address: string } }
  readonly store?: string
}

interface Watched { readonly app: FastifyInstance, readonly seen: Sightings }

/** Counts what ran for requests, and collects what ran outside its context. */
class Sightings {
  readonly counts = new Map<string, number>()
  readonly strays: Stray[] = []

  note (place: string, user: string | undefined, store = storage.getStore()): void {
    this.counts.set(place, (this.counts.get(place) ?? 0) + 1)
    if (store !== user) this.strays.push({ place, user, store })
  }
}

/** An application with user code in every place where it can run during a request. */
async function watchedApp (t: Test, hook: LimitHook, options: RedisGuardOptions): Promise<Watched> {
  const seen = new Sightings()
  const at = (place: string) => (request: FastifyRequest) => seen.note(place, request.ip)
  const line = (text: string) => {
    const { msg, reqId, decision, store } = JSON.parse(text) as Line
    if (decision !== undefined) seen.note('a debug line', decision.client.address, store)
    if (msg.startsWith('onExceeding, onExceeded or onBan')) seen.note('a line about a callback', reqId, store)
  }
  const app = Fastify({
    trustProxy: ['127.0.0.1'],
    genReqId: request => request.headers['x-forwarded-for'] as string,
    logger: { level: 'debug', mixin: () => ({ store: storage.getStore() }), stream: { write: line } }
  })
  t.teardown(async () => await app.close())
  app.addHook('onRequest', (request, reply, done) => storage.run(request.ip, done))
  const subscriber = (message: unknown) => seen.note('a diagnostics subscriber', (message as { ip: string }).ip)
  for (const name of [channelNames.allowed, channelNames.limited]) {
    subscribe(name, subscriber)
    t.teardown(() => unsubscribe(name, subscriber))
  }

  const nameSpace = `context${++namespaces}:`
  await app.register(redisGuard, { nameSpace, max: 4, timeWindow: '1 hour', hook, ...options })
  app.addHook('onRequest', async request => at('a later onRequest hook')(request))
  app.addHook('preParsing', async request => at('a preParsing hook')(request))
  app.addHook('preValidation', async request => at('a preValidation hook')(request))
  app.addHook('preHandler', async request => at('a preHandler hook')(request))
  app.addHook('preSerialization', async request => at('a preSerialization hook')(request))
  app.addHook('onError', async request => at('an onError hook')(request))
  app.addHook('onSend', async request => at('an onSend hook')(request))
  app.setErrorHandler((error, request, reply) => {
    at('the error handler')(request)
    return reply.send(error)
  })
  app.setNotFoundHandler((request, reply) => {
    at('the handler of 404s')(request)
    return reply.code(404).send({ nothing: true })
  })

  const answers = (place: string) => async (request: FastifyRequest) => {
    at(place)(request)
    return { ok: true }
  }
  app.get('/global', answers('the handler'))
  app.get('/functions', {
    config: {
      rateLimit: {
        max: async request => {
          at('max')(request)
          return 1
        },
        timeWindow: async request => {
          at('timeWindow')(request)
          return 3_600_000
        },
        cost: request => {
          at('cost')(request)
          return 1
        },
        keyGenerator: async request => {
          at('keyGenerator')(request)
          return request.ip
        },
        allowList: async request => {
          at('allowList')(request)
          return false
        },
        errorResponseBuilder: (request, { statusCode }) => {
          at('errorResponseBuilder')(request)
          return Object.assign(new Error('over the limit'), { statusCode })
        },
        // These fail after they were called, which is logged.
        onExceeding: async request => {
          at('onExceeding')(request)
          throw new Error('not today')
        },
        onExceeded: async request => at('onExceeded')(request),
        onBanReach: async request => at('onBanReach')(request),
        ban: 0
      }
    }
  }, answers('the handler behind functions'))
  app.get('/several', {
    config: {
      rateLimit: {
        limits: [
          { name: 'a', max: 2, timeWindow: 1000, shadow: true },
          { name: 'b', max: 1, timeWindow: '1 hour', algorithm: 'gcra' }
        ]
      }
    }
  }, answers('the handler behind several limits'))
  app.get('/count', {
    config: {
      rateLimit: {
        max: 2,
        countWhen: request => {
          at('countWhen')(request)
          return false
        }
      }
    }
  }, answers('the handler whose hits are given back'))
  app.post('/body', { config: { rateLimit: { max: 1 } } }, answers('the handler of a body'))
  const ofHook = { config: { rateLimit: false }, preHandler: app.rateLimit({ max: 1 }) } as const
  app.get('/hook', ofHook, answers('the handler behind rateLimit()'))
  const limiter = app.createRateLimit({ max: 1 })
  app.get('/function', { config: { rateLimit: false } }, async request => {
    await limiter(request)
    at('a handler that asks a limiter')(request)
    await limiter(request, { increment: false })
    at('a handler that looks')(request)
    return { ok: true }
  })
  await app.ready()
  return { app, seen }
}

interface Sent { readonly url: string, readonly user: string }

const paths = ['/global', '/functions', '/several', '/count', '/body', '/hook', '/function', '/nowhere']

/** A request to each of the paths from each of several users, all at once. */
function requests (users: number, urls = paths): Sent[] {
  return urls.flatMap(url => Array.from({ length: users }, (_, i) => ({ url, user: `192.0.2.${i + 1}` })))
}

type Transport = (app: FastifyInstance, sent: readonly Sent[]) => Promise<void>

async function inject (app: FastifyInstance, sent: readonly Sent[]): Promise<void> {
  await Promise.all(sent.map(async ({ url, user }) => await app.inject(url === '/body'
    ? { method: 'POST', url, headers: { 'x-forwarded-for': user }, payload: { user } }
    : { url, headers: { 'x-forwarded-for': user } })))
}

/** @param perSocket  how many requests are pipelined on one socket */
function overSockets (perSocket: number): Transport {
  return async (app, sent) => {
    if (!app.server.listening) await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as AddressInfo
    const count = Math.ceil(sent.length / perSocket)
    const parts = Array.from({ length: count }, (_, i) => sent.slice(i * perSocket, (i + 1) * perSocket))
    // All sockets connect before the first request: otherwise the server would get one request per turn.
    const sockets = await Promise.all(parts.map(async part => {
      const socket = connect(port, '127.0.0.1').setEncoding('utf8')
      await once(socket, 'connect')
      return { socket, part }
    }))
    for (const { socket, part } of sockets) socket.write(part.map(text).join(''))
    await Promise.all(sockets.map(async ({ socket, part }) => {
      let answers = ''
      for await (const chunk of socket) {
        answers += chunk
        if (answers.match(/HTTP\/1\.1 \d{3} /g)!.length === part.length) break
      }
    }))
  }
}

function text ({ url, user }: Sent): string {
  const body = url === '/body' ? JSON.stringify({ user }) : ''
  const ofBody = body === '' ? '' : `content-type: application/json\r\ncontent-length: ${body.length}\r\n`
  const method = body === '' ? 'GET' : 'POST'
  return `${method} ${url} HTTP/1.1\r\nhost: test\r\nx-forwarded-for: ${user}\r\n${ofBody}\r\n${body}`
}

/** Every place has run, and always in the context of its request. */
function seesAll (t: Test, { counts, strays }: Sightings, places: readonly string[]): void {
  const all = [...counts.values()].reduce((sum, count) => sum + count, 0)
  t.same(strays.slice(0, 5), [], `${strays.length} of ${all} in another context`)
  t.same(places.filter(place => !counts.has(place)), [], 'every place has run')
}

const everywhere = [
  'a later onRequest hook', 'a preParsing hook', 'a preValidation hook', 'a preHandler hook', 'a preSerialization hook',
  'an onError hook', 'an onSend hook', 'the error handler', 'the handler of 404s', 'the handler', 'max', 'timeWindow',
  'cost', 'keyGenerator', 'allowList', 'errorResponseBuilder', 'onExceeding', 'onExceeded', 'onBanReach', 'countWhen',
  'the handler behind functions', 'the handler behind several limits', 'the handler whose hits are given back',
  'the handler of a body', 'the handler behind rateLimit()', 'a handler that asks a limiter', 'a handler that looks',
  'a diagnostics subscriber', 'a debug line', 'a line about a callback'
]

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

const transports: readonly (readonly [how: string, transport: Transport])[] = [
  ['injected', inject], ['each on a socket', overSockets(1)], ['pipelined', overSockets(8)]
]

/** A limit of 1 allows the requests of the first round, and refuses those of the second. */
const rounds = size(2, 3)

// The small size has each hook and each transport, but not every combination.
for (const [i, hook] of hooks.entries()) {
  for (const [how, transport] of size([transports[i % transports.length]!], transports)) {
    t.test(`concurrent requests, ${how}, limited in ${hook} on Redis, keep their own context`, async t => {
      const { app, seen } = await watchedApp(t, hook, { redis: server.url, commandTimeout: 20_000 })
      for (let round = 0; round < rounds; round++) await transport(app, requests(5))
      t.equal(app.redisGuard.status.store, 'redis')
      seesAll(t, seen, everywhere)
    })
  }
}

t.test('concurrent requests in a Cluster keep their own context', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const redis = { cluster: [{ host: '127.0.0.1', port: cluster.servers[0]!.port }] }
  const { app, seen } = await watchedApp(t, 'onRequest', { redis, commandTimeout: 20_000 })
  for (let round = 0; round < rounds; round++) await inject(app, requests(5))
  t.equal(app.redisGuard.status.store, 'redis')
  seesAll(t, seen, everywhere)
})

/** The paths without limiter functions, which only have to continue in the request that called them. */
const withoutLimiters = paths.filter(path => path !== '/function')

// The following tests wait for timeouts and heartbeats, and each has its own server.
t.jobs = 4
const waits = { buffered: true }

t.test('requests keep their context when Redis goes away, while it is away, and when it is back', waits, async t => {
  const redis = await RedisServer.start()
  t.teardown(async () => await redis.stop())
  const { app, seen } = await watchedApp(t, 'preHandler', { redis: redis.url, commandTimeout: 1000, resetTimeout: 100 })
  await until(() => app.redisGuard.status.store === 'redis')
  redis.signal('SIGSTOP')
  const under = [inject(app, requests(5)), overSockets(8)(app, requests(5))]
  await until(() => app.redisGuard.status.store === 'memory')
  await Promise.all(under)
  t.ok(seen.counts.get('the handler')! > 0, 'requests that waited for Redis got an answer')
  for (const transport of [inject, overSockets(8)]) await transport(app, requests(5))
  redis.signal('SIGCONT')
  await until(() => app.redisGuard.status.store === 'redis')
  for (const transport of [inject, overSockets(8)]) await transport(app, requests(5))
  t.equal(app.redisGuard.status.store, 'redis')
  seesAll(t, seen, everywhere)
})

for (const [onOutage, place] of [['deny', 'an onSend hook'], ['allow', 'the handler']] as const) {
  t.test(`with onOutage: ${onOutage}, requests that Redis leaves waiting keep their own context`, waits, async t => {
    const redis = await RedisServer.start()
    t.teardown(async () => await redis.stop())
    const { app, seen } = await watchedApp(t, 'onRequest', { redis: redis.url, commandTimeout: 1000, onOutage })
    await until(() => app.redisGuard.status.store === 'redis')
    redis.signal('SIGSTOP')
    await inject(app, requests(5, withoutLimiters))
    seesAll(t, seen, [place])
  })
}

t.test('requests that find that Redis has lost its data keep their own context', async t => {
  const { app, seen } = await watchedApp(t, 'onRequest', { redis: server.url, commandTimeout: 20_000, max: 1000 })
  await inject(app, requests(5, ['/global']))
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  await observer.flushall()
  await inject(app, requests(5, ['/global']))
  await until(() => app.redisGuard.status.store === 'redis')
  await inject(app, requests(5, ['/global']))
  seesAll(t, seen, ['the handler'])
})

t.test('requests that a custom store counts together keep their own context', async t => {
  const waiting: (() => void)[] = []
  /** Answers all calls of a turn at once, like a store that batches. */
  class Batching {
    incr (key: string, done: (error: Error | null, result?: { current: number, ttl: number }) => void): void {
      if (waiting.length === 0) setImmediate(() => { for (const answer of waiting.splice(0)) answer() })
      waiting.push(() => key.endsWith('5') ? done(new Error('not today')) : done(null, { current: 1, ttl: 1000 }))
    }

    child (): Batching { return this }
  }
  const seen = new Sightings()
  const app = Fastify({ trustProxy: ['127.0.0.1'] })
  t.teardown(async () => await app.close())
  app.addHook('onRequest', (request, reply, done) => storage.run(request.ip, done))
  await app.register(redisGuard, {
    redis: false,
    store: Batching as unknown as CustomStoreConstructor,
    onExceeding: request => seen.note('onExceeding', request.ip)
  })
  app.get('/', async request => {
    seen.note('the handler', request.ip)
    return 'ok'
  })
  await app.ready()
  await inject(app, requests(9, ['/']))
  t.equal(seen.counts.get('the handler'), 9)
  seesAll(t, seen, ['onExceeding', 'the handler'])
})

/** The commands sent to Redis from now on, with the context of each. */
function commandsOf (app: FastifyInstance): { readonly name: string, readonly store: string | undefined }[] {
  const sent: { name: string, store: string | undefined }[] = []
  const client = app.redisGuard.client as Redis
  const send = client.sendCommand.bind(client)
  client.sendCommand = (command, ...rest) => {
    sent.push({ name: command.name, store: storage.getStore() })
    return send(command, ...rest)
  }
  return sent
}

/** Waits for two heartbeats, one a second: everything else that waits for a timer has been sent by then. */
async function heartbeats (sent: readonly { readonly name: string }[]): Promise<void> {
  const before = sent.length
  await until(() => sent.slice(before).filter(({ name }) => name === 'pexpire').length >= 2)
}

t.test("the guard's own work runs in no request's context, and work for a request in its own", waits, async t => {
  const redis = await RedisServer.start()
  t.teardown(async () => await redis.stop())
  const lines: { msg: string, store: string | undefined }[] = []
  const stream = { write: (line: string) => { lines.push(JSON.parse(line)) } }
  const logger = { level: 'warn', mixin: () => ({ store: storage.getStore() }), stream }
  const app = Fastify({ trustProxy: ['127.0.0.1'], logger })
  t.teardown(async () => await app.close())
  app.addHook('onRequest', (request, reply, done) => storage.run(request.ip, done))
  await app.register(redisGuard, { redis: redis.url, max: 1, commandTimeout: 1000, resetTimeout: 50 })
  const switches: (string | undefined)[] = []
  app.redisGuard.on('switch', () => switches.push(storage.getStore()))
  app.get('/', async () => 'ok')
  app.get('/own', { config: { rateLimit: false } }, async () => String(await app.redisGuard.get('mine')))
  await app.ready()
  const sent = commandsOf(app)
  const client = app.redisGuard.client as Redis
  const inRequests = () => sent.filter(({ store }) => store !== undefined).map(({ name, store }) => `${store} ${name}`)
  const get = async (url: string, user: string) => { await app.inject({ url, headers: { 'x-forwarded-for': user } }) }

  // Hits, refusals that are written behind, and events.
  for (let i = 0; i < 3; i++) await inject(app, requests(40, ['/']))
  await heartbeats(sent)
  t.same(inRequests(), [])
  await get('/own', '192.0.2.7')
  t.same(inRequests(), ['192.0.2.7 get', '192.0.2.7 pttl'])

  t.comment('a request finds that Redis has lost its data, and the next one that Redis is away')
  // Both go over one connection, so that no heartbeat finds the loss first.
  const lost = client.flushall()
  await storage.run('192.0.2.8', async () => await app.redisGuard.incr('mine'))
  await lost
  await until(() => switches.length >= 2)
  redis.signal('SIGSTOP')
  await Promise.all([get('/own', '192.0.2.9'), get('/', '192.0.2.10')])
  t.equal(app.redisGuard.status.store, 'memory')
  redis.signal('SIGCONT')
  await until(() => app.redisGuard.status.store === 'redis')

  t.comment('a connection is made in a request')
  client.disconnect()
  await once(client, 'end')
  const readyIn: (string | undefined)[] = []
  client.once('connect', () => readyIn.push(storage.getStore()))
  await storage.run('192.0.2.11', async () => await client.connect())
  await until(() => app.redisGuard.status.store === 'redis')
  t.same(readyIn, [undefined])

  await until(() => switches.length >= 6)
  await heartbeats(sent)
  t.same([...new Set(switches)], [undefined])
  t.same(inRequests(), [
    '192.0.2.7 get', '192.0.2.7 pttl', '192.0.2.8 evalsha', '192.0.2.8 eval', '192.0.2.9 get', '192.0.2.9 pttl'
  ])
  t.same(lines.filter(({ store }) => store !== undefined), [])
  t.ok(lines.some(({ msg }) => String(msg).startsWith('Redis is away, memory answers')))
})
