/** Foreign values under the keys of the guard neither stop the use of Redis nor hide the guard's own entries. */
import type { FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { algorithms } from '../../../lib/rules/algorithms.js'
import { Keys } from '../../../lib/store/keys.js'
import { parseNetwork } from '../../../lib/addresses/address.js'
import { guardedApp, logTo } from '../../support/app.js'
import { RedisServer } from '../../../tools/redis-server.js'
import { isFull } from '../../support/size.js'
import { TcpProxy } from '../../../tools/tcp-proxy.js'
import { until } from '../../../tools/until.js'

const server = await RedisServer.start()
const proxy = await TcpProxy.start(server.port)
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await proxy.stop()
  await server.stop()
})

const keys = new Keys('guard:')

/** Every type of Redis, and texts that a careless reader takes for a number or an object. */
const values: Readonly<Record<string, (client: Redis, key: string) => Promise<unknown>>> = {
  'an empty string': async (client, key) => await client.set(key, ''),
  'the string 7': async (client, key) => await client.set(key, '7'),
  'the string {}': async (client, key) => await client.set(key, '{}'),
  'the string inf': async (client, key) => await client.set(key, 'inf'),
  'a number beyond 2^53': async (client, key) => await client.set(key, '9223372036854775807'),
  bytes: async (client, key) => await client.set(key, Buffer.from([0xff, 0, 0xfe, 0x0a])),
  'a list': async (client, key) => await client.rpush(key, '7', '{}'),
  'a set': async (client, key) => await client.sadd(key, '7', '{}'),
  'a hash': async (client, key) =>
    await client.hset(key, { used: '{}', '192.0.2.200': '7', '192.0.2.201': '{}', '192.0.2.202': 'null', x: '' }),
  'a sorted set': async (client, key) =>
    await client.zadd(key, 'inf', '7', '-inf', '{}', '1.5', '192.0.2.200', 'inf', '192.0.2.201', '3', 'no address'),
  'a stream': async (client, key) => await client.xadd(key, '*', 'sequence', '{}'),
  'a stream that takes no more': async (client, key) =>
    await client.xadd(key, '18446744073709551615-18446744073709551615', 'ip', '')
}

/**
 * Adds to the existing value if it has the type, otherwise replaces it. The rename is atomic: a write of the guard in
 * between would get in the way.
 */
async function replace (key: string, put: typeof values[string]): Promise<void> {
  await put(observer, 'foreign')
  const isSame = await observer.type(key) === await observer.type('foreign')
  // A full stream accepts none of these entries either.
  const isAdded = isSame && await put(observer, key).then(() => true, () => false)
  if (!isAdded) await observer.rename('foreign', key)
  await observer.del('foreign')
}

/** The keys of each member of Keys, for this instance and these clients. */
const named: Readonly<Record<string, (instance: string) => readonly string[]>> = {
  blocks: () => [keys.blocks],
  blockExpiry: () => [keys.blockExpiry],
  blockChanges: () => [keys.blockChanges],
  blockSequence: () => [keys.blockSequence],
  blocksLifted: () => [keys.blocksLifted],
  instances: () => [keys.instances],
  epoch: () => [keys.epoch],
  events: () => [keys.events],
  suspects: () => [keys.suspects],
  probe: () => [keys.probe],
  // They find keys that newCounter has built.
  counter: () => [],
  place: () => [],
  newCounter: () => algorithms.map(algorithm => keys.newCounter(algorithm, `GET:/${algorithm}`, '192.0.2.1')),
  batch: instance => [keys.batch(instance)],
  fence: instance => [keys.fence(instance)],
  replayed: instance => [
    ...['counters-1', 'values-1', 'values-2', 'known-1'].map(id => keys.replayed(undefined, `${instance}:${id}`)),
    keys.replayed(keys.events, `${instance}:events-1`)
  ],
  restored: () =>
    algorithms.map(algorithm => keys.restored(keys.newCounter(algorithm, `GET:/${algorithm}`, '192.0.2.1'))),
  value: () => ['sum', 'redis-guard:limits', 'redis-guard:limit:global'].map(key => keys.value(key)),
  written: () => [keys.written('sum')]
}

t.test('this file tests each key that the guard uses', async t => {
  const names = [...Object.keys(keys), ...Object.getOwnPropertyNames(Keys.prototype)]
  const members = names.filter(name => name !== 'constructor')
  t.same(members.sort(), Object.keys(named).sort())
})

interface Running {
  readonly app: FastifyInstance
  readonly lines: Record<string, unknown>[]
}

