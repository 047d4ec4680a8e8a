/** Applications whose tests fake timers: Redis keeps deciding, and what memory decides follows the fake clock. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { guardedApp } from '../support/app.js'
import { fakeTimers, type Framework, frameworks } from '../support/fake-timers.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const names = Object.keys(frameworks) as Framework[]

/** Resolves to 'nothing' on the real clock: an answer that waits for a faked timer would never come. */
async function inTime<T> (promise: Promise<T>): Promise<T | 'nothing'> {
  return await Promise.race([promise, sleep(30_000, 'nothing' as const, { ref: false })])
}

async function statusOf (app: FastifyInstance, remoteAddress: string): Promise<number | 'nothing'> {
  const answer = await inTime(app.inject({ url: '/', remoteAddress }))
  return answer === 'nothing' ? answer : answer.statusCode
}

async function service (t: Test, server: RedisServer): Promise<FastifyInstance> {
  const app =
    await guardedApp(t, { redis: server.url, max: 2, timeWindow: '1 hour', commandTimeout: 500, resetTimeout: 50 })
  app.get('/', async () => 'ok')
  await app.ready()
  await until(() => app.redisGuard.status.store === 'redis')
  return app
}

/** Sends two requests that fit the limit, and one that exceeds it. */
async function statuses (app: FastifyInstance, address: string): Promise<(number | 'nothing')[]> {
  return [await statusOf(app, address), await statusOf(app, address), await statusOf(app, address)]
}

for (const framework of names) {
  // Fastify loads no plugin while queueMicrotask is faked.
  for (const isEarly of framework === 'Vitest' ? [true, false] : [false]) {
    const when = isEarly ? 'before the application is built' : 'when the application is ready'
    t.test(`works with the fake timers of ${framework}, from ${when} on`, async t => {
      const server = await RedisServer.start()
      t.teardown(async () => await server.stop())
      if (isEarly) fakeTimers(t, framework)
      const app = await service(t, server)
      if (!isEarly) fakeTimers(t, framework)
      const { redisGuard } = app
      let lastStore: string | undefined
      redisGuard.on('switch', ({ store }) => { lastStore = store })

      t.same(await statuses(app, '192.0.2.1'), [200, 200, 429], 'Redis answers')
      await until(() => redisGuard.status.store === 'redis')

      server.signal('SIGSTOP')
      t.equal(await statusOf(app, '192.0.2.2'), 200, 'a hanging Redis delays no request')
      t.equal(redisGuard.status.store, 'memory')
      t.same(await statuses(app, '192.0.2.3'), [200, 200, 429], 'memory answers')
      t.equal(lastStore, 'memory', 'the switch listener is called')
      server.signal('SIGCONT')
      await until(() => redisGuard.status.store === 'redis')
      t.same(await statuses(app, '192.0.2.4'), [200, 200, 429], 'Redis is back')

      await server.kill()
      await until(() => redisGuard.status.store === 'memory')
      t.same(await statuses(app, '192.0.2.5'), [200, 200, 429])
      await server.restart()
      await until(() => redisGuard.status.store === 'redis')
      t.same(await statuses(app, '192.0.2.6'), [200, 200, 429], 'it reconnects to a restarted Redis')

      server.signal('SIGSTOP')
      t.not(await inTime(app.close()), 'nothing', 'the application closes')
      await until(() => !process.getActiveResourcesInfo().includes('TCPSocketWrap'))
    })
  }

  t.test(`limits and blocks in memory follow the clock of ${framework}`, async t => {
    const app = await guardedApp(t, { max: 1, timeWindow: '1 hour' })
    app.get('/', async () => 'ok')
    await app.ready()
    const clock = fakeTimers(t, framework)
    await app.redisGuard.blockIP('192.0.2.1', 3600)
    const both = async () => [await statusOf(app, '192.0.2.1'), await statusOf(app, '192.0.2.2')]
    t.same([await both(), await both()], [[403, 200], [403, 429]])
    clock.nowMs += 3_599_999
    t.same(await both(), [403, 429])
    clock.nowMs += 1
    t.same(await both(), [200, 200])
  })
}
