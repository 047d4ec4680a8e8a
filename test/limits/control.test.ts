/** Limits that change at run time, on several instances and through an outage. */
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { ChangeLog } from '../../lib/observers/change-log.js'
import { LimitControl } from '../../lib/limits/control.js'
import { LimitRegistry } from '../../lib/limits/registry.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { algorithms } from '../../lib/rules/algorithms.js'
import { resolveOptions } from '../../lib/settings/settings.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import { guardedApp, logTo } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// These tests wait most of the time.
t.jobs = 4

/** The parts that these tests do not use. */
const unwatched = {
  changeLog: new ChangeLog(() => {}),
  onAdopted: () => {},
  forget: () => {},
  onForeign: () => {},
  now: Date.now
}

async function appWith (t: Test, options: RedisGuardOptions): Promise<FastifyInstance> {
  const app =
    await guardedApp(t, { max: 10, timeWindow: '1 hour', commandTimeout: 10_000, resetTimeout: 100, ...options })
  const wasUsed = app.redisGuard.status.store === 'redis'
  app.get('/', async () => 'ok')
  app.get('/login', { config: { rateLimit: { max: 3, timeWindow: '1 minute' } } }, async () => 'ok')
  app.get('/computed', { config: { rateLimit: { max: () => 4 } } }, async () => 'ok')
  await app.ready()
  if (options.redis !== undefined && options.redis !== false && !wasUsed) {
    // On a busy machine it is ready before it has read the limits that were set.
    await isUsed(app)
    await hasLooked(app)
  }
  return app
}

async function isUsed (app: FastifyInstance): Promise<void> {
  await until(() => app.redisGuard.status.store === 'redis')
}

/** Resolves after two looks for changed limits: the second one began after this call. */
async function hasLooked ({ redisGuard: { limits } }: FastifyInstance): Promise<void> {
  const sync = limits.sync.bind(limits)
  let looks = 0
  limits.sync = async isUsable => {
    await sync(isUsable)
    looks++
  }
  await until(() => looks >= 2)
  limits.sync = sync
}

const maxOf = async (app: FastifyInstance, url = '/', remoteAddress = '198.51.100.1') =>
  Number((await app.inject({ url, remoteAddress })).headers['x-ratelimit-limit'])

t.test('a changed limit applies here at once, elsewhere soon, and after a restart', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const [first, second] = [await appWith(t, { redis: server.url }), await appWith(t, { redis: server.url })]
  await first.redisGuard.limits.set('GET:/login', { max: 7, timeWindow: '2 minutes' })
  t.equal(await maxOf(first, '/login'), 7)
  await until(async () => await maxOf(second, '/login') === 7)
  t.equal(await maxOf(second), 10)
  await first.redisGuard.limits.set('GET:/computed', { max: 2, timeWindow: 1000 })
  await until(async () => await maxOf(second, '/computed') === 2)
  const third = await appWith(t, { redis: server.url })
  // On a busy machine it may be ready before it has read the limits.
  await until(async () => await maxOf(third, '/login') === 7 && await maxOf(third, '/computed') === 2)

  t.equal(await second.redisGuard.limits.reset('GET:/login'), true)
  t.equal(await maxOf(second, '/login'), 3)
  await until(async () => await maxOf(first, '/login') === 3 && await maxOf(third, '/login') === 3)
  t.equal(await second.redisGuard.limits.reset({ name: 'GET:/login' }), false)
  t.equal(await first.redisGuard.limits.reset({ name: 'GET:/computed' }), true)
  t.equal(await maxOf(first, '/computed'), 4)
})

t.test('a limit changed while Redis is away applies locally, and remotely afterwards', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const [first, second] = [
    await appWith(t, { redis: { port: proxy.port }, commandTimeout: 500 }),
    await appWith(t, { redis: server.url })
  ]
  await first.redisGuard.limits.set('GET:/login', { max: 5, timeWindow: '1 minute' })
  await until(async () => await maxOf(second, '/login') === 5)
  proxy.blackhole = true
  await until(async () => { await first.redisGuard.get('x'); return first.redisGuard.status.store === 'memory' })
  await first.redisGuard.limits.set('global', { max: 6, timeWindow: 1000 })
  await first.redisGuard.limits.reset('GET:/login')
  t.same([await maxOf(first), await maxOf(first, '/login')], [6, 3])
  proxy.blackhole = false
  await until(async () => await maxOf(second) === 6 && await maxOf(second, '/login') === 3)
  t.same([await maxOf(first), await maxOf(first, '/login')], [6, 3])
})

t.test('changed limits are written again to a Redis that lost its data', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const app = await appWith(t, { redis: server.url, syncInterval: 20 })
  await app.redisGuard.limits.set('global', { max: 6, timeWindow: 1000 })
  const client = server.client()
  t.teardown(() => client.disconnect())
  await until(async () => await client.get('guard:value:{redis-guard:limits}') !== null)
  await hasLooked(app)
  await client.flushall()
  await until(async () => await client.get('guard:value:{redis-guard:limit:global}') !== null)
  t.equal(await maxOf(app), 6)
})

