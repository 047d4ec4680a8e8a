/**
 * One instance of a service, in its own process, from the built package:
 *
 *   node test/support/instance.mjs '{ "max": 100 }' '{ "/gcra": { "algorithm": "gcra" } }'
 *
 * Prints its port. The options limit GET /; other paths have their own limits.
 */
import Fastify from 'fastify'
import redisGuard from 'fastify-redis-guard'

const [options, routes = '{}'] = process.argv.slice(2)
const app = Fastify({ trustProxy: ['127.0.0.1'] })
await app.register(redisGuard, JSON.parse(options))
app.get('/', async () => 'ok')
for (const [path, rateLimit] of Object.entries(JSON.parse(routes))) {
  app.get(path, { config: { rateLimit } }, async () => 'ok')
}
await app.listen({ port: 0, host: '127.0.0.1' })
console.log(`port ${app.server.address().port}, store ${app.redisGuard.status.store}`)
process.once('SIGTERM', () => { app.close() })
