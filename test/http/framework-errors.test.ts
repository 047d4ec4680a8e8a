/** Requests that Fastify answers before any hook: `frameworkErrors` lets the guard block and count them. */
import { once } from 'node:events'
import { type AddressInfo, connect, type Socket } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import redisGuard, { guardFrameworkErrors, type RedisGuardOptions } from '../../lib/index.js'
import { guardedApp, logTo } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const server = await RedisServer.start()
t.teardown(async () => await server.stop())
let nameSpaces = 0

/** Malformed requests, and the status that Fastify answers. */
const malformed = [['/%zz', 400], [`/user/${'x'.repeat(200)}`, 414], ['/constraint', 500]] as const

/** A constraint that fails for one of these requests. */
const constraints: FastifyServerOptions['constraints'] = {
  failing: {
    name: 'failing',
    storage: () => ({ get: () => null, set () {} }),
    validate () {},
    deriveConstraint (request, context, done?: (error: Error | null) => void) {
      done!(request.url === '/constraint' ? new Error('no constraint today') : null)
    }
  }
}

function addRoutes (app: FastifyInstance): FastifyInstance {
  app.get('/', async () => 'ok')
  app.get('/user/:id', async () => 'ok')
  return app
}

async function guarded (t: Test, options: RedisGuardOptions = {}, more: FastifyServerOptions = {}) {
  return addRoutes(await guardedApp(t, options, { frameworkErrors: guardFrameworkErrors(), ...more }))
}

for (const [where, redis] of [['in memory', false], ['on Redis', server.url]] as const) {
  const open = async (t: Test, options: RedisGuardOptions = {}, more: FastifyServerOptions = {}) =>
    await guarded(t, { redis, nameSpace: `test${++nameSpaces}:`, commandTimeout: 20_000, ...options }, more)

  t.test(`malformed requests count with 404s and other routes, and are refused with them (${where})`, async t => {
    const app = await open(t, { max: 4, timeWindow: '1 minute' })
    const get = async (url: string) => await app.inject({ url, remoteAddress: '192.0.2.1' })
    for (const [i, [url, status]] of malformed.slice(0, 2).entries()) {
      const { statusCode, headers } = await get(url)
      t.equal(statusCode, status)
      t.match(headers, { 'x-ratelimit-limit': '4', 'x-ratelimit-remaining': String(3 - i) })
    }
    t.equal((await get('/nowhere')).headers['x-ratelimit-remaining'], '1')
    t.equal((await get('/')).headers['x-ratelimit-remaining'], '0')
    const error = { statusCode: 429, code: 'GUARD_LIMITED', error: 'Too Many Requests' }
    for (const [url] of malformed.slice(0, 2)) {
      const refused = await get(url)
      const { message, ...body } = refused.json()
      t.same(body, error)
      // Part of the minute may be over.
      t.match(message, /^Rate limit exceeded, retry in (1 minute|5\d seconds)$/)
      t.match(refused.headers, { 'x-ratelimit-remaining': '0', 'retry-after': /^(60|5\d)$/ })
    }
    t.equal((await app.inject({ url: '/%zz', remoteAddress: '192.0.2.2' })).statusCode, 400, 'another client')
    t.match((await get('/metrics')).body, /decisions_total\{limit="global",outcome="limited",source="\w+"\} [12]\n/)
    const event = { type: 'limited', ip: '192.0.2.1', limit: 'global', method: 'GET' }
    t.match(await app.redisGuard.getRateLimitEvents(), [event])
  })

  t.test(`blocked clients get a 403, allowed clients pass, and shadow refuses no client (${where})`, async t => {
    const app = await open(t, { max: 0, allowList: ['192.0.2.9'] })
    const shadow = await open(t, { max: 0, shadow: true })
    for (const { redisGuard } of [app, shadow]) await redisGuard.blockIP('192.0.2.8', 60)
    for (const [url, status] of malformed.slice(0, 2)) {
      const of = async (guarded: FastifyInstance, remoteAddress: string) =>
        (await guarded.inject({ url, remoteAddress })).statusCode
      t.same([await of(app, '192.0.2.8'), await of(app, '192.0.2.9'), await of(app, '192.0.2.7')], [403, status, 429])
      t.same([await of(shadow, '192.0.2.8'), await of(shadow, '192.0.2.7')], [status, status])
    }
    const blocked = (await app.inject({ url: '/%zz', remoteAddress: '192.0.2.8' })).json()
    t.same(blocked, { statusCode: 403, code: 'GUARD_BLOCKED', error: 'Forbidden', message: 'Address is blocked' })
  })
}

