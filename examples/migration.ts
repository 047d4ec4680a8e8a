/**
 * A shop that was written for @fastify/rate-limit and now uses this package. Only the import line has changed; it was
 * `import rateLimit from '@fastify/rate-limit'`. migration.test.ts runs the shop with both packages and compares the
 * answers that clients get.
 */
import { pathToFileURL } from 'node:url'
import Fastify, { type FastifyError, type FastifyInstance, type FastifyRequest } from 'fastify'
import rateLimit from 'fastify-redis-guard'

interface ShopOptions {
  /** send `ratelimit-*` in place of `x-ratelimit-*`, for clients that follow the draft */
  enableDraftSpec?: boolean
}

/** Limits by API key. */
const plans = new Map([
  ['key-of-corner-store', { max: 2, timeWindow: 60_000 }],
  ['key-of-supermarket', { max: 5, timeWindow: 10_000 }],
  ['key-of-late-payer', { max: 0, timeWindow: 60_000 }]
])

export async function buildShop ({ enableDraftSpec = false }: ShopOptions = {}): Promise<FastifyInstance> {
  const app: FastifyInstance = Fastify({
    logger: { level: process.env['LOG_LEVEL'] ?? 'error' },
    trustProxy: ['127.0.0.1', '::1']
  })
  const passed = new Map<string, number>()
  const refused = new Map<string, number>()
  const banned = new Map<string, string[]>()

  await app.register(rateLimit, {
    max: 5,
    timeWindow: '1 minute',
    ban: 2,
    cache: 10_000,
    allowList: ['198.51.100.7'],
    skipOnError: true,
    enableDraftSpec,
    onExceeding: (request, key) => { passed.set(key, (passed.get(key) ?? 0) + 1) },
    onExceeded: (request, key) => { refused.set(key, (refused.get(key) ?? 0) + 1) },
    onBanReach: (request, key) => { banned.set(key, [...banned.get(key) ?? [], request.url]) }
  })

  // These routes use the limit of the plugin and share one counter for each client.
  app.get('/', async () => ({ shop: 'open' }))
  app.get('/products', async () => [{ name: 'tea' }, { name: 'rice' }])
  app.post('/basket', async (request, reply) => await reply.code(201).send({ items: 1 }))

  app.get('/health', { config: { rateLimit: false } }, async () => 'ok')
  app.get<{ Params: { key: string } }>('/usage/:key', { config: { rateLimit: false } }, async request => {
    const { key } = request.params
    return { passed: passed.get(key) ?? 0, refused: refused.get(key) ?? 0, banned: banned.get(key) ?? [] }
  })

  // Limits by user name, from any address. The body is not parsed before preHandler.
  app.post<{ Body: { user: string } }>('/login', {
    schema: { body: { type: 'object', required: ['user'], properties: { user: { type: 'string' } } } },
    config: {
      rateLimit: {
        hook: 'preHandler',
        max: 2,
        timeWindow: '30 seconds',
        ban: 1,
        keyGenerator: (request: FastifyRequest) => `user:${(request.body as { user: string }).user}`,
        errorResponseBuilder: (request, { statusCode, ban, max, ttl, after }) => ({
          statusCode,
          error: ban ? 'Account locked' : 'Slow down',
          message: `${max} attempts, try again in ${after}`,
          ttl
        })
      }
    }
  }, async ({ body }) => ({ token: `token of ${body.user}` }))

  // A costly query: each refused request restarts the window.
  app.get('/search', {
    config: { rateLimit: { max: 2, timeWindow: 10_000, ban: -1, continueExceeding: true } }
  }, async () => [])

  app.get('/invoice.pdf', {
    config: { rateLimit: { max: 1, timeWindow: '5 seconds', ban: -1, exponentialBackoff: true } }
  }, async (request, reply) => await reply.type('application/pdf').send(Buffer.from('%PDF-')))

  // Old tills fail on headers that they do not know.
  app.get('/till', {
    config: {
      rateLimit: {
        max: 1,
        timeWindow: '1 minute',
        addHeaders: {
          'x-ratelimit-limit': false,
          'x-ratelimit-remaining': false,
          'x-ratelimit-reset': false,
          'retry-after': true
        },
        addHeadersOnExceeding: { 'x-ratelimit-limit': false, 'x-ratelimit-remaining': true, 'x-ratelimit-reset': false }
      }
    }
  }, async () => ({ open: true }))

  // The hook of the route runs first, so requests without the token are not counted.
  app.get('/admin', {
    onRequest: async (request, reply) => {
      if (request.headers.authorization !== 'Bearer manager') {
        return await reply.code(401).send({ error: 'Unauthorized' })
      }
    },
    config: {
      rateLimit: {
        max: 2,
        timeWindow: '1 minute',
        keyGenerator: () => 'the office',
        errorResponseBuilder: () => new OfficeBusy()
      }
    }
  }, async () => ({ office: 'open' }))

  // Only starting an export counts. Looking at the quota does not.
  const countExport = app.createRateLimit({ max: 2, timeWindow: '1 hour' })
  app.post('/exports', { config: { rateLimit: false } }, async (request, reply) => {
    const quota = await countExport(request)
    if (quota.isAllowed || !quota.isExceeded) return await reply.code(202).send(quota)
    return await reply.code(quota.isBanned ? 403 : 429).header('retry-after', quota.ttlInSeconds).send(quota)
  })
  app.get('/exports/quota', { config: { rateLimit: false } }, async request => {
    return await countExport(request, { increment: false })
  })

  // Shows what is left of the plugin's own limit, without counting.
  const look = app.createRateLimit()
  app.get('/quota', { config: { rateLimit: false } }, async request => await look(request, { increment: false }))

  app.setNotFoundHandler({ preHandler: app.rateLimit({ max: 3, timeWindow: '2 minutes' }) }, async (request, reply) => (
    await reply.code(404).send({ error: 'Nothing here' })
  ))

  await app.register(partners, { prefix: '/partners' })
  return app
}