async function start (t: Test): Promise<Running> {
  const lines: Record<string, unknown>[] = []
  // An outage here is a closed connection, so no timeout has to be short.
  const times = { syncInterval: 10, resetTimeout: 50, commandTimeout: 10_000, connectTimeout: 10_000 }
  const app = await guardedApp(t, { redis: { port: proxy.port }, max: 1000, ...times }, logTo(lines))
  for (const algorithm of algorithms) {
    app.get(`/${algorithm}`, { config: { rateLimit: { algorithm, max: 2, timeWindow: '1 hour' } } }, async () => 'ok')
  }
  app.get('/', async () => 'ok')
  await app.ready()
  return { app, lines }
}

const usesRedis = (app: FastifyInstance) => () => app.redisGuard.status.store === 'redis'
const statusOf = async (app: FastifyInstance, url: string, remoteAddress: string) =>
  (await app.inject({ url, remoteAddress })).statusCode

let clients = 0
const nextClient = () => `198.51.${++clients >> 8}.${clients & 255}`

/** Does everything that the guard does with its keys, and expects the same results as without foreign values. */
async function use (t: Test, app: FastifyInstance, what: string): Promise<void> {
  const { redisGuard } = app
  const [client, blocked] = [nextClient(), nextClient()]
  for (const algorithm of ['fixed-window', 'sliding-window', 'gcra']) {
    const statuses = [
      await statusOf(app, `/${algorithm}`, client),
      await statusOf(app, `/${algorithm}`, client),
      await statusOf(app, `/${algorithm}`, client)
    ]
    t.same(statuses, [200, 200, 429], `${what}: a new client's quota, ${algorithm}`)
    t.ok(
      [200, 429].includes(await statusOf(app, `/${algorithm}`, '192.0.2.1')),
      `${what}: a client whose counter may be foreign`
    )
  }
  await redisGuard.blockIP(blocked, 60, { reason: 'a reason' })
  t.equal(await statusOf(app, '/', blocked), 403, `${what}: blocked`)
  t.equal(await redisGuard.isIPBlocked(blocked), true, `${what}: isIPBlocked`)
  const blocks = await redisGuard.getBlockedIPs()
  t.match(blocks.find(({ ip }) => ip === blocked), { reason: 'a reason', origin: 'api' }, `${what}: getBlockedIPs`)
  const isWhole = ({ ip, reason, origin, blockedAtMs, expiresAtMs }: typeof blocks[number]) =>
    parseNetwork(ip)?.text === ip && typeof reason === 'string' && typeof origin === 'string' &&
    blockedAtMs > 0 && expiresAtMs > blockedAtMs
  t.ok(blocks.every(isWhole), `${what}: nothing else`)
  t.equal(await redisGuard.unblockIP(blocked), true, `${what}: unblockIP`)
  // A look for changes that was under way may bring the block back once.
  await until(async () => await statusOf(app, '/', blocked) === 200)

  await redisGuard.logRateLimitEvent({ ip: client, route: '/own', count: 1000 })
  // While an instance replays to Redis, it reads from memory.
  await until(usesRedis(app))
  const [latest] = await redisGuard.getRateLimitEvents(1)
  t.match(latest, { ip: client, route: '/own', count: 1000 }, `${what}: getRateLimitEvents`)
  const [suspect] = await redisGuard.getSuspiciousIPs(1)
  t.ok(parseNetwork(suspect?.ip) !== undefined && suspect!.count >= 1000, `${what}: getSuspiciousIPs`)
  t.equal(typeof await redisGuard.clearOldRateLimitEvents(3_600_000), 'number', `${what}: clearOldRateLimitEvents`)

  await redisGuard.limits.set('global', { max: 900, timeWindow: 1000 })
  t.match(
    await redisGuard.limits.peek(client),
    [{ name: 'global', max: 900 }, { name: 'GET:/fixed-window', remaining: 0 }, {}, {}],
    `${what}: limits.peek`
  )
  t.equal(await redisGuard.limits.reset('global'), true, `${what}: limits.reset`)
  t.equal(await redisGuard.limits.reset(client), true, `${what}: limits.reset of a client`)

  await redisGuard.set('own', 1)
  t.equal(await redisGuard.incr('own'), 2, `${what}: incr`)
  const read = await redisGuard.get('sum').catch((error: unknown) => error)
  t.ok(
    read === null || typeof read === 'string' || (read as { code?: string }).code === 'GUARD_ERR_VALUE',
    `${what}: get of a foreign value`
  )
}

