/** Limits are exact to the request, however many processes count at once. */
import t from 'tap'
import { algorithms } from '../lib/rules/algorithms.js'
import { guardedApp } from './support/app.js'
import { Instance } from './support/instance.js'
import { RedisServer } from '../tools/redis-server.js'

t.setTimeout(300_000)

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

/** Windows that do not end during a test, and timeouts that a busy machine meets. */
const options = { redis: server.url, timeWindow: '1 hour', connectTimeout: 60_000, commandTimeout: 60_000 }

/** One route for each algorithm, beside `/` with a limit of 2. */
const routes = Object.fromEntries(algorithms.map(algorithm => [`/${algorithm}`, { algorithm, max: 100 }]))
const start = async () => {
  const instance = await Instance.start({ ...options, nameSpace: 'processes:', max: 2 }, {}, routes)
  t.teardown(async () => await instance.stop())
  return instance
}
const instances = await Promise.all(Array.from({ length: 4 }, start))

t.test('all 4 processes count in Redis', async t => {
  t.same(instances.map(({ store }) => store), ['redis', 'redis', 'redis', 'redis'])
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: of 1,000 concurrent requests through 4 processes exactly 100 pass`, async t => {
    const statuses =
      await Promise.all(Array.from({ length: 1000 }, async (_, i) => await instances[i % 4]!.get({}, `/${algorithm}`)))
    t.equal(statuses.filter(status => status === 200).length, 100)
    t.equal(statuses.filter(status => status === 429).length, 900)
  })
}

t.test('limits survive the restart of an instance', async t => {
  t.equal(await instances[0]!.get(), 200)
  await Promise.all(instances.map(async instance => await instance.stop()))
  const next = await start()
  t.equal(next.store, 'redis')
  t.same([await next.get(), await next.get()], [200, 429], 'it continues the count')
  for (const algorithm of algorithms) t.equal(await next.get({}, `/${algorithm}`), 429, algorithm)
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: of 1,000 requests in one turn of the event loop exactly the first 100 pass`, async t => {
    const app = await guardedApp(t, { ...options, nameSpace: `batch:${algorithm}:`, algorithm, max: 100 })
    app.get('/', async () => 'ok')
    await app.ready()
    const answers = await Promise.all(Array.from({ length: 1000 }, async () => await app.inject('/')))
    t.same(answers.map(({ statusCode }) => statusCode), [
      ...Array<number>(100).fill(200),
      ...Array<number>(900).fill(429)
    ])
    t.same(
      answers.slice(0, 100).map(({ headers }) => headers['x-ratelimit-remaining']),
      Array.from({ length: 100 }, (_, i) => String(99 - i))
    )
    t.equal(app.redisGuard.status.store, 'redis')
  })
}