t.test('the last change of a limit stands, even after Redis loads an older snapshot', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const options = { redis: server.url, syncInterval: 50 }
  const apps = [await appWith(t, options), await appWith(t, options)]
  const { limits } = apps[0]!.redisGuard
  await limits.set('global', { max: 20, timeWindow: '1 hour' })
  await limits.set('GET:/login', { max: 10, timeWindow: '1 minute' })
  const client = server.client()
  t.teardown(() => client.disconnect())
  client.on('error', () => {})
  await client.save()
  await limits.set('GET:/login', { max: 5, timeWindow: '1 minute' })
  await limits.reset('global')
  const areLast = async (app: FastifyInstance) => await maxOf(app) === 10 && await maxOf(app, '/login') === 5
  for (const app of apps) await until(async () => await areLast(app))
  await server.kill()
  for (const app of apps) {
    await until(async () => { await app.redisGuard.get('x'); return app.redisGuard.status.store === 'memory' })
  }
  await server.restart()
  await until(async () => {
    return (await client.get('guard:value:{redis-guard:limit:GET:/login}'))?.includes('"max":5') === true
  })
  // Each instance looks for changes once more.
  for (const app of apps) await hasLooked(app)
  for (const app of [...apps, await appWith(t, options)]) {
    t.same([await maxOf(app), await maxOf(app, '/login')], [10, 5])
  }
})

t.test('a foreign value in Redis that is not a limit changes no limit', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const app = await appWith(t, { redis: server.url, algorithm: 'gcra' })
  const client = server.client()
  t.teardown(() => client.disconnect())
  for (const text of ['x', '{}', 'null', '{"max":-1,"windowMs":5}', '{"max":9007199254740991,"windowMs":1000}']) {
    await client.set('guard:value:{redis-guard:limit:global}', text)
    const version = await client.incr('guard:value:{redis-guard:limits}')
    await client.set('guard:value:{redis-guard:limit:GET:/login}', JSON.stringify({
      max: version + 100,
      windowMs: 1000
    }))
    await until(async () => {
      return await maxOf(app, '/login') === version + 100 || (await client.incr('guard:value:{redis-guard:limits}')) < 0
    })
    t.equal(await maxOf(app), 10, text)
  }
})

for (const where of ['memory', 'redis'] as const) {
  t.test(`peek counts nothing; reset forgets the counters of a client (${where})`, { buffered: true }, async t => {
    const server = await RedisServer.start()
    t.teardown(async () => await server.stop())
    const app = await appWith(t, { redis: where === 'redis' ? server.url : false })
    const { limits } = app.redisGuard
    for (let i = 0; i < 5; i++) await app.inject({ url: '/login', remoteAddress: '2001:db8::1' })
    await app.inject({ url: '/', remoteAddress: '2001:db8::2' })
    for (let i = 0; i < 2; i++) {
      const peeked = await limits.peek('2001:db8::7')
      t.same(peeked.map(({ name, max, timeWindow, remaining }) => [name, max, timeWindow, remaining]), [
        ['global', 10, 3_600_000, 9],
        ['GET:/login', 3, 60_000, 0]
      ])
      t.ok(peeked[1]!.retryAfterMs > 50_000 && peeked[0]!.retryAfterMs === 0)
    }
    t.equal(await limits.reset('2001:db8::'), true)
    t.same((await limits.peek('2001:db8::7')).map(({ remaining, resetMs }) => [remaining, resetMs]), [[10, 0], [3, 0]])
    t.equal((await app.inject({ url: '/login', remoteAddress: '2001:db8::1' })).statusCode, 200)
    t.equal(await limits.reset({ key: '203.0.113.1' }), false)
  })
}

t.test('a reset while Redis is away is replayed afterwards', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const app = await appWith(t, { redis: { port: proxy.port }, commandTimeout: 500 })
  const hits = async (count: number, remoteAddress: string) => {
    for (let i = 0; i < count; i++) await app.inject({ url: '/', remoteAddress })
  }
  await hits(4, '192.0.2.1')
  proxy.blackhole = true
  await until(async () => { await app.redisGuard.get('x'); return app.redisGuard.status.store === 'memory' })
  await hits(2, '192.0.2.1')
  await hits(2, '192.0.2.2')
  t.equal(await app.redisGuard.limits.reset('192.0.2.1'), true)
  t.equal(await app.redisGuard.limits.reset('192.0.2.2'), true)
  await hits(1, '192.0.2.1')
  proxy.blackhole = false
  await until(() => app.redisGuard.status.store === 'redis')
  const left = async (key: string) =>
    (await app.redisGuard.limits.peek(key)).find(({ name }) => name === 'global')!.remaining
  t.same([await left('192.0.2.1'), await left('192.0.2.2')], [9, 10])
})

