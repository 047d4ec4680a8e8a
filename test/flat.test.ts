import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { guardedApp } from './support/app.js'
import { randomFrom } from './support/random.js'
import { RedisServer } from './support/redis-server.js'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

/** Enough to fill all that is bounded by 10,000 clients; it is emptied when it is full, so it is as full again after as many. */
const warmUp = 15_000
const period = 10_000

async function inUse (): Promise<{ bytes: number, handles: number }> {
  // What is written behind has been written, and pooled sockets of the test are gone.
  await sleep(600)
  await setImmediate()
  collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return { bytes: heapUsed + arrayBuffers, handles: process.getActiveResourcesInfo().length }
}

t.test('heap and handles stay flat, whoever asks', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const random = randomFrom(seed)
  const anyAddress = () => random.chance(0.7)
    ? `${random.whole(1, 223)}.${random.whole(0, 255)}.${random.whole(0, 255)}.${random.whole(0, 255)}`
    : `2001:db8:${random.whole(0, 65535).toString(16)}:${random.whole(0, 65535).toString(16)}::${random.whole(1, 65535).toString(16)}`
  for (const [name, redis] of [['memory', false], ['Redis', server.url]] as const) {
    for (const max of [1000, 0]) {
      // What is limited is an event as well: so many are kept.
      const app = await guardedApp(t, { redis, max, cache: 1000, maxEvents: 1000 }, { trustProxy: ['127.0.0.1'] })
      app.get('/', async () => 'ok')
      const send = async (count: number) => {
        for (let sent = 0; sent < count; sent += 50) {
          await Promise.all(Array.from({ length: 50 }, async () => await app.inject({ url: '/', headers: { 'x-forwarded-for': anyAddress() } })))
        }
      }
      await send(warmUp)
      const before = await inUse()
      await send(2 * period)
      const then = await inUse()
      await send(period)
      const after = await inUse()
      // The lower of two: what the engine itself keeps comes and goes. A hundred bytes for each request would be 2 MB at least.
      const grown = Math.min(then.bytes, after.bytes) - before.bytes
      t.ok(grown < 1.5e6, `${name}, max ${max}: ${grown} bytes more`)
      t.ok(after.handles <= before.handles + 2, `${name}, max ${max}: ${before.handles} handles, then ${after.handles}`)
      await app.close()
    }
  }
})
