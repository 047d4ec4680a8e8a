import t from 'tap'
import { algorithms } from '../lib/rules/rate-limit.js'
import { guardedApp } from './support/app.js'
import { Instance } from './support/instance.js'
import { RedisServer } from './support/redis-server.js'

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

for (const algorithm of algorithms) {
  t.test(`${algorithm}: of 1,000 requests at once through 4 processes exactly 100 pass`, async t => {
    const options = { redis: server.url, nameSpace: `${algorithm}:`, algorithm, max: 100, timeWindow: '1 hour', commandTimeout: 20_000 }
    const instances = await Promise.all(Array.from({ length: 4 }, async () => await Instance.start(options)))
    t.teardown(async () => await Promise.all(instances.map(async instance => await instance.stop())))

    t.same(instances.map(({ store }) => store), ['redis', 'redis', 'redis', 'redis'])

    const statuses = await Promise.all(Array.from({ length: 1000 }, async (_, i) => await instances[i % 4]!.get()))
    t.equal(statuses.filter(status => status === 200).length, 100)
    t.equal(statuses.filter(status => status === 429).length, 900)
  })
}

for (const algorithm of algorithms) {
  t.test(`${algorithm}: of 1,000 requests at one client in one turn of the event loop exactly 100 pass, in the order of their arrival`, async t => {
    const app = await guardedApp(t, { redis: server.url, nameSpace: `batch:${algorithm}:`, algorithm, max: 100, timeWindow: '1 hour', commandTimeout: 20_000 })
    app.get('/', async () => 'ok')
    await app.ready()
    const answers = await Promise.all(Array.from({ length: 1000 }, async () => await app.inject('/')))
    t.same(answers.map(({ statusCode }) => statusCode), [...Array<number>(100).fill(200), ...Array<number>(900).fill(429)])
    t.same(answers.slice(0, 100).map(({ headers }) => headers['x-ratelimit-remaining']), Array.from({ length: 100 }, (_, i) => String(99 - i)))
    t.equal(app.redisGuard.status.store, 'redis')
  })
}

t.test('limits survive the restart of an instance', async t => {
  const options = { redis: server.url, nameSpace: 'restart:', max: 2, timeWindow: '1 hour' }
  for (const expected of [200, 200, 429]) {
    const instance = await Instance.start(options)
    t.equal(await instance.get(), expected)
    await instance.stop()
  }
})