t.test('wrong arguments are errors that say what is wrong', { buffered: true }, async t => {
  const app = await appWith(t, {})
  const { limits } = app.redisGuard
  const fine = { max: 1, timeWindow: 1000 }
  const wrong: [() => Promise<unknown>, RegExp][] = [
    [async () => await limits.set('none', fine),
      /the name of limits.set must be the name of a limit, got "none"; limits.names lists them/],
    [async () => await limits.set('global', { ...fine, max: -1 }),
      /max of limits.set must be a whole number >= 0, or Infinity, got -1/],
    [async () => await limits.set('global', { ...fine, timeWindow: 'soon' }),
      /timeWindow of limits.set must be whole ms/],
    [async () => await limits.set('global', undefined as never), /max of limits.set/],
    [async () => await limits.reset(5 as never), /the argument of limits.reset/],
    [async () => await limits.reset({} as never), /the argument of limits.reset/],
    [async () => await limits.reset({ name: 5 } as never), /the argument of limits.reset/],
    [async () => await limits.reset(''), /the key of limits.reset/],
    [async () => await limits.peek(5 as never), /the key of limits.peek must be a non-empty string, got 5/],
    [async () => await limits.peek(null as never), /the key of limits.peek must be a non-empty string, got null/],
    [async () => await limits.peek({} as never), /the key of limits.peek must be a non-empty string, got undefined/],
    [async () => await app.redisGuard.get('redis-guard:x'), /does not begin with redis-guard:/]
  ]
  for (const [call, message] of wrong) await t.rejects(call(), { code: 'GUARD_ERR_ARGUMENT', message })
  const gcra = await guardedApp(t, { algorithm: 'gcra' })
  await t.rejects(gcra.redisGuard.limits.set('global', { max: 2 ** 52, timeWindow: 1000 }), {
    code: 'GUARD_ERR_ARGUMENT',
    message: /below 2\^51/
  })
})

t.test('limits added later get their changed values, even after Redis lost its data', { buffered: true }, async t => {
  const keys = new Keys('control:')
  const shared = new MemoryStore({ keys, capacity: 100, maxEvents: 1, now: Date.now })
  const { limit } = resolveOptions({}, {})
  const clients = { ipv6Subnet: 64, hasKeyGenerator: false }
  const start = (...names: string[]) => {
    const registry = new LimitRegistry()
    for (const name of names) registry.add(name, undefined, limit, clients)
    const control = new LimitControl({ ...unwatched, registry, counters: shared.limits, values: shared.values })
    return {
      registry,
      control,
      sync: async () => await control.sync(() => true),
      max: (name: string) => registry.find(name)[0]!.inForce!.max
    }
  }
  const [one, two] = [start('a', 'b'), start('a', 'b')]
  await one.control.set('a', { max: 1, timeWindow: 1000 })
  await one.control.set('b', { max: 2, timeWindow: 1000 })
  for (const { sync } of [one, two, two]) await sync()
  const late = start('a')
  await late.sync()
  late.registry.add('b', undefined, limit, clients)
  t.equal(late.max('b'), 1000)
  await late.sync()
  t.same([late.max('a'), late.max('b')], [1, 2])
  // Redis loses everything, and a limit is set before any instance looks.
  for (const key of ['redis-guard:limits', 'redis-guard:limit:a', 'redis-guard:limit:b']) shared.values.del(key)
  await two.control.set('b', { max: 3, timeWindow: 1000 })
  for (const { sync } of [one, two, late, one, two, late]) await sync()
  for (const { max } of [one, two, late]) t.same([max('a'), max('b')], [1, 3])
  const fresh = start('a', 'b')
  await fresh.sync()
  t.same([fresh.max('a'), fresh.max('b')], [1, 3])
  t.equal(await two.control.reset('a'), true)
  t.equal(await two.control.reset('a'), false)
  for (const { sync } of [one, two, late, fresh]) await sync()
  for (const { max } of [one, two, late, fresh]) t.equal(max('a'), 1000)
})

t.test('reset and peek know computed limits, and accept the key of a keyGenerator', { buffered: true }, async t => {
  const app = await guardedApp(t, { max: () => 1, timeWindow: '1 hour' })
  app.get('/', async () => 'ok')
  app.get(
    '/key',
    { config: { rateLimit: { max: 1, keyGenerator: request => request.headers['x-key'] as string } } },
    async () => 'ok'
  )
  const key = '::ffff:203.0.113.7'
  const [first, byKey] = ['/', { url: '/key', headers: { 'x-key': key } }]
  for (const request of [first, byKey]) {
    t.same([(await app.inject(request)).statusCode, (await app.inject(request)).statusCode], [200, 429])
  }
  t.equal((await app.redisGuard.limits.peek(key)).find(({ name }) => name === 'GET:/key')!.remaining, 0)
  t.same(await app.redisGuard.limits.peek({ key }), await app.redisGuard.limits.peek(key))
  t.same([await app.redisGuard.limits.reset('127.0.0.1'), await app.redisGuard.limits.reset({ key })], [true, true])
  for (const request of [first, byKey]) t.equal((await app.inject(request)).statusCode, 200)
})

t.test('limits that cannot be read from Redis stay as configured, with one log line', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const client = server.client()
  t.teardown(() => client.disconnect())
  await client.lpush('guard:value:{redis-guard:limits}', 'x')
  const lines: Record<string, unknown>[] = []
  const options = { redis: server.url, max: 7, syncInterval: 10, commandTimeout: 10_000 }
  const app = await guardedApp(t, options, logTo(lines))
  app.get('/', async () => 'ok')
  await isUsed(app)
  await until(() => lines.length > 0)
  t.equal((await app.inject('/')).headers['x-ratelimit-limit'], '7')
  await client.lpush('guard:value:{redis-guard:limit:global}', 'x')
  const other = await guardedApp(t, options)
  await isUsed(other)
  await other.redisGuard.limits.set('global', { max: 5, timeWindow: 1000 })
  await until(async () => (await app.inject('/')).headers['x-ratelimit-limit'] === '5')
  t.match(lines, [{
    code: 'GUARD_WARN_FOREIGN_VALUE',
    msg: /^The key guard:value:\{redis-guard:limits\} in Redis holds a value/
  }])
})

