/** The methods of `fastify.redisGuard`, in memory and on Redis: values, events, blocks, wrong arguments, listeners. */
import Fastify from 'fastify'
import t from 'tap'
import redisGuard from '../../lib/index.js'
import { guardedApp, logTo } from '../support/app.js'
import { failingAtOnce, failingLater, failingWhenRead } from '../support/failing.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

/** Long times: these tests are about neither a slow Redis nor the end of a window. */
const patient = { commandTimeout: 30_000, timeWindow: '1 hour' }

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

for (const [name, redis] of [['memory', false], ['Redis', server.url]] as const) {
  t.test(`on ${name}`, async t => {
    const app = await guardedApp(t, { redis, max: 2, nameSpace: `${name}:`, ...patient })
    app.get('/limited', async () => 'ok')
    const guard = app.redisGuard

    t.test('get, set, incr, expire and del work on values', async t => {
      t.equal(await guard.get('key'), null)
      await guard.set('key', 41)
      t.equal(await guard.incr('key'), 42)
      t.equal(await guard.get('key'), '42')
      t.equal(await guard.expire('key', 100), true)
      t.equal(await guard.del('key'), true)
      t.equal(await guard.expire('key', 100), false)
      await guard.set('brief', 'x', { ttlSeconds: 600 })
      t.equal(await guard.get('brief'), 'x')
      await guard.set('brief', 'x', { ttlSeconds: 0.05 })
      await until(async () => await guard.get('brief') === null)
      await guard.set('text', 'ten')
      await t.rejects(guard.incr('text'), { code: 'GUARD_ERR_VALUE' })
      t.equal(guard.status.store, redis === false ? 'memory' : 'redis', "a caller's mistake is no failure of Redis")
    })

    t.test('refused requests become events, and make suspects', async t => {
      for (let i = 0; i < 5; i++) await app.inject({ url: '/limited', remoteAddress: '192.0.2.1' })
      for (let i = 0; i < 3; i++) await app.inject({ url: '/limited', remoteAddress: '2001:db8::5' })
      await guard.blockIP('192.0.2.7', 60)
      await app.inject({ url: '/nowhere', remoteAddress: '192.0.2.7' })
      const events = await guard.getRateLimitEvents()
      const limited = { type: 'limited', limit: 'global', method: 'GET', route: '/limited' }
      t.match(events[0], { type: 'blocked', ip: '192.0.2.7', method: 'GET', count: 1 })
      t.match(events[1], { ...limited, ip: '2001:db8::/64', count: 1 })
      // Requests that arrive while others are being written become a separate event.
      const others = events.slice(2)
      t.ok(others.length >= 1)
      for (const event of others) t.match(event, { ...limited, ip: '192.0.2.1' })
      t.equal(others.reduce((sum, { count }) => sum + count, 0), 3)
      t.same(await guard.getSuspiciousIPs(), [{ ip: '192.0.2.1', count: 3 }, { ip: '2001:db8::/64', count: 1 }])
      t.same(await guard.getSuspiciousIPs(1), [{ ip: '192.0.2.1', count: 3 }])
    })

    t.test('your own events are recorded, and old events cleared', async t => {
      const { length } = await guard.getRateLimitEvents()
      t.equal(await guard.clearOldRateLimitEvents(0), length)
      t.same(await guard.getRateLimitEvents(), [])
      await guard.logRateLimitEvent({ ip: '::ffff:192.0.2.2', route: '/own' })
      await guard.logRateLimitEvent({ type: 'blocked', count: 2 })
      t.match(await guard.getRateLimitEvents(1), [{ type: 'blocked', count: 2 }])
      t.match(await guard.getRateLimitEvents(), [
        { type: 'blocked' },
        { type: 'limited', ip: '192.0.2.2', route: '/own', count: 1 }
      ])
      t.same(await guard.getSuspiciousIPs(), [{ ip: '192.0.2.2', count: 1 }])
      t.equal(await guard.clearOldRateLimitEvents(60_000), 0)
      t.equal((await guard.getRateLimitEvents()).length, 2)
    })

    t.test('blockIP, isIPBlocked, unblockIP and getBlockedIPs accept an address in any form', async t => {
      await guard.unblockIP('192.0.2.7')
      const block = await guard.blockIP('::FFFF:192.0.2.8', 60, { reason: 'tests', origin: 'me' })
      t.match(block, { ip: '192.0.2.8', reason: 'tests', origin: 'me', expiresAtMs: block.blockedAtMs + 60_000 })
      await guard.blockIP('2001:DB8:0:0::/48', Infinity)
      t.equal(await guard.isIPBlocked('64:ff9b::192.0.2.8'), true)
      t.equal(await guard.isIPBlocked('2001:db8:0:ff::1'), true)
      t.equal(await guard.isIPBlocked('192.0.2.9'), false)
      t.match(await guard.getBlockedIPs(), [
        block,
        { ip: '2001:db8::/48', reason: '', origin: 'api', expiresAtMs: Infinity }
      ])
      t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.8' })).statusCode, 403)
      t.equal(await guard.unblockIP('192.0.2.8'), true)
      t.equal(await guard.unblockIP('192.0.2.8'), false)
      t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.8' })).statusCode, 404)
    })

    t.test('a permanent block outlives a brief one of the same address', async t => {
      const legal = await guard.blockIP('192.0.2.10', Infinity, { reason: 'court order', origin: 'legal' })
      t.same(await guard.blockIP('192.0.2.10', 0.05, { origin: 'auto' }), legal, 'the answer is the block that stands')
      await new Promise(resolve => setTimeout(resolve, 80))
      t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.10' })).statusCode, 403)
      t.match(await guard.blockIP('192.0.2.10', 0.05, { origin: 'auto', replace: true }), { origin: 'auto' })
      await until(async () => (await app.inject({ url: '/', remoteAddress: '192.0.2.10' })).statusCode === 404)
    })
  })
}

