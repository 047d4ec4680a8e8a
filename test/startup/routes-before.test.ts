/** The warning about routes from before the plugin: it names those that would have been limited, and no others. */
import Fastify, { type FastifyInstance } from 'fastify'
import metricsPlugin from 'fastify-metrics'
import fp from 'fastify-plugin'
import { Registry } from 'prom-client'
import t, { type Test } from 'tap'
import redisGuard from '../../lib/index.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { logTo } from '../support/app.js'

const ok = async () => 'ok'
const unlimited = { config: { rateLimit: false } } as const

/** Like @fastify/cors: a hook that sets headers, and a route for requests that no other route answers. */
const cors = fp(async (app: FastifyInstance) => {
  app.addHook('onRequest', async (request, reply) => { reply.header('access-control-allow-origin', '*') })
  app.options('*', { schema: {} }, async (request, reply) => await reply.code(204).send())
})

async function register (app: FastifyInstance, options: RedisGuardOptions = {}): Promise<void> {
  await app.register(redisGuard, { redis: false, ...options })
}

/** @returns an application, and a function that returns the routes in the last registration's warning */
function open (t: Test): { app: FastifyInstance, warned: () => readonly string[] } {
  const lines: Record<string, unknown>[] = []
  const app: FastifyInstance = Fastify(logTo(lines))
  t.teardown(async () => await app.close())
  return {
    app,
    warned: () => lines.splice(0).flatMap(({ code, msg }) =>
      code === 'GUARD_WARN_ROUTES_BEFORE' ? /: (.*?)\. To limit/.exec(String(msg))![1]!.split(', ') : [])
  }
}

t.test('names each route once, by method and full URL', async t => {
  const { app, warned } = open(t)
  const urls = ['/', '/login', '/log', '/logs', '/users/:id', '/users/:id/posts/:post.json', '/files/*', '/ü']
  for (const url of urls) app.get(url, ok)
  app.post('/login', ok)
  app.head('/head', ok)
  app.get('/with space (GET)', ok)
  app.get('/id/:id(^\\d+$)', ok)
  app.route({ method: ['PUT', 'PATCH'], url: '/both', handler: ok })
  for (const version of ['1.0.0', '2.0.0']) app.get('/versions', { constraints: { version } }, ok)
  await app.register(async child => {
    child.get('/', ok)
    child.get('/inside', ok)
  }, { prefix: '/child' })
  await register(app)
  t.same(warned().toSorted(), [
    'GET /', 'GET /child', 'GET /child/inside', 'GET /files/*', 'GET /id/:id(^\\d+$)', 'GET /log', 'GET /login',
    'GET /logs', 'GET /users/:id', 'GET /users/:id/posts/:post.json', 'GET /versions', 'GET /with space (GET)',
    'GET /ü', 'HEAD /head', 'PATCH /both', 'POST /login', 'PUT /both'
  ])
  t.equal((await app.inject('/child/inside')).headers['x-ratelimit-limit'], undefined)
})

t.test('does not warn without routes, or for wildcard routes of OPTIONS', async t => {
  const { app, warned } = open(t)
  await app.register(cors)
  await register(app, { max: 0 })
  t.same([warned(), app.redisGuard.warnings], [[], []])
  app.get('/', ok)
  await app.redisGuard.blockIP('192.0.2.9', 60)
  const blocked = await app.inject({ url: '/', remoteAddress: '192.0.2.9' })
  t.same([blocked.statusCode, blocked.headers['access-control-allow-origin']], [403, '*'])
})

t.test('names OPTIONS routes that are not wildcards', async t => {
  const { app, warned } = open(t)
  app.options('/login', ok)
  await register(app)
  t.same(warned(), ['OPTIONS /login'])
})

t.test('names no route of fastify-metrics that serves our metrics, but any other of its routes', async t => {
  for (const endpoint of ['/metrics', '/other']) {
    const { app, warned } = open(t)
    const defaultMetrics = { enabled: true, register: new Registry() }
    await app.register(metricsPlugin.default, { endpoint, defaultMetrics, routeMetrics: { enabled: false } })
    const { client } = (app as unknown as { metrics: { client: { register: Registry } } }).metrics
    t.teardown(() => client.register.clear())
    await register(app)
    t.same(warned(), endpoint === '/metrics' ? [] : ['GET /other'])
  }
})

t.test('without metrics, a route at /metrics is named', async t => {
  for (const metrics of [false, { path: false }] as const) {
    const { app, warned } = open(t)
    app.get('/metrics', ok)
    await register(app, { metrics })
    t.same(warned(), ['GET /metrics'])
  }
})

t.test('a second registration names the routes that the first one saw, if they would have been limited', async t => {
  const { app, warned } = open(t)
  await register(app)
  app.get('/limited', ok)
  app.get('/own', { config: { rateLimit: { max: 1 } } }, ok)
  app.get('/health', unlimited, ok)
  app.get('/null', { config: { rateLimit: null } as object }, ok)
  await app.register(async child => {
    child.get('/', unlimited, ok)
    child.post('/', ok)
  }, { prefix: '/child' })
  await register(app)
  t.same(warned().toSorted(), ['GET /limited', 'GET /null', 'GET /own', 'POST /child'])
  await register(app, { global: false })
  t.same(warned(), ['GET /own'])
})

t.test('in a scope, names only routes under its own prefix', async t => {
  const { app, warned } = open(t)
  app.get('/outside', ok)
  await app.register(async one => {
    await register(one)
    one.get('/one', ok)
  })
  t.same(warned(), ['GET /outside'], 'a scope without a prefix names routes of its parent')
  await app.register(async two => {
    two.get('/inside', ok)
    await two.register(async inner => { inner.get('/inner', ok) })
    await register(two)
  }, { prefix: '/two' })
  t.same(warned(), ['GET /two/inside', 'GET /two/inner'])
  await app.register(async three => { await register(three) })
  t.same(warned(), ['GET /outside', 'GET /two/inside', 'GET /two/inner'], 'but not the routes that the first scope saw')
})

t.test('with global: false it says that limits in the config are not in force', async t => {
  const lines: Record<string, unknown>[] = []
  const app = Fastify(logTo(lines))
  t.teardown(async () => await app.close())
  app.get('/login', ok)
  await app.register(redisGuard, { redis: false, global: false })
  t.match(lines, [{ msg: /^These routes .*, so a rateLimit in their config is not in force: GET \/login\. To limit/ }])
})