t.test('an unexpected failure to read limits is logged once and ends no process', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, { redis: server.url, syncInterval: 10, commandTimeout: 10_000 }, logTo(lines))
  await isUsed(app)
  lines.length = 0
  let calls = 0
  app.redisGuard.limits.sync = async () => { throw new Error(`unexpected ${++calls}`) }
  await until(() => calls > 3)
  t.match(lines, [{
    msg: 'limits that were set at run time could not be read from Redis',
    err: { message: 'unexpected 1' }
  }])
})

t.test('limits that cannot be read because Redis is away are no log line', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, { redis: server.url, syncInterval: 10, commandTimeout: 10_000 }, logTo(lines))
  await isUsed(app)
  await server.stop()
  await until(() => app.redisGuard.status.store === 'memory')
  let calls = 0
  app.redisGuard.limits.sync = async () => { throw new Error(`unexpected ${++calls}`) }
  await until(() => calls > 3)
  t.same(lines.filter(({ err }) => err !== undefined), [])
})

t.test('Infinity turns a limit off, everywhere and after a restart, until set again', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const [first, second] = [await appWith(t, { redis: server.url }), await appWith(t, { redis: server.url })]
  const isUnlimited = async (app: FastifyInstance, url: string) => Number.isNaN(await maxOf(app, url))
  await first.inject({ url: '/login', remoteAddress: '198.51.100.1' })
  for (const [name, url] of [['GET:/login', '/login'], ['GET:/computed', '/computed']] as const) {
    await first.redisGuard.limits.set(name, { max: Infinity, timeWindow: '1 minute' })
    t.equal(await isUnlimited(first, url), true)
    await until(async () => await isUnlimited(second, url))
  }
  const third = await appWith(t, { redis: server.url })
  // On a busy machine it may be ready before it has read the limits.
  await until(async () => await isUnlimited(third, '/login') && await isUnlimited(third, '/computed'))
  t.same((await third.redisGuard.limits.peek('198.51.100.1')).map(({ name }) => name), ['global'])
  t.equal(await third.redisGuard.limits.reset('198.51.100.1'), true, 'counters from before are forgotten')
  await second.redisGuard.limits.set('GET:/login', { max: 7, timeWindow: '1 minute' })
  await until(async () => await maxOf(first, '/login') === 7)
  t.equal(await second.redisGuard.limits.reset('GET:/computed'), true)
  await until(async () => await maxOf(first, '/computed') === 4)
})

t.test('rejects a limit below the cost of a request', { buffered: true }, async t => {
  const app = await guardedApp(t, { max: 100, cost: 10 })
  await t.rejects(app.redisGuard.limits.set('global', { max: 5, timeWindow: 1000 }), {
    code: 'GUARD_ERR_ARGUMENT',
    message: /costs 10, and could never fit/
  })
  await app.redisGuard.limits.set('global', { max: 0, timeWindow: 1000 })
})

t.test('peek and reset use the key by which each limit separates clients', { buffered: true }, async t => {
  const app = await guardedApp(t, { max: 5, timeWindow: '1 hour' })
  app.get('/wide', { config: { rateLimit: { max: 3, ipv6Subnet: 48 } } }, async () => 'ok')
  app.get(
    '/key',
    { config: { rateLimit: { max: 2, keyGenerator: request => request.headers['x-key'] as string } } },
    async () => 'ok'
  )
  const { limits } = app.redisGuard
  const left = async (key: string) =>
    Object.fromEntries((await limits.peek(key)).map(({ name, remaining }) => [name, remaining]))
  await app.inject({ url: '/wide', remoteAddress: '2001:db8:0:1::1' })
  await app.inject({ url: '/wide', remoteAddress: '2001:db8:0:2::1' })
  await app.inject({ url: '/key', remoteAddress: '2001:db8:0:1::1' })
  await app.inject({ url: '/key', remoteAddress: '2001:db8:0:1::1', headers: { 'x-key': 'mine' } })
  const fresh = { global: 5, 'GET:/wide': 3, 'GET:/key': 2, 'GET:/key@address': 2 }
  t.same(await left('2001:db8:0:1::9'), { ...fresh, 'GET:/wide': 1, 'GET:/key@address': 1 })
  t.same(await left('2001:db8:0:3::9'), { ...fresh, 'GET:/wide': 1 })
  t.same(await left('mine'), { global: 5, 'GET:/wide': 3, 'GET:/key': 1 })
  t.equal(await limits.reset('2001:db8:0:1::9'), true)
  t.same(await left('2001:db8:0:1::9'), fresh)
  t.equal(await limits.reset('2001:db8:0:1::9'), false)
})

