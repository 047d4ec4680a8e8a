/** The guard in shadow beside @fastify/rate-limit, as docs/migration.md shows it. */
import Fastify, { type FastifyPluginAsync } from 'fastify'
import t from 'tap'
import redisGuard from '../../lib/index.js'

// By a name that the compiler does not see: the types of that package would narrow ours in every test.
const theirs: string = '@fastify/rate-limit'
type RateLimit = FastifyPluginAsync<{ max: number, timeWindow: string }>
const { default: rateLimit } = await import(theirs) as { default: RateLimit }

t.test('@fastify/rate-limit decides and sends the headers, the guard counts every request', async t => {
  const app = Fastify()
  t.teardown(async () => await app.close())
  await app.register(redisGuard, { redis: false, max: 2, timeWindow: '1 hour', shadow: true })
  await app.register(rateLimit, { max: 3, timeWindow: '1 hour' })
  app.get('/', async () => 'ok')
  app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'ok')

  const asked: Array<readonly [number, unknown]> = []
  for (const url of ['/', '/', '/', '/', '/own', '/own']) {
    const { statusCode, headers } = await app.inject(url)
    asked.push([statusCode, headers['x-ratelimit-remaining']])
  }
  t.same(asked, [[200, '2'], [200, '1'], [200, '0'], [429, '0'], [200, '0'], [429, '0']])

  const { payload } = await app.inject('/metrics')
  t.same(payload.split('\n').filter(line => line.startsWith('redis_guard_decisions_total')), [
    'redis_guard_decisions_total{limit="global",outcome="allowed",source="memory"} 2',
    'redis_guard_decisions_total{limit="global",outcome="shadowed",source="memory"} 2',
    'redis_guard_decisions_total{limit="GET:/own",outcome="allowed",source="memory"} 1',
    'redis_guard_decisions_total{limit="GET:/own",outcome="shadowed",source="memory"} 1'
  ])
})
