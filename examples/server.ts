/**
 * A small service behind the guard: `npm start`, then the lines that it
 * prints. Without Redis it keeps everything in memory;
 * `REDIS_URL=redis://localhost:6379 REDIS_ENABLED=true npm start` shares it
 * with every other instance that is started like that.
 */
import Fastify from 'fastify'
import redisGuard from 'fastify-redis-guard'

const app = Fastify({
  logger: { level: process.env['LOG_LEVEL'] ?? 'warn' },
  // Only these proxies are believed when they name the client's address in X-Forwarded-For.
  trustProxy: (process.env['TRUST_PROXY'] ?? '127.0.0.0/8,::1').split(',')
})

await app.register(redisGuard, { max: 100, timeWindow: '1 minute' })

app.get('/', async () => ({ hello: 'world' }))

app.post('/login', { config: { rateLimit: { max: 5, timeWindow: '1 minute' } } }, async () => ({ token: 'example' }))

// In a service of your own, let nobody but operators in here.
app.post('/blocks/:ip', async request => {
  return await app.redisGuard.blockIP(Object(request.params).ip, 60, { reason: 'example' })
})
app.get('/blocks', async () => await app.redisGuard.getBlockedIPs())
app.get('/suspects', async () => await app.redisGuard.getSuspiciousIPs(10))
app.get('/status', async () => app.redisGuard.status)

app.redisGuard.on('switch', ({ store, reason }) => {
  console.log(`now on ${store}${reason === undefined ? '' : `: ${reason}`}`)
})

const url = await app.listen({ port: Number(process.env['PORT'] ?? 3000), host: process.env['HOST'] ?? '127.0.0.1' })
const { store, reason } = app.redisGuard.status

console.log(`
fastify-redis-guard example: ${url}
Limits and blocks are kept in ${store === 'redis' ? 'Redis' : `memory (${reason})`}.

  ${url}/          100 requests a minute for each client
  ${url}/login     POST, 5 a minute
  ${url}/blocks    who is blocked
  ${url}/suspects  who was limited often
  ${url}/status    which store answers
  ${url}/metrics   for Prometheus

Try:
  for i in 1 2 3 4 5 6; do curl -si -X POST ${url}/login | grep -iE 'HTTP|ratelimit|retry'; done
  curl -s -X POST ${url}/blocks/203.0.113.7; echo; curl -si -H 'x-forwarded-for: 203.0.113.7' ${url}/; echo
  curl -s ${url}/metrics | grep '^redis_guard_decisions_total'
`)

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => { app.close().then(() => process.exit(0), () => process.exit(1)) })
}
