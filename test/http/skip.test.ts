/** Requests that `skip` leaves out of a limit, such as those of routes whose config another plugin writes. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import t from 'tap'
import { guardFrameworkErrors } from '../../lib/index.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { guardedApp, logTo } from '../support/app.js'
import { mockMachinery } from '../support/fake-timers.js'
import { RedisServer } from '../../tools/redis-server.js'

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

const ok = async () => 'ok'

/** Like @fastify/under-pressure and @fastify/static, which write the config of their routes themselves. */
const others = fp(async (app: FastifyInstance) => {
  app.get('/status', { config: { something: true } as object }, ok)
  app.get('/public/*', ok)
})

const isOfOthers = (request: FastifyRequest) => ['/status', '/public/*'].includes(request.routeOptions.url ?? '')

async function statuses (
  app: FastifyInstance, urls: readonly string[], remoteAddress = '127.0.0.1'
): Promise<number[]> {
  const all: number[] = []
  for (const url of urls) all.push((await app.inject({ url, remoteAddress })).statusCode)
  return all
}

const skips: Readonly<Record<string, NonNullable<RedisGuardOptions['skip']>>> = {
  'as a function': isOfOthers,
  'as an async function': async request => isOfOthers(request),
  'by any truthy answer': request => (isOfOthers(request) ? 'yes' : '') as never,
  'by a promise of any truthy answer': async request => (isOfOthers(request) ? 1 : 0) as never
}

for (const [where, redis] of [['in memory', false], ['on Redis', server.url]] as const) {
  for (const [i, [how, skip]] of Object.entries(skips).entries()) {
    t.test(`skip leaves out the routes of other plugins, ${how} (${where})`, async t => {
      const nameSpace = `skip-${i}:`
      const keys: string[] = []
      const keyGenerator = (request: FastifyRequest) => { keys.push(request.url); return request.ip }
      const app = await guardedApp(t, { redis, nameSpace, commandTimeout: 20_000, max: 2, skip, keyGenerator })
      await app.register(others)
      app.get('/', ok)
      t.same(await statuses(app, ['/status', '/public/a.css', '/status', '/']), [200, 200, 200, 200])
      t.same(await statuses(app, ['/nowhere', '/', '/status', '/nowhere']), [404, 429, 200, 429])
      t.notOk(Object.keys((await app.inject('/status')).headers).some(name => name.includes('ratelimit')))
      t.same(keys, ['/', '/nowhere', '/', '/nowhere'], 'keyGenerator is not called for a skipped request')
      const counted = [...(await app.inject('/metrics')).body.matchAll(/^redis_guard_decisions_total.* (\d+)$/gm)]
      t.equal(counted.reduce((sum, [, count]) => sum + Number(count), 0), 4, 'a skipped request is in no metric')
    })
  }
}

t.test('blocks apply to requests that skip leaves out', async t => {
  const app = await guardedApp(t, { max: 0, skip: () => true })
  app.get('/', ok)
  await app.redisGuard.blockIP('192.0.2.9', 60)
  t.same(await statuses(app, ['/', '/nowhere']), [200, 404])
  t.same(await statuses(app, ['/', '/nowhere'], '192.0.2.9'), [403, 403])
})

t.test('a URL that only looks like a skipped route is counted', async t => {
  const app = await guardedApp(t, { max: 0, skip: isOfOthers })
  await app.register(others)
  const urls = [
    '/status?x', '/%73tatus', '/x/status', '//status', '/status/..', '/x?/status', '/x#/public/*', '/public'
  ]
  t.same(await statuses(app, urls), [200, 200, ...Array(6).fill(429)])
})

t.test('a route, a hook and a limiter may have their own skip', async t => {
  const app = await guardedApp(t, { max: 0, skip: request => request.headers['x-check'] === 'health' })
  const own = { skip: () => true }
  app.get('/', ok)
  app.get('/route', { config: { rateLimit: own } }, ok)
  app.get('/not', { config: { rateLimit: { skip: () => false } } }, ok)
  app.get('/hook', { config: { rateLimit: false }, preHandler: app.rateLimit(own) }, ok)
  const limiters = [app.createRateLimit(own), app.createRateLimit({ ipv6Subnet: 48, skip: async () => true })]
  app.get('/function', { config: { rateLimit: false } }, async request => [
    ...await Promise.all(limiters.map(async limiter => await limiter(request))),
    ...await Promise.all(limiters.map(async limiter => await limiter(request, { increment: false })))
  ])
  t.same(await statuses(app, ['/', '/route', '/not', '/hook']), [429, 200, 429, 200])
  const check = async (url: string) => (await app.inject({ url, headers: { 'x-check': 'health' } })).statusCode
  t.same([await check('/'), await check('/not')], [200, 429])
  const { body } = await app.inject({ url: '/function', remoteAddress: '2001:db8:1:2::3' })
  const both = [{ isAllowed: true, key: '2001:db8:1:2::' }, { isAllowed: true, key: '2001:db8:1::' }]
  t.same(JSON.parse(body), [...both, ...both])
})

t.test('skip also applies to malformed URLs', async t => {
  const frameworkErrors = guardFrameworkErrors()
  const skip: RedisGuardOptions['skip'] = request => request.headers['x-check'] === 'health'
  const app = await guardedApp(t, { max: 0, skip }, { frameworkErrors })
  t.equal((await app.inject('/%zz')).statusCode, 429)
  t.equal((await app.inject({ url: '/%zz', headers: { 'x-check': 'health' } })).statusCode, 400)
})

t.test('a skip that fails gives the same 500, at once or later, when counting and when peeking', async t => {
  const nothing: unknown = undefined
  for (const skip of [() => { throw nothing }, async () => { throw nothing }]) {
    const lines: { err: { message: string } }[] = []
    const app = await guardedApp(t, { skip }, logTo(lines as never[], 'error'))
    app.get('/', ok)
    const check = app.createRateLimit()
    app.get('/:increment', { config: { rateLimit: false } }, async request =>
      await check(request, { increment: request.url === '/true' }))
    for (const url of ['/', '/true', '/false']) {
      const message = 'The request cannot be rate limited'
      t.match((await app.inject(url)).json(), { statusCode: 500, code: 'GUARD_ERR_LIMIT', message }, url)
    }
    const causes = lines.map(({ err: { message } }) => message)
    t.equal(
      causes.filter(cause => cause.includes('skip failed without an error, in the limit global at GET /')).length,
      3
    )
  }
})

t.test('a skip that never answers is given up after 5 seconds', async t => {
  const app = await guardedApp(t, { skip: async () => await new Promise<never>(() => {}) })
  app.get('/', ok)
  const clock = mockMachinery(t, 'setTimeout')
  const answer = app.inject('/')
  const isWaiting = async () =>
    await Promise.race([answer.then(() => false), new Promise<boolean>(resolve => setImmediate(resolve, true))])
  while (await isWaiting()) clock.tick(100)
  t.match((await answer).json(), { code: 'GUARD_ERR_LIMIT', message: 'The request cannot be rate limited' })
})

t.test('a skip that is not a function stops the start or the route', async t => {
  const wrong = { skip: ['/status'] } as unknown as RedisGuardOptions
  const expected = { code: 'GUARD_ERR_OPTIONS', message: /skip must be a function \(request\) => boolean/ }
  await t.rejects(guardedApp(t, wrong), expected)
  const app = await guardedApp(t)
  t.throws(() => app.get('/', { config: { rateLimit: wrong as object } }, ok), expected)
})