/** Closes the connection to Redis, counts, blocks and sets something in the outage, and expects its replay. */
async function outage (t: Test, app: FastifyInstance, what: string): Promise<void> {
  proxy.cut()
  await until(() => !usesRedis(app)())
  const blocked = nextClient()
  await statusOf(app, '/fixed-window', '192.0.2.1')
  await app.redisGuard.incr('sum').catch(() => {})
  await app.redisGuard.set('set', what)
  await app.redisGuard.blockIP(blocked, 60)
  await until(usesRedis(app))
  t.equal(await observer.hexists(keys.blocks, blocked), 1, `${what}: the block is in Redis after the outage`)
  t.equal(await observer.get(keys.value('set')), what, `${what}: the value is in Redis after the outage`)
  await app.redisGuard.unblockIP(blocked)
}

async function instanceOf (): Promise<string> {
  const [key] = await observer.keys('guard:batch:*')
  return key!.replace('guard:batch:', '').replace(':fence', '')
}

const isForeign = ({ code }: Record<string, unknown>) => code === 'GUARD_WARN_FOREIGN_VALUE'

for (const [i, [member, keysOf]] of Object.entries(named).entries()) {
  // The small size uses every other value, alternating, so that each value meets every other member.
  const some = Object.entries(values).filter((_, j) => isFull || (i + j) % 2 === 0)
  t.test(`${member}: foreign values that arrive during use change no result`, async t => {
    await observer.flushall()
    const { app, lines } = await start(t)
    t.ok(usesRedis(app)())
    await app.redisGuard.blockIP('192.0.2.66', Infinity, { reason: 'before' })
    const instance = await instanceOf()
    // A foreign number could be smaller than the instance's own: bring its own beyond all of them.
    for (let i = 0; i < 10; i++) await app.redisGuard.logRateLimitEvent({ ip: '192.0.2.9' })
    for (const [name, put] of some) {
      const what = `${member}, ${name}`
      for (const key of keysOf(instance)) await replace(key, put)
      lines.length = 0
      await use(t, app, what)
      t.equal(await statusOf(app, '/', '192.0.2.66'), 403, `${what}: a block from before is in force`)
      await until(usesRedis(app))
      for (const key of keysOf(instance)) await replace(key, put)
      await outage(t, app, what)
      t.equal(await statusOf(app, '/', '192.0.2.66'), 403, `${what}: a block from before is in force after an outage`)
      await until(async () => await observer.hexists(keys.blocks, '192.0.2.66') === 1)
      // One line of the outage, and one of a foreign value, or of data that Redis lost.
      const others = lines.filter(({ msg }) => !/^Redis is (away, memory answers|still away)/.test(String(msg)))
      t.ok(others.length <= 3, what, { lines })
      t.same(lines.filter(({ level }) => (level as number) > 40), [], `${what}: no error is logged`)
    }
  })
}

t.test('foreign values that are there before the guard starts change no result', async t => {
  for (const [name, put] of Object.entries(values)) {
    await observer.flushall()
    for (const key of Object.values(named).flatMap(keysOf => keysOf('another'))) await replace(key, put)
    const { app, lines } = await start(t)
    await until(usesRedis(app))
    await use(t, app, name)
    await outage(t, app, name)
    const reported = lines.filter(isForeign).map(({ msg }) => msg)
    t.equal(new Set(reported).size, reported.length, `${name}: each value is reported once`, { reported })
    await app.close()
  }
})

t.test("foreign entries between the guard's own are skipped, and its own are all there", async t => {
  await observer.flushall()
  const { app, lines } = await start(t)
  const { redisGuard } = app
  await redisGuard.blockIP('192.0.2.66', 60)
  await observer.hset(keys.blocks, {
    '192.0.2.1': '{}',
    '192.0.2.2': '7',
    '192.0.2.3': '{"blockedAtMs":1,"reason":7,"origin":""}',
    '192.0.2.4': '{"blockedAtMs":"1","reason":"","origin":""}',
    '192.0.2.5': '{"blockedAtMs":1,"reason":"","origin":"","expiresAtMs":"never"}',
    '192.0.2.6': '{"blockedAtMs":-1,"reason":"","origin":""}',
    'no address': 'x'
  })
  await observer.zadd(keys.suspects, 'inf', 'no address', 'inf', '192.0.2.1', '0.5', '192.0.2.2')
  for (let i = 0; i < 5; i++) {
    await observer.xadd(keys.events, '*', 'a', 'b')
    await redisGuard.logRateLimitEvent({ ip: '192.0.2.9', route: `/${i}` })
    for (const event of [
      '7', 'null', '{}', 'x', '{"type":"limited","count":"1","atMs":1}', '{"type":"limited","count":1,"atMs":1,"ip":7}'
    ]) {
      await observer.xadd(keys.events, '*', 'ip', '', 'count', '1', 'atMs', '1', 'event', event)
    }
  }
  const other = await start(t)
  t.same((await other.app.redisGuard.getBlockedIPs()).map(({ ip }) => ip), ['192.0.2.66'])
  t.same((await redisGuard.getRateLimitEvents(4)).map(({ route }) => route), ['/4', '/3', '/2', '/1'])
  t.same((await redisGuard.getRateLimitEvents()).map(({ route }) => route), ['/4', '/3', '/2', '/1', '/0'])
  t.same(await redisGuard.getSuspiciousIPs(2), [{ ip: '192.0.2.9', count: 5 }])
  // A count that is not a whole number starts again with the next event of its address.
  await redisGuard.logRateLimitEvent({ ip: '192.0.2.2' })
  await redisGuard.logRateLimitEvent({ ip: '192.0.2.2' })
  t.same((await redisGuard.getSuspiciousIPs()).map(({ ip }) => ip), ['192.0.2.9', '192.0.2.2'])
  // Seven of the guard, and thirty that only their content shows to be foreign.
  t.equal(await redisGuard.clearOldRateLimitEvents(0), 37)
  t.equal(await observer.xlen(keys.events), 0)
  // A refusal is recorded as an event, so it must not come earlier.
  t.same([await statusOf(other.app, '/', '192.0.2.66'), await statusOf(other.app, '/', '192.0.2.3')], [403, 200])
  t.same([...lines, ...other.lines].filter(line => !isForeign(line)), [])
})

