/**
 * The servers that the bench compares: the same GET / behind different limiters.
 * Each limiter reads `request.ip`, counts it per minute, and sends the three headers.
 */
import type { FastifyInstance, FastifyPluginCallback, FastifyReply } from 'fastify'
import redisGuard, { type RedisGuardOptions } from 'fastify-redis-guard'
import { Redis } from 'ioredis'
import type { NextTick } from './next-tick.js'
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible'

export interface VariantSettings {
  readonly redisPort: number
  /** of Redis itself, also where a scenario puts a proxy before it */
  readonly nearRedisPort: number
  /** requests per minute and address */
  readonly max: number
  /** refuse each address of 203.0.113.0/24, where the variant can */
  readonly blocks: boolean
}

export interface Variant {
  readonly label: string
  /** where it counts; `none`: it does not */
  readonly store: 'none' | 'memory' | 'Redis'
  /** default: kept */
  readonly nextTick?: NextTick
  add (app: FastifyInstance, settings: VariantSettings): Promise<void>
}

const windowSeconds = 60

/** of the addresses that a scenario with blocks refuses */
export const blockedPrefix = '203.0.113.'

/** By name, as the server's arguments and `--only` use it. */
export const variants = {
  plain: { label: 'plain Fastify', store: 'none', async add () {} },
  'plain-headers': {
    label: 'plain Fastify, reading the address and sending the headers',
    store: 'none',
    add: addHeadersOnly
  },
  'plain-refusing': {
    label: 'plain Fastify, reading the address and refusing with an error of its own',
    store: 'none',
    add: refuse
  },
  'plain-headers-lost': {
    label: 'the same, nextTick slowed down by a garbage collection',
    store: 'none',
    nextTick: 'lost',
    add: addHeadersOnly
  },
  incr: {
    label: 'a bare INCR for each request, pipelined by ioredis',
    store: 'Redis',
    add: async (app, { max, redisPort }) => addBareCounter(app, max, redisPort, async (client, key) => {
      return await client.incr(key)
    })
  },
  increx: {
    label: 'a bare INCREX for each request, pipelined by ioredis',
    store: 'Redis',
    add: async (app, { max, redisPort }) => addBareCounter(app, max, redisPort, async (client, key) => {
      const [count] = await client.call('INCREX', key, 'EX', windowSeconds, 'ENX', 'UBOUND', max) as [number]
      return count
    })
  },
  'fastify-memory': {
    label: '@fastify/rate-limit',
    store: 'memory',
    add: async (app, { max }) => await addFastifyRateLimit(app, max)
  },
  'fastify-memory-lost': {
    label: 'the same, nextTick slowed down by a garbage collection',
    store: 'memory',
    nextTick: 'lost',
    add: async (app, { max }) => await addFastifyRateLimit(app, max)
  },
  'fastify-redis': {
    label: '@fastify/rate-limit',
    store: 'Redis',
    add: async (app, { max, redisPort }) => await addFastifyRateLimit(app, max, clientOf(app, redisPort))
  },
  'flexible-memory': {
    label: 'rate-limiter-flexible',
    store: 'memory',
    add: async (app, { max }) => addFlexible(app, new RateLimiterMemory({ points: max, duration: windowSeconds }), max)
  },
  'flexible-redis': {
    label: 'rate-limiter-flexible',
    store: 'Redis',
    add: async (app, { max, redisPort }) => addFlexible(
      app,
      new RateLimiterRedis({ points: max, duration: windowSeconds, storeClient: clientOf(app, redisPort) }),
      max
    )
  },
  'guard-memory': { label: 'fastify-redis-guard, with metrics', store: 'memory', add: guard({}, false) },
  'guard-fixed-window': {
    label: 'fastify-redis-guard, fixed-window, no metrics',
    store: 'Redis',
    add: guard({ algorithm: 'fixed-window', metrics: false })
  },
  'guard-sliding-window': {
    label: 'fastify-redis-guard, sliding-window, no metrics',
    store: 'Redis',
    add: guard({ algorithm: 'sliding-window', metrics: false })
  },
  'guard-gcra': {
    label: 'fastify-redis-guard, gcra, no metrics',
    store: 'Redis',
    add: guard({ algorithm: 'gcra', metrics: false })
  },
  'guard-everything': { label: 'fastify-redis-guard, with metrics', store: 'Redis', add: guard({}) },
  'guard-three-limits': {
    label: 'fastify-redis-guard, three limits',
    store: 'Redis',
    add: async (app, settings) => await guard({
      max: undefined,
      timeWindow: undefined,
      limits: [
        { name: 'second', max: settings.max, timeWindow: '1s' },
        { name: 'minute', max: settings.max, timeWindow: '1 minute', algorithm: 'gcra' },
        { name: 'day', max: settings.max, timeWindow: '1 day', algorithm: 'fixed-window' }
      ]
    })(app, settings)
  },
  'guard-problem-details': {
    label: 'fastify-redis-guard, with metrics and problemDetails',
    store: 'Redis',
    add: guard({ problemDetails: true })
  },
  'guard-near': {
    label: 'fastify-redis-guard, with metrics, Redis at hand',
    store: 'Redis',
    add: async (app, settings) => await guard({})(app, { ...settings, redisPort: settings.nearRedisPort })
  }
} as const satisfies Readonly<Record<string, Variant>>