t.test('a limit is not adopted if its store is no longer Redis', { buffered: true }, async t => {
  const registry = new LimitRegistry()
  registry.add('global', undefined, resolveOptions({}, {}).limit, { ipv6Subnet: 64, hasKeyGenerator: false })
  let isUsable = true
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 10, maxEvents: 1, now: Date.now })
  memory.values.set('redis-guard:limit:global', '{"max":5,"windowMs":1000}', undefined)
  memory.values.set('redis-guard:limits', '1', undefined)
  const get = memory.values.get.bind(memory.values)
  Object.assign(memory.values, {
    get: (key: string) => {
      if (key !== 'redis-guard:limits') isUsable = false
      return get(key)
    }
  })
  const control = new LimitControl({ ...unwatched, registry, counters: memory.limits, values: memory.values })
  await control.sync(() => isUsable)
  t.equal(registry.changes().size, 0)
  await control.sync(() => isUsable)
  Object.assign(memory.values, { get })
  await control.sync(() => true)
  t.same(registry.changes().get('global'), { max: 5, windowMs: 1000 })
})

t.test('a limit that is set while limits are being read keeps the new value', { buffered: true }, async t => {
  const registry = new LimitRegistry()
  registry.add('global', undefined, resolveOptions({}, {}).limit, { ipv6Subnet: 64, hasKeyGenerator: false })
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 10, maxEvents: 1, now: Date.now })
  memory.values.set('redis-guard:limit:global', '{"max":5,"windowMs":1000}', undefined)
  memory.values.set('redis-guard:limits', '1', undefined)
  const get = memory.values.get.bind(memory.values)
  let answer: (() => void) | undefined
  const getLate = async (key: string) => {
    const text = get(key)
    if (key === 'redis-guard:limit:global') await new Promise<void>(resolve => { answer = resolve })
    return text
  }
  Object.assign(memory.values, { get: getLate })
  const control = new LimitControl({ ...unwatched, registry, counters: memory.limits, values: memory.values })
  const looking = control.sync(() => true)
  await until(() => answer !== undefined)
  await control.set('global', { max: 7, timeWindow: 1000 })
  answer!()
  await looking
  t.same(registry.changes().get('global'), { max: 7, windowMs: 1000 })
  Object.assign(memory.values, { get })
  await control.sync(() => true)
  t.same(registry.changes().get('global'), { max: 7, windowMs: 1000 })
})

t.test('a store that fails while limits are read fails the look, and changes nothing', { buffered: true }, async t => {
  const registry = new LimitRegistry()
  registry.add('global', undefined, resolveOptions({}, {}).limit, { ipv6Subnet: 64, hasKeyGenerator: false })
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 10, maxEvents: 1, now: Date.now })
  Object.assign(memory.values, { get: async () => { throw new TypeError('a mistake') } })
  const control = new LimitControl({ ...unwatched, registry, counters: memory.limits, values: memory.values })
  await t.rejects(control.sync(() => true), { message: 'a mistake' })
  t.equal(registry.changes().size, 0)
})

t.test('a limit that is set while a lost one is written again keeps the new value', { buffered: true }, async t => {
  const registry = new LimitRegistry()
  for (const place of ['a', 'b']) {
    registry.add(place, undefined, resolveOptions({}, {}).limit, { ipv6Subnet: 64, hasKeyGenerator: false })
  }
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 10, maxEvents: 1, now: Date.now })
  const control = new LimitControl({ ...unwatched, registry, counters: memory.limits, values: memory.values })
  await control.set('a', { max: 5, timeWindow: 1000 })
  memory.values.del('redis-guard:limit:a')
  memory.values.set('redis-guard:limit:b', '{"max":6,"windowMs":1000}', undefined)
  const set = memory.values.set.bind(memory.values)
  let isSet = false
  const setMeanwhile = async (key: string, text: string) => {
    set(key, text, undefined)
    if (key !== 'redis-guard:limit:a' || isSet) return
    isSet = true
    await control.set('b', { max: 7, timeWindow: 1000 })
  }
  Object.assign(memory.values, { set: setMeanwhile })
  await control.sync(() => true)
  t.same([isSet, registry.changes().get('b')], [true, { max: 7, windowMs: 1000 }])
})

t.test('the later of two changes of a limit wins; one without a time is the earliest', { buffered: true }, async t => {
  const key = 'redis-guard:limit:global'
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 10, maxEvents: 1, now: Date.now })
  const start = (nowMs: number) => {
    const registry = new LimitRegistry()
    registry.add('global', undefined, resolveOptions({}, {}).limit, { ipv6Subnet: 64, hasKeyGenerator: false })
    const control = new LimitControl({
      ...unwatched,
      registry,
      counters: memory.limits,
      values: memory.values,
      onForeign: text => t.fail(text),
      now: () => nowMs
    })
    return {
      control,
      sync: async () => await control.sync(() => true),
      max: () => registry.find('global')[0]!.inForce!.max
    }
  }
  const [ahead, slow] = [start(5000), start(1000)]
  const isEverywhere = async (max: number, what: string) => {
    for (const { sync } of [ahead, slow, ahead, slow]) await sync()
    t.same([ahead.max(), slow.max()], [max, max], what)
  }
  const put = (text: string) => {
    memory.values.set(key, text, undefined)
    memory.values.set('redis-guard:limits', text, undefined)
  }
  put('{"max":3,"windowMs":1000}')
  await isEverywhere(3, 'without a time, and nothing else is known')
  await ahead.control.set('global', { max: 4, timeWindow: 1000 })
  const older = memory.values.get(key)!
  await isEverywhere(4, 'by the clock that is ahead')
  await slow.control.set('global', { max: 5, timeWindow: 1000 })
  await isEverywhere(5, 'later, by the clock that is behind')
  for (const text of [older, '{"max":3,"windowMs":1000}']) {
    put(text)
    await isEverywhere(5, text)
    t.match(memory.values.get(key), /"max":5/)
  }
  t.equal(await slow.control.reset('global'), true)
  await isEverywhere(1000, 'reset')
  put(older)
  await isEverywhere(1000, 'an older change after a reset')
  const fresh = start(0)
  await fresh.sync()
  t.equal(fresh.max(), 1000)
  t.equal(await fresh.control.reset('global'), false)
})

