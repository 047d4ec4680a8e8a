/** A logger that throws, such as one whose mixin needs an AsyncLocalStorage store where there is none. */
import Fastify, { type FastifyBaseLogger } from 'fastify'
import t from 'tap'
import redisGuard from '../../lib/index.js'
import { safeLog } from '../../lib/observers/safe-log.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const levels = ['debug', 'info', 'warn', 'error'] as const

t.test('calls a logger unchanged, on each level', async t => {
  const lines: unknown[] = []
  const logger = Object.fromEntries(levels.map(level => [level, function (this: unknown, ...line: unknown[]) {
    lines.push([level, this === logger, ...line])
  }]))
  const log = safeLog(logger as unknown as FastifyBaseLogger)
  for (const level of levels) log[level]({ some: 'details' }, 'a message')
  log.info('a message alone')
  const eachLevel = levels.map(level => [level, true, { some: 'details' }, 'a message'])
  t.same(lines, [...eachLevel, ['info', true, 'a message alone']])
})

t.test('a logger that throws loses its lines, but fails no request and no switch of the store', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  let thrown = 0
  // Fastify's own lines do not throw here: Fastify would not catch that.
  const write = (line: unknown, message?: string) => {
    const text = message ?? line
    if (typeof text !== 'string' || /^(incoming request|request completed|Server listening)/.test(text)) return
    thrown++
    throw new Error('the mixin had no store')
  }
  const methods = Object.fromEntries([...levels, 'fatal', 'trace', 'silent'].map(level => [level, write]))
  const logger = { level: 'debug', ...methods, child: () => logger } as unknown as FastifyBaseLogger
  const app = Fastify({ loggerInstance: logger })
  t.teardown(async () => await app.close())
  const times = { timeWindow: '1 hour', connectTimeout: 60_000, commandTimeout: 60_000, resetTimeout: 50 }
  await app.register(redisGuard, { redis: server.url, max: 2, ...times })
  app.redisGuard.on('switch', () => { throw new Error('not today') })
  app.get('/', async () => 'ok')
  const fail = () => { throw new Error('not today') }
  app.get('/callback', { config: { rateLimit: { onExceeding: async () => fail() } } }, async () => 'ok')
  app.get('/count', { config: { rateLimit: { countWhen: fail } } }, async () => 'ok')
  const builder = () => undefined as never
  app.get('/builder', { config: { rateLimit: { max: 0, errorResponseBuilder: builder } } }, async () => 'ok')
  const statuses = async () => {
    const all: number[] = []
    for (const url of ['/', '/callback', '/count', '/builder']) all.push((await app.inject(url)).statusCode)
    return all
  }
  t.same(await statuses(), [200, 200, 200, 429])
  await server.kill()
  await until(() => app.redisGuard.status.store === 'memory')
  t.same(await statuses(), [200, 200, 200, 429])
  await server.restart()
  await until(() => app.redisGuard.status.store === 'redis')
  t.same(await statuses(), [429, 429, 429, 429])
  t.ok(thrown > 10, `${thrown} lines`)
})
