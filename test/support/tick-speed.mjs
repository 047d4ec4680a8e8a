/**
 * Prints how many times slower process.nextTick is after full garbage collections than in the fresh process, with the
 * guard registered. Run with --expose-gc. The argument is the module of the guard.
 */
import { setTimeout } from 'node:timers/promises'

const fresh = await fastest()
const { default: Fastify } = await import('fastify')
const app = Fastify()
const { default: redisGuard } = await import(process.argv[2])
await app.register(redisGuard, { redis: false, metrics: false })
await app.ready()

for (let i = 0; i < 4; i++) {
  globalThis.gc()
  await setTimeout(10)
}
console.log((await fastest()) / fresh)
await app.close()

// ns of one call, in the fastest of many rounds: a busy machine slows down most of them.
async function fastest () {
  const noop = () => {}
  let least = Infinity
  for (let round = 0; round < 20; round++) {
    const from = process.hrtime.bigint()
    for (let i = 0; i < 20_000; i++) process.nextTick(noop)
    least = Math.min(least, Number(process.hrtime.bigint() - from) / 20_000)
    await setTimeout(0)
  }
  return least
}
