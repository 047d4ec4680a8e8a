/** What TypeScript refuses: this file compiles only if each marked line does not. */
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { RateLimitResult, RedisGuardOptions, RefusalCode, RefusalContext, RefusalError } from '../lib/index.js'
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
  { standardHeaders: 'draft-7' },
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

/** Each leaves requests out. */
const skips: RedisGuardOptions['skip'][] = [
  request => request.routeOptions.url?.startsWith('/public/'),
  async request => request.method === 'OPTIONS'
]

const codeOf = (refusal: RefusalError | RefusalContext): RefusalCode => refusal.code
const nameOf = (refusal: RefusalError): string | undefined => refusal.limit

/** Each is an id. */
const keyGenerators: RedisGuardOptions['keyGenerator'][] = [
  request => request.headers['x-api-key'],
  request => request.id.length,
  async () => 2n ** 70n,
  () => Buffer.from('id'),
  async request => new URL(request.url, 'https://localhost'),
  () => null
]

t.test('right options compile, and their results have their types', async t => {
  t.equal(wrong.length, 18)
  t.type(wrongCalls, 'function')
  t.equal(keyGenerators.length, 6)
  t.equal(skips.length, 2)
  for (const read of [codeOf, nameOf]) t.type(read, 'function')
  const app = await guardedApp(t, { max: (request, key) => key.length + request.method.length, timeWindow: '1 minute', cost: request => request.url.length })
  app.get('/', { config: { rateLimit: { max: 5, groupId: 'a', countWhen: (request, reply) => reply.statusCode < 400 } }, preHandler: app.rateLimit({ max: 2 }) }, async () => 'ok')
  const limiter = app.createRateLimit()
  app.get('/look', { config: { rateLimit: false } }, async (request, reply) => {
    const result: RateLimitResult = await limiter(request)
    // Only one that was counted has numbers.
    const { remaining, limit } = result.isAllowed ? { remaining: undefined, limit: undefined } : result
    return { remaining, limit, headers: reply.getHeaders() }
  })
  t.equal((await app.inject('/')).statusCode, 200)
  t.type((await app.inject('/look')).json().remaining, 'number')
})