/** A control of many limits, each set to a max of 5. The store records how many values are read at once. */
function manyLimits (count: number) {
  const registry = new LimitRegistry()
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 2 * count, maxEvents: 1, now: Date.now })
  const { limit } = resolveOptions({}, {})
  for (let i = 0; i < count; i++) {
    registry.add(`${i}`, undefined, limit, { ipv6Subnet: 64, hasKeyGenerator: false })
    memory.values.set(`redis-guard:limit:${i}`, '{"max":5,"windowMs":1000}', undefined)
  }
  memory.values.set('redis-guard:limits', '1', undefined)
  const asked = { atOnce: 0, most: 0, keys: [] as string[] }
  const get = memory.values.get.bind(memory.values)
  const getLater = async (key: string) => {
    asked.keys.push(key)
    asked.most = Math.max(asked.most, ++asked.atOnce)
    await new Promise(resolve => setImmediate(resolve))
    asked.atOnce--
    return get(key)
  }
  Object.assign(memory.values, { get: getLater })
  const control = new LimitControl({ ...unwatched, registry, counters: memory.limits, values: memory.values })
  return { registry, memory, control, asked }
}

t.test('thousands of limits are read page by page', { buffered: true }, async t => {
  const { registry, control, asked } = manyLimits(2050)
  await control.sync(() => true)
  t.equal(registry.changes().size, 2050)
  t.equal(asked.keys.length, 2051)
  t.equal(asked.most, 200)
})

t.test('no look for changed limits begins during another one', { buffered: true }, async t => {
  const { registry, control, asked } = manyLimits(250)
  const first = control.sync(() => true)
  await Promise.all([control.sync(() => true), control.sync(() => true), first])
  t.equal(registry.changes().size, 250)
  t.equal(asked.keys.length, 251)
  await control.sync(() => true)
  t.equal(asked.keys.length, 252)
})

t.test('an interrupted look continues where it ended', { buffered: true }, async t => {
  const { registry, control, asked } = manyLimits(450)
  await control.sync(() => asked.keys.length <= 201)
  t.equal(registry.changes().size, 200)
  await control.sync(() => true)
  t.equal(registry.changes().size, 450)
  t.same(asked.keys.filter(key => key === 'redis-guard:limit:0').length, 1)
})

t.test('a version is not adopted if its store is no longer Redis', { buffered: true }, async t => {
  const { registry, memory, control, asked } = manyLimits(1)
  await control.sync(() => true)
  memory.values.set('redis-guard:limits', '2', undefined)
  memory.values.set('redis-guard:limit:0', '{"max":6,"windowMs":1000}', undefined)
  const { length } = asked.keys
  await control.sync(() => asked.keys.length === length)
  t.equal(registry.changes().get('0')!.max, 5)
  await control.sync(() => true)
  t.equal(registry.changes().get('0')!.max, 6)
})

t.test('a version that cannot be read twice, such as a huge one, is replaced', { buffered: true }, async t => {
  const { registry, memory, control } = manyLimits(1)
  const get = memory.values.get.bind(memory.values)
  let isUsable = true
  let isHuge = true
  const getUnlessHuge = (key: string) => {
    if (key === 'redis-guard:limits' && isHuge) isUsable = false
    return get(key)
  }
  const set = memory.values.set.bind(memory.values)
  const replace = (key: string, text: string, ttlMs: number | undefined) => {
    if (key === 'redis-guard:limits') isHuge = false
    set(key, text, ttlMs)
  }
  Object.assign(memory.values, { get: getUnlessHuge, set: replace })
  const look = async () => {
    isUsable = true
    await control.sync(() => isUsable)
    return [isUsable, registry.changes().size, await get('redis-guard:limits') === '1']
  }
  t.same(await look(), [false, 0, true])
  t.same(await look(), [false, 0, true], 'a single failure may be an outage')
  t.same(await look(), [true, 1, false])
  isHuge = true
  t.same(await look(), [false, 1, false])
  isHuge = false
  const version = await get('redis-guard:limits')
  await look()
  isHuge = true
  await look()
  isHuge = false
  await look()
  t.equal(await get('redis-guard:limits'), version, 'the two failures are not consecutive')
})