t.test('wrong arguments are errors that say what is wrong', async t => {
  const { redisGuard: guard } = await guardedApp(t)
  const wrong: [() => Promise<unknown>, RegExp][] = []
  const each = (values: readonly unknown[], call: (value: never) => Promise<unknown>, message: RegExp) => {
    for (const value of values) wrong.push([async () => await call(value as never), message])
  }
  const noText = [undefined, null, '', 5, {}, []]
  each(noText, key => guard.get(key), /^the key of get must be a non-empty string/)
  each(noText, key => guard.set(key, 'x'), /^the key of set/)
  each(noText, key => guard.incr(key), /^the key of incr/)
  each(noText, key => guard.expire(key, 1), /^the key of expire/)
  each(noText, key => guard.del(key), /^the key of del/)
  each(
    [undefined, null, {}, [], true, NaN, Infinity, Symbol('x')],
    value => guard.set('key', value),
    /^the value of set must be a string or a finite number/
  )
  const noDuration = [0, -1, NaN, 1e15, 'soon', null, {}, '60']
  each(
    [...noDuration, Infinity],
    ttlSeconds => guard.set('key', 'x', { ttlSeconds }),
    /^ttlSeconds of set must be a number of seconds above 0/
  )
  each([...noDuration, Infinity, undefined], seconds => guard.expire('key', seconds), /^the seconds of expire must be/)
  each(
    [...noDuration, undefined],
    seconds => guard.blockIP('192.0.2.1', seconds),
    /^the duration of blockIP must be .*, or Infinity, got/
  )
  const noAddress = [
    '', 'x', '192.0.2', '192.0.2.256', '010.0.0.1', '1', '192.0.2.1/33', '192.0.2.1/-1', '192.0.2.1/', '::1/129',
    '64:ff9b::/96', 'a'.repeat(1_000_000), undefined, null, 5, {}, ['192.0.2.1'], '192.0.2.1\n192.0.2.2'
  ]
  each(noAddress, ip => guard.blockIP(ip, 60), /^the address of blockIP must be an IPv4 or IPv6 address, or a CIDR /)
  each(noAddress, ip => guard.unblockIP(ip), /^the address of unblockIP/)
  each([...noAddress, '192.0.2.0/24'], ip => guard.isIPBlocked(ip), /^the address of isIPBlocked/)
  each([5, {}, 'x'.repeat(1001)], reason => guard.blockIP('192.0.2.1', 60, { reason }), /^the reason of blockIP/)
  each([5, 'x'.repeat(1001)], origin => guard.blockIP('192.0.2.1', 60, { origin }), /^the origin of blockIP/)
  each([5, 'x'.repeat(1001)], origin => guard.unblockIP('192.0.2.1', { origin }), /^the origin of unblockIP/)
  each(
    ['yes', 1, null],
    replace => guard.blockIP('192.0.2.1', 60, { replace }),
    /^replace of blockIP must be true or false/
  )
  each(
    [0, -1, 1.5, NaN, Infinity, '5', null],
    limit => guard.getRateLimitEvents(limit),
    /^the limit of getRateLimitEvents must be a whole number >= 1/
  )
  each([0, -1, '5'], limit => guard.getSuspiciousIPs(limit), /^the limit of getSuspiciousIPs/)
  each([-1, 1.5, NaN, '5', undefined], age => guard.clearOldRateLimitEvents(age), /^the age of clearOldRateLimitEvents/)
  each(
    [undefined, null, 'x'],
    event => guard.logRateLimitEvent(event),
    /^the event of logRateLimitEvent must be an object/
  )
  each([{ type: 'other' }], event => guard.logRateLimitEvent(event), /^type of logRateLimitEvent/)
  each([{ ip: 'x' }, { ip: 5 }, { ip: null }], event => guard.logRateLimitEvent(event), /^ip of logRateLimitEvent/)
  each(
    [{ count: 0 }, { count: 1.5 }, { count: '1' }],
    event => guard.logRateLimitEvent(event),
    /^count of logRateLimitEvent/
  )
  each(
    [{ route: 5 }, { route: 'x'.repeat(1001) }],
    event => guard.logRateLimitEvent(event),
    /^route of logRateLimitEvent/
  )
  for (const [call, message] of wrong) await t.rejects(call(), { code: 'GUARD_ERR_ARGUMENT', message })
  t.same(await guard.getBlockedIPs(), [])
  t.same(await guard.getRateLimitEvents(), [])
})

