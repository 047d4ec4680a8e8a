/** Thousands of calls at once neither take Redis for gone nor keep requests waiting: on a real Redis. */
import t from 'tap'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../support/redis-server.js'

const server = await RedisServer.start()
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await server.stop()
})

const many = 5000
const ip = (i: number) => `10.0.${i >> 8}.${i & 255}`

t.test('thousands of calls at once are all answered by Redis, and so are the requests between them', async t => {
  const app = await guardedApp(t, { redis: server.url, max: 1_000_000, commandTimeout: 500 })
  app.get('/', async () => 'ok')
  await app.ready()
  const { redisGuard } = app
  let switches = 0
  redisGuard.on('switch', () => { switches++ })
  const kinds: Readonly<Record<string, (i: number) => Promise<unknown>>> = {
    blockIP: async i => await redisGuard.blockIP(ip(i), 600),
    unblockIP: async i => await redisGuard.unblockIP(ip(i)),
    incr: async i => await redisGuard.incr(`key ${i}`),
    'limits.reset': async i => await redisGuard.limits.reset({ key: ip(i) })
  }
  for (const [name, call] of Object.entries(kinds)) {
    const progress = { isOver: false }
    let requests = 0
    const calls = Promise.all(Array.from({ length: many }, async (_, i) => await call(i))).finally(() => { progress.isOver = true })
    while (!progress.isOver) {
      const { statusCode } = await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
      if (statusCode !== 200) t.fail(`${name}: ${statusCode}`)
      requests++
    }
    const answers = await calls
    t.ok(requests > 2, `${name}: ${requests} requests were answered meanwhile`)
    if (name === 'blockIP') t.equal(await observer.hlen('guard:{blocks}'), many)
    if (name === 'unblockIP') t.same([answers.every(Boolean), await observer.hlen('guard:{blocks}')], [true, 0])
    if (name === 'incr') t.ok(answers.every(sum => sum === 1))
  }
  t.equal(switches, 0)
  t.notMatch((await app.inject('/metrics')).payload, /redis_guard_errors_total\{kind="timeout"\} [1-9]/)
})