class OfficeBusy extends Error {
  readonly statusCode = 503
  readonly code = 'OFFICE_BUSY'

  constructor () {
    super('the office is busy')
  }
}

async function partners (app: FastifyInstance): Promise<void> {
  const byKey = (request: FastifyRequest) => {
    const key = request.headers['x-api-key']
    if (typeof key === 'string') return key
    throw Object.assign(new Error('x-api-key is missing'), { statusCode: 401 })
  }
  const limit = {
    keyGenerator: byKey,
    max: async (request: FastifyRequest, key: string) => plans.get(key)?.max ?? 1,
    timeWindow: async (request: FastifyRequest, key: string) => plans.get(key)?.timeWindow ?? 60_000,
    // Exempts the nightly import from the limit, but only its reads.
    allowList: async (request: FastifyRequest, key: string) =>
      key === 'key-of-nightly-import' && request.method === 'GET'
  }

  app.setErrorHandler<FastifyError>(async (error, request, reply) => {
    const before = reply.statusCode
    const statusCode = error.statusCode ?? 500
    return await reply.code(statusCode).send({
      partner: request.headers['x-api-key'] ?? null,
      problem: error.message,
      statusCode,
      before
    })
  })
  app.setNotFoundHandler({ preHandler: app.rateLimit() }, async (request, reply) => {
    return await reply.code(404).send({ error: 'No such thing for partners' })
  })

  app.get('/orders', { config: { rateLimit: limit } }, async () => [{ order: 1 }])
  app.post('/orders', { config: { rateLimit: { ...limit, hook: 'preValidation' } } }, async (request, reply) => {
    return await reply.code(201).send({ order: 2 })
  })
  app.get('/news', async () => 'none')
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await buildShop()
  const host = process.env['HOST'] ?? '127.0.0.1'
  const url = await app.listen({ port: Number(process.env['PORT'] ?? 3000), host })
  console.log(`the shop is open: ${url}`)
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => { app.close().then(() => process.exit(0), () => process.exit(1)) })
  }
}
