/**
 * A service that is bundled with the built package and all its dependencies.
 * It limits on memory, then on the Redis whose URL is its argument, and prints
 * each time which store answered and what the answers were.
 */
import Fastify from 'fastify'
import redisGuard from '../../dist/lib/index.js'

async function serve (redis) {
  const app = Fastify()
  // On a busy machine Redis needs its time, too.
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
