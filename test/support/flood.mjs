/**
 * An instance that floods itself, in its own process, from the built package:
 *
 *   node --max-old-space-size=64 test/support/flood.mjs '{ "maxJournal": 2000 }' '{ "requests": 6000 }'
 *
 * It refuses requests of new clients, sets new values, and prints the size of its journal. The second argument may set
 * the number of requests and the size of a value.
 */
import { setTimeout } from 'node:timers/promises'
import Fastify from 'fastify'
import redisGuard from 'fastify-redis-guard'

const app = Fastify()
await app.register(redisGuard, JSON.parse(process.argv[2]))
app.get('/', async () => 'ok')
const { requests = 60_000, valueBytes = 2000 } = JSON.parse(process.argv[3] ?? '{}')
let most = 0
for (let i = 0; i < requests; i++) {
  await app.inject({ url: '/', remoteAddress: `198.${i >> 16}.${(i >> 8) & 255}.${i & 255}` })
  await app.redisGuard.set(`key-${i}`, `${i} `.padEnd(valueBytes, 'x'))
  if (i % 200 !== 0) continue
  const [, entries] = /^redis_guard_journal_entries (\d+)$/m.exec((await app.inject('/metrics')).payload)
  most = Math.max(most, Number(entries))
  // Answers without Redis leave its connection no turn of the event loop.
  await setTimeout(2)
}
console.log(`store ${app.redisGuard.status.store}, at most ${most} entries`)
await app.close()