t.test('a key cannot reach other entries in Redis', async t => {
  const app = await guardedApp(t, { redis: server.url, nameSpace: 'inject:', ...patient })
  const { redisGuard: guard } = app
  for (const key of [
    '{blocks}', 'inject:{blocks}', '../{blocks}', '{blocks}\r\nDEL inject:{blocks}', 'x'.repeat(1_000_000)
  ]) {
    await guard.set(key, key)
    t.equal(await guard.get(key), key)
  }
  await guard.blockIP('192.0.2.1', 60)
  t.equal(await guard.isIPBlocked('192.0.2.1'), true)
})

t.test('keys that are not valid text do not break the events, and long keys do not fill them', async t => {
  for (const redis of [server.url, false] as const) {
    const keys = ['\ud800', '\udc00"\\', 'x'.repeat(1_000_000)]
    let next = 0
    const keyGenerator = () => keys[next++ % 3]!
    const options = { redis, max: 0, maxEvents: 4, nameSpace: 'poison:', keyGenerator, ...patient }
    const app = await guardedApp(t, options)
    app.get('/', async () => 'ok')
    for (let round = 0; round < 4; round++) {
      for (let i = 0; i < 3; i++) t.equal((await app.inject('/')).statusCode, 429)
      const events = await app.redisGuard.getRateLimitEvents()
      t.ok(JSON.stringify(events).length < 3000)
      t.ok(events.length <= 4)
    }
    t.equal(app.redisGuard.status.store, redis === false ? 'memory' : 'redis')
    t.equal(await app.redisGuard.clearOldRateLimitEvents(0), 4)
    t.same(await app.redisGuard.getSuspiciousIPs(), [])
  }
})

