/** Requests that several hooks limit: different limits all apply, and each counts a request once. */
import type { FastifyInstance, FastifyReply, FastifyRequest, InjectOptions } from 'fastify'
import t, { type Test } from 'tap'
import type { RateLimitOptions, RedisGuardOptions, RouteRateLimitOptions } from '../../lib/settings/options.js'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

const ok = async () => 'ok'
const unlimited = { rateLimit: false } as const
const byEmail: RateLimitOptions['keyGenerator'] = request => (request.body as { email?: string } | undefined)?.email
const byUser: RateLimitOptions['keyGenerator'] = request => request.headers['x-user'] as string
let namespaces = 0

type Open = (options?: RedisGuardOptions) => Promise<FastifyInstance>

/** Runs a test in memory and on Redis. */
function onBoth (title: string, run: (t: Test, open: Open) => Promise<void>): void {
  for (const [where, redis] of [['in memory', false], ['on Redis', server.url]] as const) {
    t.test(`${title} (${where})`, async t => {
      await run(t, async options =>
        await guardedApp(t, { redis, nameSpace: `stacked${++namespaces}:`, commandTimeout: 20_000, ...options }))
    })
  }
}

async function statuses (app: FastifyInstance, count: number, ask: InjectOptions | string = '/'): Promise<number[]> {
  const all: number[] = []
  for (let i = 0; i < count; i++) all.push((await app.inject(ask)).statusCode)
  return all
}

/** The rate limit headers of an answer. */
async function headersOf (app: FastifyInstance, ask: InjectOptions | string = '/'): Promise<object> {
  const { headers } = await app.inject(ask)
  return Object.fromEntries(Object.entries(headers).filter(([name]) => /ratelimit|retry-after/.test(name)))
}

async function remainingOf (app: FastifyInstance, name: string, key = '127.0.0.1'): Promise<number | undefined> {
  return (await app.redisGuard.limits.peek(key)).find(limit => limit.name === name)?.remaining
}

/** Seconds in a header when a minute began a while ago. */
const upToAMinute = /^(60|5\d)$/

const left = (limit: string, remaining: string) => ({ 'x-ratelimit-limit': limit, 'x-ratelimit-remaining': remaining })

onBoth('a login is limited by address and by account, however many addresses guess', async (t, open) => {
  const app = await open()
  app.post('/login', {
    config: { rateLimit: { max: 5 } },
    preHandler: app.rateLimit({ max: 3, keyGenerator: byEmail })
  }, ok)
  const login = async (email: string, remoteAddress: string) =>
    (await app.inject({ method: 'POST', url: '/login', payload: { email }, remoteAddress })).statusCode
  const guesses: number[] = []
  for (let i = 1; i <= 6; i++) guesses.push(await login('victim@example.org', `192.0.2.${i}`))
  t.same(guesses, [200, 200, 200, 429, 429, 429])
  const sprayed: number[] = []
  for (let i = 1; i <= 6; i++) sprayed.push(await login(`${i}@example.org`, '198.51.100.1'))
  t.same(sprayed, [200, 200, 200, 200, 200, 429])
})

onBoth('a hook with its own limit applies beside the global limit, in any order', async (t, open) => {
  for (const hook of ['onRequest', 'preHandler'] as const) {
    const app = await open({ max: 4, hook })
    for (const own of ['onRequest', 'preHandler'] as const) {
      app.get(`/${own}`, { [own]: app.rateLimit({ max: 2, keyGenerator: byUser }) }, ok)
    }
    for (const [user, url] of [['a', '/onRequest'], ['b', '/preHandler']] as const) {
      t.same(await statuses(app, 3, { url, headers: { 'x-user': user } }), [200, 200, 429], `${url} before ${hook}`)
    }
  }
})

onBoth('sends the headers of the limit that refuses, or has least left', async (t, open) => {
  const app = await open({ max: 9 })
  app.get('/tighter', { preHandler: app.rateLimit({ max: 2 }) }, ok)
  app.get('/wider', { preHandler: app.rateLimit({ max: 99 }) }, ok)
  t.match(await headersOf(app, '/tighter'), left('2', '1'))
  t.match(await headersOf(app, '/wider'), left('9', '7'))
  t.match(await headersOf(app, '/tighter'), left('2', '0'))
  t.match(await headersOf(app, '/tighter'), { ...left('2', '0'), 'retry-after': upToAMinute })
  t.same(await statuses(app, 6, '/wider'), [200, 200, 200, 200, 200, 429])
  t.match(await headersOf(app, '/wider'), { ...left('9', '0'), 'retry-after': upToAMinute })
})

