/**
 * One instance of a service, as a process of its own, from the built package:
 *
 *   node test/support/instance.mjs '{ "max": 100 }'
 *
 * Prints its port. GET / is limited by the given options.
 */
import Fastify from 'fastify'
import redisGuard from 'fastify-redis-guard'

const app = Fastify({ trustProxy: ['127.0.0.1'] })
await app.register(redisGuard, JSON.parse(process.argv[2]))
app.get('/', async () => 'ok')
await app.listen({ port: 0, host: '127.0.0.1' })
console.log(`port ${app.server.address().port}, store ${app.redisGuard.status.store}`)
process.once('SIGTERM', () => { app.close() })