t.test('a host that changes its address within its network is one suspect; a blocked range is one event', async t => {
  const app = await guardedApp(t, { max: 1, ...patient })
  app.get('/', async () => 'ok')
  for (let i = 0; i < 300; i++) await app.inject({ url: '/', remoteAddress: `2001:db8::${i.toString(16)}` })
  await app.redisGuard.blockIP('2001:db8:1::/48', 60)
  for (let i = 0; i < 300; i++) await app.inject({ url: '/', remoteAddress: `2001:db8:1:${i.toString(16)}::1` })
  t.same(await app.redisGuard.getSuspiciousIPs(), [{ ip: '2001:db8::/64', count: 299 }])
  const events = await app.redisGuard.getRateLimitEvents()
  t.equal(events.filter(({ type }) => type === 'blocked').reduce((sum, { count }) => sum + count, 0), 300)
  t.same(new Set(events.filter(({ type }) => type === 'blocked').map(({ ip }) => ip)), new Set(['2001:db8:1::/48']))
})

t.test('a switch listener that throws fails no request', async t => {
  const redis = await RedisServer.start()
  t.teardown(async () => await redis.stop())
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, { redis: redis.url }, logTo(lines))
  app.get('/', async () => 'ok')
  await until(() => app.redisGuard.status.store === 'redis')
  app.redisGuard.on('switch', () => { throw new Error('not today') })
  redis.signal('SIGSTOP')
  t.equal((await app.inject('/')).statusCode, 200)
  await until(() => lines.some(({ msg }) => msg === 'a listener of the switch event failed'))
})

t.test('a switch listener that throws or rejects is logged, and the other listeners are called', async t => {
  const redis = await RedisServer.start()
  t.teardown(async () => await redis.stop())
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, { redis: redis.url, resetTimeout: 50, ...patient }, logTo(lines))
  await until(() => app.redisGuard.status.store === 'redis')
  const failing = Object.values({ ...failingAtOnce, ...failingLater, ...failingWhenRead })
  for (const fail of failing) app.redisGuard.on('switch', fail)
  app.redisGuard.once('switch', failing.at(-1)!)
  app.redisGuard.prependListener('switch', failing[0]!)
  const heard: string[] = []
  app.redisGuard.on('switch', function (this: unknown, { store }) {
    if (this === app.redisGuard) heard.push(store)
  })
  app.redisGuard.once('switch', ({ store }) => heard.push(`once ${store}`))
  const failed = () => lines.filter(({ msg }) => msg === 'a listener of the switch event failed').length

  await redis.kill()
  await until(() => failed() === failing.length + 2)
  await redis.restart()
  await until(() => heard.includes('redis'))
  await until(() => failed() === 2 * failing.length + 3)
  t.same(heard, ['memory', 'once memory', 'redis'])
  t.equal(app.redisGuard.listenerCount('switch'), failing.length + 2)
})

t.test('events that Redis rejects stop neither limits nor the closing of the application, and are logged', async t => {
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  await observer.call('ACL', 'SETUSER', 'default', '-xadd')
  t.teardown(async () => await observer.call('ACL', 'SETUSER', 'default', '+xadd'))
  const lines: Record<string, unknown>[] = []
  const app = Fastify(logTo(lines))
  await app.register(redisGuard, { redis: server.url, max: 1, nameSpace: 'broken:', ...patient })
  app.get('/', async () => 'ok')
  t.same([(await app.inject('/')).statusCode, (await app.inject('/')).statusCode], [200, 429])
  await until(() => lines.length > 0)
  t.equal(app.redisGuard.status.store, 'redis')
  await app.inject('/')
  const { client } = app.redisGuard
  await app.close()
  await until(() => client!.status === 'end')
  t.match(lines, [{ msg: 'Redis rejected a command, memory answers for it' }])
})

t.test('events are written in the background', async t => {
  const app = await guardedApp(t, { redis: server.url, max: 0, nameSpace: 'behind:', ...patient })
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  app.get('/', async () => 'ok')
  await app.inject('/')
  await until(async () => await observer.xlen('behind:{events}') === 1)
})

t.test('events that are not yet written are written on close', async t => {
  const app = Fastify()
  await app.register(redisGuard, { redis: server.url, max: 0, nameSpace: 'close:', ...patient })
  app.get('/', async () => 'ok')
  await app.inject('/')
  await app.close()
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  t.equal(await observer.xlen('close:{events}'), 1)
})
