/**
 * A service that is bundled with the built package and all its dependencies. It limits requests on memory, then on the
 * Redis whose URL is its argument. Each time it prints the store that answered and the statuses.
 */
import Fastify from 'fastify'
import redisGuard from '../../dist/lib/index.js'

async function serve (redis) {
  const app = Fastify()
  // Long enough for Redis to answer on a busy machine.
  const times = { connectTimeout: 60_000, commandTimeout: 60_000 }
  await app.register(redisGuard, { redis, max: 2, timeWindow: '1 hour', ...times })
  app.get('/', async () => 'served')
  const statuses = []
  for (let i = 0; i < 3; i++) statuses.push((await app.inject('/')).statusCode)
  console.log(app.redisGuard.status.store, ...statuses)
  await app.close()
}

async function main () {
  await serve(false)
  await serve(process.argv[2])
}

main()