/** Each way to count refusals. The test uses up a limit of 3, and adds 30 refusals. */
const waysToRefuse: readonly RedisGuardOptions[] = [
  ...algorithms.filter(algorithm => algorithm !== 'gcra').map(algorithm => ({ algorithm })),
  { ban: 5 },
  { continueExceeding: true },
  { exponentialBackoff: true }
]

for (const where of ['in memory', 'on Redis', 'in an outage', 'on Redis after an outage'] as const) {
  t.test(`a raised limit admits a client that kept retrying, ${where}`, { buffered: true }, async t => {
    const server = await RedisServer.start()
    t.teardown(async () => await server.stop())
    await Promise.all(waysToRefuse.map(async (way, i) => {
      const proxy = await TcpProxy.start(server.port)
      t.teardown(async () => await proxy.stop())
      const redis = where === 'in memory' ? false : { port: proxy.port }
      const app = await guardedApp(t, {
        redis, nameSpace: `${i}:`, commandTimeout: 500, resetTimeout: 100, max: 3, timeWindow: '1 hour', ...way
      })
      app.get('/', async () => 'ok')
      if (redis !== false) await isUsed(app)
      const statuses = async (count: number) => {
        const all: number[] = []
        for (let i = 0; i < count; i++) all.push((await app.inject('/')).statusCode)
        return all
      }
      const goes = async (store: 'memory' | 'redis') => {
        proxy.blackhole = store === 'memory'
        await until(async () => {
          await app.redisGuard.get('x')
          return app.redisGuard.status.store === store
        })
      }
      t.same(await statuses(3), [200, 200, 200])
      t.equal((await statuses(10)).every(status => status > 400), true)
      if (where.includes('outage')) await goes('memory')
      t.equal((await statuses(20)).every(status => status > 400), true)
      if (where.includes('after')) await goes('redis')
      await app.redisGuard.limits.set('global', { max: 20, timeWindow: '1 hour' })
      const headers = { 'x-ratelimit-limit': '20', 'x-ratelimit-remaining': '16' }
      t.match(await app.inject('/'), { statusCode: 200, headers }, JSON.stringify(way))
      const rest = await statuses(17)
      t.same(rest.slice(0, 16), Array(16).fill(200), JSON.stringify(way))
      t.ok(rest[16]! > 400, JSON.stringify(way))
      if (where === 'in an outage') await goes('redis')
    }))
  })
}

t.test('gcra: after a raised limit, a client waits for one hit at the new rate', { buffered: true }, async t => {
  const app = await guardedApp(t, { algorithm: 'gcra', max: 3, timeWindow: '1 minute' })
  app.get('/', async () => 'ok')
  for (let i = 0; i < 3; i++) t.equal((await app.inject('/')).statusCode, 200)
  await app.redisGuard.limits.set('global', { max: 20, timeWindow: '1 minute' })
  t.match(await app.inject('/'), { statusCode: 429, headers: { 'retry-after': '3' } })
})

t.test('a limit raised on another instance admits a client whose refusals are cached', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  for (const [i, way] of waysToRefuse.entries()) {
    const options = {
      redis: server.url,
      nameSpace: `${i}:`,
      max: 3,
      timeWindow: '1 hour',
      syncInterval: 50,
      commandTimeout: 10_000,
      ...way
    }
    const apps = [await guardedApp(t, options), await guardedApp(t, options)]
    for (const app of apps) {
      app.get('/', async () => 'ok')
      await isUsed(app)
    }
    const [raising, refusing] = apps as [FastifyInstance, FastifyInstance]
    for (let i = 0; i < 3; i++) t.equal((await refusing.inject('/')).statusCode, 200)
    for (let i = 0; i < 30; i++) for (const app of apps) t.ok((await app.inject('/')).statusCode > 400)
    await raising.redisGuard.limits.set('global', { max: 20, timeWindow: '1 hour' })
    t.equal((await raising.inject('/')).statusCode, 200, `${JSON.stringify(way)}, on the instance that raised it`)
    await until(async () => (await refusing.inject('/')).statusCode === 200)
  }
})

t.test('the list says who changed a limit and when; an instance logs it at start', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const first = await appWith(t, { redis: server.url })
  t.same(first.redisGuard.limits.list(), [])
  const before = Date.now()
  await first.redisGuard.limits.set('GET:/login', { max: 7, timeWindow: '2 minutes' }, {
    reason: 'a flood',
    origin: 'an operator'
  })
  const listed = first.redisGuard.limits.list()
  t.match(listed, [{ name: 'GET:/login', max: 7, timeWindow: 120_000, reason: 'a flood', origin: 'an operator' }])
  t.ok(listed[0]!.setAtMs! >= before && listed[0]!.setAtMs! <= Date.now())

  const lines: Record<string, unknown>[] = []
  const second = await guardedApp(t, { redis: server.url, commandTimeout: 10_000 }, logTo(lines, 'info'))
  second.get('/login', { config: { rateLimit: { max: 3 } } }, async () => 'ok')
  await second.ready()
  t.same(second.redisGuard.limits.list(), listed)
  const said = (pattern: RegExp) => lines.filter(({ msg }) => pattern.test(String(msg)))
  t.match(said(/set at run time are in force/), [{ level: 30, limits: listed, count: 1 }])
  await first.redisGuard.limits.reset('GET:/login')
  await until(() => said(/as configured again/).length === 1)
  t.match(said(/as configured again/), [{ limits: ['GET:/login'], count: 1 }])
  t.same([first.redisGuard.limits.list(), second.redisGuard.limits.list()], [[], []])
  await first.redisGuard.limits.set('GET:/login', { max: Infinity, timeWindow: 1000 })
  await until(() => said(/set at run time are in force/).length === 2)
  t.match(said(/set at run time are in force/)[1], { limits: [{ name: 'GET:/login', max: 'Infinity' }], count: 1 })
})

