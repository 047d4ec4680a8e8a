/** The error of a refused request, as error handlers and logs see it. */
import { inspect } from 'node:util'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import t from 'tap'
import { RefusalError } from '../../lib/index.js'
import { guardedApp, logTo } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const ok = async () => 'ok'
const text = 'Rate limit exceeded, retry in 1 minute'

/** @returns a function that requests a URL, and returns the error that the application's error handler gets */
function errorsOf (app: FastifyInstance): (url: string, remoteAddress?: string) => Promise<RefusalError> {
  let handled: unknown
  app.setErrorHandler(async (error, request, reply) => {
    handled = error
    await reply.code(418).send()
  })
  return async (url, remoteAddress = '127.0.0.1') => {
    t.equal((await app.inject({ url, remoteAddress })).statusCode, 418)
    return handled as RefusalError
  }
}

t.test('a refusal is an Error without a stack of calls', async t => {
  const app = await guardedApp(t, { max: 0 })
  app.get('/', ok)
  const error = await errorsOf(app)('/')
  t.ok(error instanceof Error && error instanceof RefusalError)
  t.same([error.name, error.message, String(error), error.stack], ['Error', text, `Error: ${text}`, `Error: ${text}`])
  const fields = { message: text, statusCode: 429, code: 'GUARD_LIMITED', limit: 'global' }
  t.strictSame({ ...error }, fields)
  t.strictSame(structuredClone(error), fields)
  t.match(inspect(error), /^\[RefusalError: Rate limit exceeded, retry in 1 minute\][^]*code: 'GUARD_LIMITED'/)
  error.message = error.stack = 'changed'
  t.same([error.message, error.stack], ['changed', 'changed'])
})

t.test('an error that the application throws after a refusal has its stack', async t => {
  const app = await guardedApp(t, { max: 0 })
  app.get('/', ok)
  const before = Error.stackTraceLimit
  app.setErrorHandler(async () => ({ stack: new Error('of the application').stack }))
  t.match((await app.inject('/')).json().stack, /refusal\.test\.ts/)
  t.equal(Error.stackTraceLimit, before)
})

t.test('each kind of refusal has its own code, and those of a limit name the limit', async t => {
  const app = await guardedApp(t, { max: 0 })
  app.get('/', ok)
  app.get('/ban', { config: { rateLimit: { limits: [{ name: 'burst', max: 0, timeWindow: 1000, ban: 0 }] } } }, ok)
  app.get('/hook', { config: { rateLimit: false }, preHandler: app.rateLimit({ max: 0 }) }, ok)
  app.get('/key', { config: { rateLimit: { keyGenerator: () => undefined } } }, ok)
  await app.redisGuard.blockIP('192.0.2.9', 60)
  const errorOf = errorsOf(app)
  const fieldsOf = async (url: string, remoteAddress?: string) => {
    const { statusCode, code, limit } = await errorOf(url, remoteAddress)
    return [statusCode, code, limit]
  }
  t.same(await fieldsOf('/'), [429, 'GUARD_LIMITED', 'global'])
  t.same(await fieldsOf('/ban'), [403, 'GUARD_BANNED', 'GET:/ban:burst'])
  t.same(await fieldsOf('/hook'), [429, 'GUARD_LIMITED', 'limiter:1'])
  t.same(await fieldsOf('/key'), [429, 'GUARD_LIMITED', 'GET:/key@address'])
  t.same(await fieldsOf('/', '192.0.2.9'), [403, 'GUARD_BLOCKED', undefined])
  t.notOk('limit' in await errorOf('/', '192.0.2.9'))
})

t.test('createRateLimit throws an error with a code if the request cannot be counted', async t => {
  const gone = await RedisServer.start()
  const app = await guardedApp(t, { redis: gone.url, onOutage: 'deny' })
  const check = app.createRateLimit()
  app.get('/', { config: { rateLimit: false } }, async request => await check(request))
  const errorOf = errorsOf(app)
  await app.ready()
  await gone.stop()
  await until(() => app.redisGuard.status.store === 'memory')
  const error = await errorOf('/')
  t.ok(error instanceof RefusalError)
  t.match(error, { statusCode: 503, code: 'GUARD_DENIED', message: 'Requests cannot be counted at the moment' })
})

t.test("the body is Fastify's with the code, and the log line has the code too", async t => {
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, { max: 0 }, logTo(lines, 'info'))
  app.get('/', ok)
  const { payload } = await app.inject('/')
  t.same(JSON.parse(payload), { statusCode: 429, code: 'GUARD_LIMITED', error: 'Too Many Requests', message: text })
  const err = { type: 'RefusalError', code: 'GUARD_LIMITED', limit: 'global' }
  t.match(lines.find(({ msg }) => msg === text), { err })
})

t.test('errorResponseBuilder and the results of createRateLimit get the name of the limit', async t => {
  const contexts: unknown[] = []
  const app = await guardedApp(t, {
    max: 1,
    ban: 1,
    errorResponseBuilder: (request, { code, limit, ...context }) => {
      contexts.push([code, limit])
      return Object.assign(new Error('no'), { ...context, code })
    }
  })
  app.get('/', ok)
  const single = app.createRateLimit({ max: 1 })
  const limits = [{ name: 'wide', max: 9, timeWindow: 1000 }, { name: 'tight', max: 2, timeWindow: 1000 }]
  const several = app.createRateLimit({ limits })
  const nameOf = async (limiter: typeof single, request: FastifyRequest, increment: boolean) => {
    const result = await limiter(request, { increment })
    return result.isAllowed ? undefined : result.limit
  }
  app.get('/look', { config: { rateLimit: false } }, async request => [
    await nameOf(single, request, true), await nameOf(several, request, true), await nameOf(several, request, false)
  ])
  await app.inject('/')
  t.match((await app.inject('/')).json(), { code: 'GUARD_LIMITED' })
  t.match((await app.inject('/')).json(), { code: 'GUARD_BANNED' })
  t.same(contexts, [['GUARD_LIMITED', 'global'], ['GUARD_BANNED', 'global']])
  t.same((await app.inject('/look')).json(), ['limiter:1', 'limiter:2:tight', 'limiter:2:tight'])
})