export type VariantName = keyof typeof variants

async function addHeadersOnly (app: FastifyInstance, { max }: VariantSettings): Promise<void> {
  app.addHook('onRequest', (request, reply, done) => {
    if (request.ip === '') throw new Error('no address')
    setHeaders(reply, max, max, windowSeconds)
    done()
  })
}

/**
 * The floor for a limiter that refuses by an error, which Fastify's error handlers and `onError` hooks see. It refuses
 * what the guard would: the blocked addresses, or each request where no address is blocked.
 */
async function refuse (app: FastifyInstance, { max, blocks }: VariantSettings): Promise<void> {
  app.addHook('onRequest', (request, reply, done) => {
    const { ip } = request
    if (blocks && !ip.startsWith(blockedPrefix)) {
      setHeaders(reply, max, max, windowSeconds)
      return done()
    }
    setHeaders(reply, 0, 0, windowSeconds)
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    const error = Object.assign(new Error('Rate limit exceeded'), { statusCode: 429 })
    Error.stackTraceLimit = stackTraceLimit
    done(error)
  })
}

/** The floor for a limiter that asks Redis about each request: it counts and decides nothing. */
function addBareCounter (
  app: FastifyInstance, max: number, port: number, count: (client: Redis, key: string) => Promise<number>
): void {
  const client = clientOf(app, port, true)
  app.addHook('onRequest', async (request, reply) => {
    setHeaders(reply, max, max - await count(client, `bare:${request.ip}`), windowSeconds)
  })
}

async function addFastifyRateLimit (app: FastifyInstance, max: number, redis?: Redis): Promise<void> {
  // By a name that the compiler does not follow: its types and ours declare the same `config.rateLimit`.
  const name: string = '@fastify/rate-limit'
  type Options = { max: number, timeWindow: number, redis: Redis | undefined }
  const { default: plugin } = await import(name) as { default: FastifyPluginCallback<Options> }
  await app.register(plugin, { max, timeWindow: windowSeconds * 1000, redis })
}

/** The hook that rate-limiter-flexible's manual shows, with the headers that the others send. */
function addFlexible (app: FastifyInstance, limiter: RateLimiterMemory | RateLimiterRedis, max: number): void {
  app.addHook('onRequest', async (request, reply) => {
    try {
      const { remainingPoints, msBeforeNext } = await limiter.consume(request.ip)
      setHeaders(reply, max, remainingPoints, Math.ceil(msBeforeNext / 1000))
    } catch (refusal) {
      if (!(refusal instanceof RateLimiterRes)) throw refusal
      const seconds = Math.ceil(refusal.msBeforeNext / 1000)
      setHeaders(reply, max, 0, seconds)
      await reply
        .code(429)
        .header('retry-after', seconds)
        .send({ statusCode: 429, error: 'Too Many Requests', message: 'Rate limit exceeded' })
    }
  })
}

function guard (options: RedisGuardOptions, isShared = true): Variant['add'] {
  return async (app, { max, redisPort }) => {
    const redis = isShared ? `redis://127.0.0.1:${redisPort}` : false
    await app.register(redisGuard, { max, timeWindow: windowSeconds * 1000, redis, ...options })
    if (isShared && app.redisGuard.status.store !== 'redis') {
      throw new Error(`the guard did not reach Redis: ${app.redisGuard.status.reason}`)
    }
  }
}

function clientOf (app: FastifyInstance, port: number, enableAutoPipelining = false): Redis {
  const client = new Redis({ host: '127.0.0.1', port, enableAutoPipelining })
  app.addHook('onClose', () => client.disconnect())
  return client
}

function setHeaders (reply: FastifyReply, max: number, remaining: number, resetSeconds: number): void {
  reply
    .header('x-ratelimit-limit', max)
    .header('x-ratelimit-remaining', remaining)
    .header('x-ratelimit-reset', resetSeconds)
}