t.test('foreign entries at the head of the events do not stop their trimming', async t => {
  await observer.flushall()
  const app = await guardedApp(t, { redis: { port: server.port }, maxEvents: 20 })
  for (let i = 0; i < 30; i++) {
    await observer.xadd(keys.events, '*', ...['a', 'b', 'count', 'x'].slice(0, 2 + 2 * (i % 2)))
  }
  for (let i = 0; i < 40; i++) await app.redisGuard.logRateLimitEvent({ ip: '192.0.2.9' })
  t.equal(await observer.xlen(keys.events), 20)
  t.same(await app.redisGuard.getSuspiciousIPs(), [{ ip: '192.0.2.9', count: 20 }])
})

t.test('clearing old events also deletes old foreign entries, and keeps recent ones', async t => {
  await observer.flushall()
  const app = await guardedApp(t, { redis: { port: server.port } })
  await observer.xadd(keys.events, '1000-0', 'a', 'b')
  await observer.xadd(keys.events, '*', 'a', 'b')
  t.equal(await app.redisGuard.clearOldRateLimitEvents(60_000), 0)
  t.equal(await observer.xlen(keys.events), 1)
})

t.test('times in the future count as no instance, and hold back no block', async t => {
  await observer.flushall()
  const { app } = await start(t)
  await observer.zadd(keys.instances, 'inf', 'nobody', String(Date.now() + 86_400_000), 'tomorrow')
  await until(async () => await observer.zcard(keys.instances) === 1)
  await observer.zadd(keys.blocksLifted, 'inf', '192.0.2.7')
  await observer.hset(keys.blocks, '192.0.2.7', '{"blockedAtMs":99999999999999}')
  await observer.set(keys.written('later'), '99999999999999 another')
  proxy.cut()
  await until(() => !usesRedis(app)())
  await app.redisGuard.blockIP('192.0.2.7', 60)
  await app.redisGuard.set('later', 'set')
  await until(usesRedis(app))
  t.match((await app.redisGuard.getBlockedIPs()).map(({ ip }) => ip), ['192.0.2.7'])
  t.equal(await observer.get(keys.value('later')), 'set')
})

t.test('a foreign value in place of a changed limit is overwritten with the limit, and reported once', async t => {
  await observer.flushall()
  const { app, lines } = await start(t)
  const maxOf = async () =>
    Number((await app.inject({ url: '/', remoteAddress: nextClient() })).headers['x-ratelimit-limit'])
  await app.redisGuard.limits.set('global', { max: 5, timeWindow: 1000 })
  for (const text of ['{}', '7', '', '{"max":-1,"windowMs":1}']) {
    await observer.set(keys.value('redis-guard:limit:global'), text)
    await observer.set(keys.value('redis-guard:limits'), `another ${text}`)
    const written = async () => String(await observer.get(keys.value('redis-guard:limit:global')))
    const right = /^\{"max":5,"windowMs":1000,"atMs":\d+,"reason":"","origin":"api"\}$/
    await until(async () => right.test(await written()))
    t.equal(await maxOf(), 5)
  }
  t.equal(lines.length, 1, 'one line', { lines })
  t.match(lines, [{ code: 'GUARD_WARN_FOREIGN_VALUE', msg: /guard:value:\{redis-guard:limit:global\}/ }])
})