t.test('a header that the tightest limit leaves out is not filled by another limit', async t => {
  const app = await guardedApp(t, { max: 9 })
  const addHeaders = { 'retry-after': true }
  const addHeadersOnExceeding = { 'x-ratelimit-remaining': true }
  app.get('/', { preHandler: app.rateLimit({ max: 1, addHeaders, addHeadersOnExceeding }) }, ok)
  t.same(await headersOf(app), { 'x-ratelimit-remaining': '0' })
  const refused = await headersOf(app)
  t.match(refused, { 'retry-after': upToAMinute })
  t.same(Object.keys(refused), ['retry-after'])
})

t.test('standard headers list the limits of all hooks that send them, the tightest hook first', async t => {
  const app = await guardedApp(t, { max: 9, standardHeaders: true })
  app.get('/', { preHandler: [app.rateLimit({ max: 2 }), app.rateLimit({ max: 99 })] }, ok)
  app.get('/one', { preHandler: app.rateLimit({ max: 1, standardHeaders: false }) }, ok)
  const passed = await app.inject('/')
  t.equal(passed.headers['ratelimit'], '"limiter:1";r=1;t=60, "global";r=8;t=60, "limiter:2";r=98;t=60')
  await app.inject('/')
  const refused = await app.inject('/')
  t.equal(refused.statusCode, 429)
  t.match(refused.headers['ratelimit'], /^"limiter:1";r=0;t=(60|5\d), "global";r=6;t=(60|5\d)$/)
  const one = await app.inject('/one')
  t.match([one.headers['ratelimit'], one.headers['x-ratelimit-limit']], [/^"global";r=5;t=\d+$/, '1'])
})

onBoth('one limit counts a request once, wherever its hooks are', async (t, open) => {
  for (const keyGenerator of [undefined, byUser]) {
    const app = await open({ max: 9, keyGenerator })
    const own = app.rateLimit({ max: 5 })
    app.get('/global', { onRequest: app.rateLimit(), preHandler: [app.rateLimit(), app.rateLimit()] }, ok)
    app.get('/own', { config: unlimited, onRequest: own, preHandler: [own, own] }, ok)
    app.register(async child => {
      child.addHook('onRequest', app.rateLimit())
      child.get('/', ok)
      const notFound = async (request: FastifyRequest, reply: FastifyReply) => await reply.code(404).send()
      child.setNotFoundHandler({ preHandler: child.rateLimit() }, notFound)
    }, { prefix: '/child' })
    app.get('/nothing', { preHandler: app.rateLimit() }, async (request, reply) => reply.callNotFound())
    const headers = { 'x-user': 'me' }
    t.match(await headersOf(app, { url: '/global', headers }), left('9', '8'))
    t.match(await headersOf(app, { url: '/own', headers }), left('5', '4'))
    t.match(await headersOf(app, { url: '/child', headers }), left('9', '7'))
    t.match(await headersOf(app, { url: '/child/nowhere', headers }), left('9', '6'))
    t.match(await headersOf(app, { url: '/nothing', headers }), left('9', '5'))
  }
})

t.test('a limit whose key is known only to a later hook counts by both keys', async t => {
  const app = await guardedApp(t, { max: 2, keyGenerator: byEmail })
  app.post('/', { preHandler: app.rateLimit() }, ok)
  const from = async (remoteAddress: string, email: string) =>
    (await app.inject({ method: 'POST', url: '/', payload: { email }, remoteAddress })).statusCode
  t.same([await from('192.0.2.1', 'a'), await from('192.0.2.2', 'a'), await from('192.0.2.3', 'a')], [200, 200, 429])
  // The account has the name of the address: its hits do not count against the address.
  t.same([await from('192.0.2.4', '192.0.2.4'), await from('192.0.2.4', '192.0.2.4')], [200, 200])
  t.equal(await from('192.0.2.5', '192.0.2.4'), 429)
})