t.test("a malformed request that is not refused gets Fastify's own answer, with the plugin and without", async t => {
  const options = { constraints, logger: false }
  const plain = addRoutes(Fastify(options))
  const without = addRoutes(Fastify({ ...options, frameworkErrors: guardFrameworkErrors() }))
  const guarded = await guardedApp(t, { limitNotFound: false }, { ...options, frameworkErrors: guardFrameworkErrors() })
  addRoutes(guarded)
  t.teardown(async () => await Promise.all([plain.close(), without.close()]))
  for (const app of [plain, without, guarded]) {
    app.get('/constraint', { constraints: { failing: 'x' } }, async () => 'ok')
  }
  for (const [url, status] of malformed) {
    const [expected, ...others] = await Promise.all([plain, without, guarded].map(async app => {
      const { statusCode, headers: { date, ...headers }, body } = await app.inject(url)
      return { statusCode, headers, body }
    }))
    t.equal(expected!.statusCode, status)
    for (const found of others) t.same(found, expected, url)
  }
})

t.test("the application's own function answers malformed requests that are not refused", async t => {
  const app = await guarded(t, { max: 1 }, {
    frameworkErrors: guardFrameworkErrors((error, request, reply) => {
      reply.code(418).send({ code: error.code, ip: request.ip })
    })
  })
  const answers = [await app.inject('/%zz'), await app.inject('/%zz')]
  t.same(answers.map(({ statusCode }) => statusCode), [418, 429])
  t.same(answers[0]!.json(), { code: 'FST_ERR_BAD_URL', ip: '127.0.0.1' })
})

t.test('behind a proxy, the client of a malformed request is the one in X-Forwarded-For', async t => {
  const app = await guarded(t, { max: 1 }, { trustProxy: ['127.0.0.1'] })
  await app.redisGuard.blockIP('203.0.113.8', 60)
  const from = async (forwarded: string) =>
    (await app.inject({ url: '/%zz', headers: { 'x-forwarded-for': forwarded } })).statusCode
  t.same([await from('203.0.113.8'), await from('203.0.113.1'), await from('203.0.113.1')], [403, 400, 429])
  t.equal(await from('203.0.113.2'), 400)
})

t.test('each registration decides about malformed requests, also in an inner scope', async t => {
  const app = Fastify({ frameworkErrors: guardFrameworkErrors() })
  t.teardown(async () => await app.close())
  await app.register(redisGuard, { redis: false, max: 3, nameSpace: 'one:' })
  await app.register(redisGuard, { redis: false, max: 2, nameSpace: 'two:' })
  await app.register(async child => {
    await child.register(redisGuard, { redis: false, max: 1, nameSpace: 'three:' })
    await child.redisGuard.blockIP('192.0.2.8', 60)
  }, { prefix: '/child' })
  const statusFor = async (remoteAddress: string) => (await app.inject({ url: '/%zz', remoteAddress })).statusCode
  t.same([await statusFor('192.0.2.1'), await statusFor('192.0.2.1'), await statusFor('192.0.2.8')], [400, 429, 403])
})

t.test('without a global limit, malformed requests are not counted, but blocked addresses are refused', async t => {
  for (const options of [{ global: false }, { limitNotFound: false }]) {
    const app = await guarded(t, { max: 0, ...options })
    await app.redisGuard.blockIP('192.0.2.8', 60)
    const statusFor = async (remoteAddress: string) => (await app.inject({ url: '/%zz', remoteAddress })).statusCode
    t.same([await statusFor('192.0.2.7'), await statusFor('192.0.2.8')], [400, 403])
  }
})

