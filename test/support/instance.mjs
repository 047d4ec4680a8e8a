/**
 * One instance of a service, as a process of its own, from the built package:
 *
 *   node test/support/instance.mjs '{ "max": 100 }' '{ "/gcra": { "algorithm": "gcra" } }'
 *
 * Prints its port. GET / is limited by the given options, other paths by limits of their own.
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