onBoth('hooks of one group count once if their limits are equal, and each if they differ', async (t, open) => {
  const app = await open()
  const group = { max: 9, groupId: 'g' }
  app.get('/same', { config: { rateLimit: group }, preHandler: app.rateLimit(group) }, ok)
  const allowList = ['192.0.2.1', '198.51.100.0/24', 'partner', { key: '203.0.113.7' }]
  const listed = { max: 9, groupId: 'listed', allowList }
  app.get(
    '/listed',
    { config: { rateLimit: listed }, preHandler: app.rateLimit({ ...listed, allowList: [...allowList] }) },
    ok
  )
  const others: RouteRateLimitOptions[] = [
    { max: 4 }, { shadow: true }, { allowList: ['192.0.2.1'] }, { allowList: () => false }, { skip: () => false },
    { countWhen: () => true }, { onOutage: 'share' }
  ]
  for (const [i, other] of others.entries()) {
    const [of, preHandler] = [{ ...group, groupId: `${i}` }, app.rateLimit({ ...group, groupId: `${i}`, ...other })]
    app.get(`/${i}`, { config: { rateLimit: of }, preHandler }, ok)
  }
  t.match(await headersOf(app, '/same'), left('9', '8'))
  t.match(await headersOf(app, '/listed'), left('9', '8'))
  for (const i of others.keys()) {
    await app.inject(`/${i}`)
    const peeked = await app.redisGuard.limits.peek('127.0.0.1')
    const { max, remaining } = peeked.find(({ name }) => name === `group:${i}`)!
    t.equal(max - remaining, 2, JSON.stringify(others[i]))
  }
  t.same(await statuses(app, 3, '/0'), [200, 429, 429], 'the smaller max of a group holds')
})

t.test('each hook has its own allow list, shadow and ban', async t => {
  const app = await guardedApp(t, { max: 1, allowList: ['192.0.2.1'] })
  const own = app.rateLimit({ max: 1, allowList: ['192.0.2.2'], ban: 0 })
  app.get('/', { preHandler: own }, ok)
  t.same(await statuses(app, 2, { url: '/', remoteAddress: '192.0.2.1' }), [200, 403], 'exempt from the global limit')
  t.same(await statuses(app, 2, { url: '/', remoteAddress: '192.0.2.2' }), [200, 429], 'exempt from the hook')
  const inShadow = await guardedApp(t, { max: 0, shadow: true })
  inShadow.get('/', { preHandler: inShadow.rateLimit({ max: 1, shadow: false }) }, ok)
  t.same(await statuses(inShadow, 2), [200, 429])
})

t.test('an exemption is reported once for each limit', async t => {
  const app = await guardedApp(t, { max: 1, allowList: ['127.0.0.1'] })
  app.get('/', { preHandler: [app.rateLimit(), app.rateLimit({ max: 1 })] }, ok)
  await app.inject('/')
  const { body } = await app.inject('/metrics')
  t.match(body, /decisions_total\{limit="global",outcome="exempt",source="local"\} 1\n/)
  t.match(body, /decisions_total\{limit="limiter:1",outcome="exempt",source="local"\} 1\n/)
})

onBoth('a request that countWhen rejects is refunded by each hook', async (t, open) => {
  const app = await open({ max: 9, countWhen: (request, reply) => reply.statusCode !== 429 })
  const countWhen: RateLimitOptions['countWhen'] = (request, reply) => reply.statusCode === 401
  app.get('/', { preHandler: [app.rateLimit({ max: 5, countWhen }), app.rateLimit({ max: 1 })] }, ok)
  const all = async () => [await remainingOf(app, 'global'), await remainingOf(app, 'limiter:1')]
  t.same(await statuses(app, 2), [200, 429])
  await until(async () => JSON.stringify(await all()) === '[8,5]')
})

t.test('a request that an earlier hook refuses is not counted by later ones', async t => {
  const app = await guardedApp(t, { max: 1 })
  app.get('/', { preHandler: app.rateLimit({ max: 5 }) }, ok)
  t.same(await statuses(app, 3), [200, 429, 429])
  t.equal(await remainingOf(app, 'limiter:1'), 4)
})

t.test('createRateLimit counts at each call, beside the hooks', async t => {
  const app = await guardedApp(t, { max: 9 })
  const check = app.createRateLimit()
  app.get('/', { preHandler: app.rateLimit() }, async request => {
    await check(request)
    const result = await check(request)
    return result.isAllowed ? undefined : result.remaining
  })
  t.equal((await app.inject('/')).json(), 6)
})

