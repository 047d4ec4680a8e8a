/**
 * Starts services with one environment after the other, from the built package, in one process:
 *
 *   NODE_EXTRA_CA_CERTS=ca.pem node test/support/environments.mjs '[{ "REDIS_URL": "rediss://localhost" }]'
 *
 * Prints the store that each of them uses, and the status of GET /.
 */
import Fastify from 'fastify'
import redisGuard from 'fastify-redis-guard'

const own = { ...process.env }
const answers = []
for (const variables of JSON.parse(process.argv[2])) {
  process.env = { ...own, ...variables }
  const app = Fastify()
  // Long enough that a busy machine is no outage.
  await app.register(redisGuard, { commandTimeout: 10_000 })
  app.get('/', async () => 'ok')
  const { statusCode } = await app.inject('/')
  answers.push([app.redisGuard.status.store, statusCode])
  await app.close()
}
console.log(`answers ${JSON.stringify(answers)}`)
