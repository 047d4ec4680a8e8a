/** What TypeScript rejects: this file compiles only if each marked line would not. */
import Fastify, { type FastifyBaseLogger, type FastifyInstance, type FastifyTypeProvider } from 'fastify'
import t from 'tap'
import redisGuard, {
  guardFrameworkErrors, type RateLimitResult, type RedisGuardOptions, type RefusalCode, type RefusalContext,
  type RefusalError
} from '../lib/index.js'
import { guardedApp } from './support/app.js'

const wrong: RedisGuardOptions[] = [
  // @ts-expect-error -- a text is no number
  { max: '10' },
  // @ts-expect-error
  { timeWindow: true },
  // @ts-expect-error
  { algorithm: 'leaky-bucket' },
  // @ts-expect-error
  { hook: 'onResponse' },
  // @ts-expect-error
  { skip: ['/status'] },
  // @ts-expect-error
  { keyGenerator: () => true },
  // @ts-expect-error
  { keyGenerator: async () => true },
  // @ts-expect-error
  { allowList: [{ address: '192.0.2.1' }] },
  // @ts-expect-error -- of a route only
  { groupId: 'a' },
  // @ts-expect-error
  { ban: 'yes' },
  // @ts-expect-error -- each needs a window
  { limits: [{ name: 'a', max: 1 }] },
  // @ts-expect-error
  { limits: [{ max: 1, timeWindow: 1 }] },
  // @ts-expect-error
  { cost: () => '1' },
  // @ts-expect-error
  { standardHeaders: 'draft-11' },
  // @ts-expect-error
  { addHeaders: { 'x-rate': true } },
  // @ts-expect-error -- not a class
  { store: {} },
  // @ts-expect-error
  { onOutage: 'panic' },
  // @ts-expect-error -- nobody knows it
  { maximum: 10 }
]

async function wrongCalls (app: FastifyInstance): Promise<void> {
  // @ts-expect-error
  app.get('/', { config: { rateLimit: { max: '5' } } }, async () => 'ok')
  // @ts-expect-error
  app.get('/', { config: { rateLimit: { groupId: 5 } } }, async () => 'ok')
  // @ts-expect-error
  app.rateLimit({ max: '5' })
  // @ts-expect-error
  app.createRateLimit({ global: true })
  // @ts-expect-error
  await app.redisGuard.limits.set('global', { max: 5 })
  // @ts-expect-error
  await app.redisGuard.blockIP(5, 60)
}

/** Each of these leaves requests out. */
const skips: RedisGuardOptions['skip'][] = [
  request => request.routeOptions.url?.startsWith('/public/'),
  async request => request.method === 'OPTIONS'
]

const codeOf = (refusal: RefusalError | RefusalContext): RefusalCode => refusal.code
const nameOf = (refusal: RefusalError): string | undefined => refusal.limit

/** Each of these returns an id. */
const keyGenerators: RedisGuardOptions['keyGenerator'][] = [
  request => request.headers['x-api-key'],
  request => request.id.length,
  async () => 2n ** 70n,
  () => Buffer.from('id'),
  async request => new URL(request.url, 'https://localhost'),
  () => null
]

/** Servers, type providers and loggers change the types of requests, replies and hooks. */
async function otherServers (): Promise<void> {
  const http2 = Fastify({ http2: true, frameworkErrors: guardFrameworkErrors() })
  await http2.register(redisGuard, { max: (request, key) => request.url.length + key.length })
  const limiter = http2.createRateLimit()
  http2.get('/', {
    config: { rateLimit: { keyGenerator: request => request.headers[':authority'] } },
    onRequest: http2.rateLimit(),
    preParsing: http2.rateLimit(),
    preValidation: http2.rateLimit(),
    preHandler: [http2.rateLimit(), async request => { await limiter(request, { increment: false }) }]
  }, async request => (await limiter(request)).key + request.raw.stream.session?.alpnProtocol)
  http2.addHook('preHandler', http2.rateLimit({ max: 5 }))
  http2.addHook('preHandler', async (request, reply) => await http2.rateLimit({ max: 5 })(request, reply))
  http2.setNotFoundHandler({ preHandler: http2.rateLimit() }, async () => 'nothing')

  const http2Secure = Fastify({ http2: true, https: {}, frameworkErrors: guardFrameworkErrors() })
  await http2Secure.register(redisGuard, { max: 5 })
  http2Secure.get('/', { onRequest: http2Secure.rateLimit({ max: 5 }) }, async request =>
    await http2Secure.createRateLimit()(request))

  const https = Fastify({ https: {}, frameworkErrors: guardFrameworkErrors() })
  await https.register(redisGuard)
  https.get('/', { onRequest: https.rateLimit() }, async request => await https.createRateLimit()(request))

  // As @fastify/type-provider-typebox and others do it.
  interface Provider extends FastifyTypeProvider {
    validator: this['schema'] extends { of: infer T } ? T : unknown
  }
  interface Log extends FastifyBaseLogger {
    audit (line: string): void
  }
  const typed = Fastify({ loggerInstance: {} as Log }).withTypeProvider<Provider>()
  await typed.register(redisGuard)
  const typedLimiter = typed.createRateLimit({ groupId: 'a' })
  const limit = typed.rateLimit({ max: 5 })
  const schema = { body: { of: { name: '' } } }
  typed.post('/', { schema, onRequest: limit, preHandler: [typed.rateLimit()] }, async request => {
    request.log.audit((await typedLimiter(request)).key)
    const { name } = request.body
    // @ts-expect-error -- the hooks leave the type of the body as the schema says
    name.toFixed()
    return name
  })
  typed.get<{ Params: { id: string } }>('/:id', { onRequest: limit }, async request => request.params.id)
}

t.test('correct options compile, and their results have the declared types', async t => {
  t.equal(wrong.length, 18)
  t.type(wrongCalls, 'function')
  t.type(otherServers, 'function')
  t.equal(keyGenerators.length, 6)
  t.equal(skips.length, 2)
  for (const read of [codeOf, nameOf]) t.type(read, 'function')
  const app = await guardedApp(t, {
    max: (request, key) => key.length + request.method.length,
    timeWindow: '1 minute',
    cost: request => request.url.length
  })
  app.get('/', {
    config: {
      rateLimit: { max: 5, groupId: 'a', countWhen: (request, reply) => reply.statusCode < 400 }
    },
    preHandler: app.rateLimit({ max: 2 })
  }, async () => 'ok')
  const limiter = app.createRateLimit()
  app.get('/look', { config: { rateLimit: false } }, async (request, reply) => {
    const result: RateLimitResult = await limiter(request)
    // Only the result of a counted request has numbers.
    const { remaining, limit } = result.isAllowed ? { remaining: undefined, limit: undefined } : result
    return { remaining, limit, headers: reply.getHeaders() }
  })
  t.equal((await app.inject('/')).statusCode, 200)
  t.type((await app.inject('/look')).json().remaining, 'number')
})