onBoth('a hook of an instance limits its routes and 404s beside their own limits', async (t, open) => {
  for (const hook of ['onRequest', 'preHandler'] as const) {
    const app = await open({ max: 4, hook })
    app.register(async child => {
      child.addHook('onRequest', child.rateLimit({ max: 2, keyGenerator: byUser }))
      child.get('/', ok)
      child.get('/own', { config: { rateLimit: { max: 1 } } }, ok)
      child.setNotFoundHandler(async (request, reply) => await reply.code(404).send())
    }, { prefix: '/tenant' })
    const as = (user: string, url: string) => ({ url, headers: { 'x-user': user } })
    t.same(await statuses(app, 3, as('a', '/tenant')), [200, 200, 429])
    t.same(await statuses(app, 2, as('b', '/tenant/own')), [200, 429])
    t.equal(await remainingOf(app, 'global'), 2, `${hook}: without what the hook refused, and the route's own limit`)
    t.same(await statuses(app, 3, as('c', '/tenant/nowhere')), [404, 404, 429])
  }
})

t.test('blocks, problem details and other errors are the same as with one hook', async t => {
  const app = await guardedApp(t, { max: 9, problemDetails: true })
  const fails = app.rateLimit({ max: () => { throw Object.assign(new Error('no plan'), { statusCode: 402 }) } })
  app.get('/', { preHandler: app.rateLimit({ max: 1 }) }, ok)
  app.get('/fails', { preHandler: fails }, ok)
  await app.redisGuard.blockIP('192.0.2.9', 60)
  t.same(await statuses(app, 1, { url: '/', remoteAddress: '192.0.2.9' }), [403])
  t.same(await statuses(app, 2), [200, 429])
  t.same((await app.inject('/')).json()['violated-policies'], ['limiter:2'])
  t.same(await statuses(app, 1, '/fails'), [402])
})

t.test('while Redis is away, each hook follows its own onOutage', async t => {
  const gone = await RedisServer.start()
  const app = await guardedApp(t, { redis: gone.url, max: 9, onOutage: 'allow' })
  app.get('/memory', { preHandler: app.rateLimit({ max: 1, onOutage: 'memory' }) }, ok)
  app.get('/allow', { onRequest: app.rateLimit({ max: 5, onOutage: 'memory' }) }, ok)
  app.get('/deny', { preHandler: app.rateLimit({ max: 5, onOutage: 'deny' }) }, ok)
  await app.ready()
  await gone.stop()
  await until(() => app.redisGuard.status.store === 'memory')
  t.same(await statuses(app, 2, '/memory'), [200, 429])
  t.match(await headersOf(app, '/allow'), left('5', '4'))
  t.same(await statuses(app, 1, '/deny'), [503])
})

t.test('a custom store counts for each hook, and once for one limit', async t => {
  const counts = new Map<string, number>()
  class Store {
    readonly name: string
    constructor ({ max }: { max?: unknown }) { this.name = String(max) }
    child (options: object): Store { return new Store(options) }
    incr (key: string, done: (error: null, result: { current: number, ttl: number }) => void): void {
      const current = (counts.get(this.name) ?? 0) + 1
      counts.set(this.name, current)
      done(null, { current, ttl: 60_000 })
    }
  }
  const app = await guardedApp(t, { max: 9, store: Store as never })
  app.get('/', { preHandler: [app.rateLimit({ max: 2 }), app.rateLimit()] }, ok)
  t.same(await statuses(app, 3), [200, 200, 429])
  t.same([...counts], [['9', 3], ['2', 3]])
})

t.test('a route that another plugin copies to another URL is limited once', async t => {
  const app = await guardedApp(t, { max: 9 })
  app.addHook('onRoute', route => {
    if (route.url === '/' && route.method === 'GET') app.route({ ...route, url: '/copy', exposeHeadRoute: false })
  })
  app.get('/', { config: { rateLimit: { max: 5 } }, exposeHeadRoute: false }, ok)
  t.match(await headersOf(app, '/copy'), left('5', '4'))
  t.match(await headersOf(app, '/copy'), left('5', '3'))
  t.match(await headersOf(app), left('5', '2'))
})
