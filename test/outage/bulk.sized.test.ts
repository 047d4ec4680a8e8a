/** Thousands of concurrent calls on a real Redis: they cause no outage, and delay no request. */
import type { Redis } from 'ioredis'
import t from 'tap'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { size } from '../support/size.js'

const server = await RedisServer.start()
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await server.stop()
})

const many = size(1500, 5000)
/** Commands under way at once: two for each call that a queue sends, and those of the requests in between. */
const mostAtOnce = 600
const ip = (i: number) => `10.0.${i >> 8}.${i & 255}`

/** Counts the commands of a client that wait for their answers. */
function watch (client: Redis): { underWay: number, most: number } {
  const commands = { underWay: 0, most: 0 }
  const send = client.sendCommand.bind(client)
  client.sendCommand = (command, stream) => {
    commands.most = Math.max(commands.most, ++commands.underWay)
    command.promise.catch(() => {}).finally(() => { commands.underWay-- })
    return send(command, stream)
  }
  return commands
}

t.test('Redis answers thousands of concurrent calls, and the requests between them', async t => {
  const client = server.client()
  t.teardown(() => client.disconnect())
  const commands = watch(client)
  // The timeout is long: this test is about the number of commands under way, which makes answers slow.
  const app = await guardedApp(t, { redis: client, max: 1_000_000, commandTimeout: 30_000 })
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
    commands.most = 0
    const calls = Promise.all(Array.from({ length: many }, async (_, i) => await call(i)))
      .finally(() => { progress.isOver = true })
    while (!progress.isOver) {
      const { statusCode } = await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
      if (statusCode !== 200) t.fail(`${name}: ${statusCode}`)
      if (!progress.isOver) requests++
    }
    const answers = await calls
    t.ok(requests > 0, `${name}: ${requests} requests were answered meanwhile`)
    t.ok(commands.most <= mostAtOnce, `${name}: ${commands.most} commands at once`)
    if (name === 'blockIP') t.equal(await observer.hlen('guard:{blocks}'), many)
    if (name === 'unblockIP') t.same([answers.every(Boolean), await observer.hlen('guard:{blocks}')], [true, 0])
    if (name === 'incr') t.ok(answers.every(sum => sum === 1))
  }
  t.equal(switches, 0)
  t.notMatch((await app.inject('/metrics')).payload, /redis_guard_errors_total\{kind="timeout"\} [1-9]/)
})