t.test('a stored limit without author and time is listed without them', { buffered: true }, async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const client = server.client()
  t.teardown(() => client.disconnect())
  await client.set(new Keys('guard:').value('redis-guard:limit:global'), '{"max":7,"windowMs":1000}')
  const app = await appWith(t, { redis: server.url })
  t.same(
    app.redisGuard.limits.list(),
    [{ name: 'global', max: 7, timeWindow: 1000, reason: '', origin: '', setAtMs: undefined }]
  )
})

t.test('a change that Redis rejects is an error, and changes nothing', { buffered: true }, async t => {
  const server = await RedisServer.start('--requirepass', 'secret')
  t.teardown(async () => await server.stop())
  const admin = server.client({ password: 'secret' })
  t.teardown(() => admin.disconnect())
  await admin.call('ACL', 'SETUSER', 'guard', 'on', '>secret', '~*', '&*', '+@all')
  const app = await appWith(t, {
    redis: { port: server.port, username: 'guard', password: 'secret' },
    syncInterval: 50
  })
  const { limits } = app.redisGuard
  await limits.set('global', { max: 5, timeWindow: '1 hour' })
  await admin.call('ACL', 'SETUSER', 'guard', '-set')
  const rejected = { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'reply' }
  await t.rejects(limits.set('global', { max: 1, timeWindow: '1 hour' }), rejected)
  await t.rejects(limits.reset('global'), rejected)
  await hasLooked(app)
  t.equal(await maxOf(app), 5)
  t.match(limits.list(), [{ max: 5 }])
  await admin.call('ACL', 'SETUSER', 'guard', '+set')
  await limits.set('global', { max: 6, timeWindow: '1 hour' })
  t.equal(await maxOf(app), 6)
})

t.test('of two concurrent changes the later one stands, whichever is written first', { buffered: true }, async t => {
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 100, maxEvents: 1, now: Date.now })
  const waiting: (() => void)[] = []
  const set = async (key: string, text: string) => {
    if (key.includes('limit:')) await new Promise<void>(resolve => waiting.push(resolve))
    memory.values.set(key, text, undefined)
  }
  const values =
    new Proxy(memory.values, { get: (target, name) => name === 'set' ? set : Reflect.get(target, name).bind(target) })
  const registry = new LimitRegistry()
  const settings = resolveOptions({}, {}).limit
  registry.add('global', undefined, settings.limits[0]!, { ipv6Subnet: 64, hasKeyGenerator: false })
  const control = new LimitControl({ ...unwatched, registry, counters: memory.limits, values, now: () => 1000 })
  const changes = [5, 6].map(async max => await control.set('global', { max, timeWindow: 1000 }))
  waiting[1]!()
  await changes[1]
  waiting[0]!()
  await changes[0]
  t.match(control.list(), [{ max: 6 }])
})

t.test('a look does not overwrite a change that is being written with an older value', { buffered: true }, async t => {
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 100, maxEvents: 1, now: Date.now })
  let isHeld = false
  const written: string[] = []
  let go = () => {}
  const set = async (key: string, text: string) => {
    if (key.includes('limit:')) written.push(text)
    if (isHeld && key.includes('limit:')) await new Promise<void>(resolve => { go = resolve })
    memory.values.set(key, text, undefined)
  }
  const values =
    new Proxy(memory.values, { get: (target, name) => name === 'set' ? set : Reflect.get(target, name).bind(target) })
  const registry = new LimitRegistry()
  registry.add('global', undefined, resolveOptions({}, {}).limit, { ipv6Subnet: 64, hasKeyGenerator: false })
  const control = new LimitControl({ ...unwatched, registry, counters: memory.limits, values, now: () => 1000 })
  await control.set('global', { max: 5, timeWindow: 1000 })
  isHeld = true
  const later = control.set('global', { max: 6, timeWindow: 1000 })
  memory.values.del('redis-guard:limit:global')
  await control.sync(() => true)
  t.equal(written.length, 2)
  go()
  await later
  t.match(control.list(), [{ max: 6 }])
})

t.test('reason and origin of a change must be texts', { buffered: true }, async t => {
  const { limits } = (await appWith(t, {})).redisGuard
  for (const wrong of [{ origin: 5 }, { reason: 'x'.repeat(1001) }] as never[]) {
    await t.rejects(limits.set('global', { max: 1, timeWindow: 1000 }, wrong), {
      code: 'GUARD_ERR_ARGUMENT',
      message: /of limits\.set must be a string/
    })
    await t.rejects(limits.reset('global', wrong), {
      code: 'GUARD_ERR_ARGUMENT',
      message: /of limits\.reset must be a string/
    })
  }
  t.same(limits.list(), [])
})