t.test('a refused malformed request gets the answer of the options and the error handler', async t => {
  const problem = await guarded(t, { max: 0, problemDetails: true })
  t.match((await problem.inject('/%zz')).json(), { status: 429, title: 'Quota Exceeded' })
  const built = await guarded(t, { max: 0, errorResponseBuilder: () => ({ statusCode: 418, code: 'TEAPOT' }) })
  t.match(await built.inject('/%zz'), { statusCode: 418, body: '{"statusCode":418,"code":"TEAPOT"}' })
  const handlers = [
    (error: Error) => ({ own: error.message }),
    async (error: Error) => ({ own: error.message }),
    (error: Error, request: unknown, reply: FastifyReply) => { reply.send({ own: error.message }) },
    async (error: Error, request: unknown, reply: FastifyReply) => await reply.send({ own: error.message }),
    () => { throw new Error('Rate limit exceeded, thrown') },
    async () => { throw new Error('Rate limit exceeded, thrown') }
  ]
  for (const handler of handlers) {
    const app = await guarded(t, { max: 0 })
    app.setErrorHandler(handler)
    t.match((await app.inject('/%zz')).body, /"(own|message)":"Rate limit exceeded/, String(handler))
  }
})

t.test('an error handler that fails or answers nothing gives the same answer as on a route', async t => {
  const wrongType = (error: Error, request: unknown, reply: FastifyReply) => {
    reply.type('text/html')
    return { own: error.message }
  }
  const handlers = [
    wrongType,
    async (error: Error, request: unknown, reply: FastifyReply) => wrongType(error, request, reply),
    async () => {}
  ]
  for (const handler of handlers) {
    const app = await guarded(t, { max: 0 })
    app.setErrorHandler(handler)
    const [{ statusCode, body }, malformed] = [await app.inject('/nowhere'), await app.inject('/%zz')]
    t.match(malformed, { statusCode, body }, String(handler))
  }
})

t.test('a trustProxy function that throws turns a malformed request into a 500', async t => {
  const app = await guarded(t, {}, { trustProxy: () => { throw new Error('no proxy today') } })
  const forwarded = { 'x-forwarded-for': '192.0.2.1' }
  t.match((await app.inject({ url: '/%zz', headers: forwarded })).json(), {
    statusCode: 500,
    message: 'no proxy today'
  })
})

t.test('functions in the options get a malformed request with empty params and query', async t => {
  const keyGenerator: RedisGuardOptions['keyGenerator'] = request => {
    const { params, query } = request as { params: { id?: string }, query: { key?: string } }
    return params.id ?? query.key ?? request.headers['x-api-key']
  }
  const app = await guarded(t, { max: 1, keyGenerator })
  const statusFor = async (key: string) => (await app.inject({ url: '/%zz', headers: { 'x-api-key': key } })).statusCode
  t.same([await statusFor('a'), await statusFor('a'), await statusFor('b')], [400, 429, 400])
  const lines: Record<string, unknown>[] = []
  const failing = await guarded(t, { keyGenerator: () => [] }, logTo(lines, 'error'))
  t.match((await failing.inject('/%zz')).json(), { statusCode: 500, code: 'GUARD_ERR_LIMIT' })
})

t.test('malformed requests are limited over HTTP/2, and get no answer on a reset connection', async t => {
  let answered = 0
  const http2 = Fastify({ http2: true, frameworkErrors: guardFrameworkErrors() })
  t.teardown(async () => await http2.close())
  await http2.register(redisGuard, { redis: false, max: 1 })
  t.same([(await http2.inject('/%zz')).statusCode, (await http2.inject('/%zz')).statusCode], [400, 429])
  const app = await guarded(t, {}, { frameworkErrors: guardFrameworkErrors(() => { answered++ }) })
  await app.redisGuard.blockIP('127.0.0.1', 60)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const accepted = once(app.server, 'connection') as Promise<[Socket]>
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1').on('error', () => {})
  await once(socket, 'connect')
  socket.write('GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n')
  socket.resetAndDestroy()
  const [peer] = await accepted
  await until(() => peer.destroyed)
  t.equal(answered, 0)
})
