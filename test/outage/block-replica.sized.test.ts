/** The block list of a process follows the one in Redis, and is never replaced by a list that Redis has lost. */
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { BlockListFollower } from '../../lib/outage/block-replica.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import type { RedisBlocks } from '../../lib/store/redis/blocks.js'
import { guardedApp, logTo } from '../support/app.js'
import { randomFrom } from '../support/random.js'
import { RedisServer } from '../../tools/redis-server.js'
import { size } from '../support/size.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

const server = await RedisServer.start()
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await server.stop()
})

const syncInterval = 50

/** For a follower alone: Redis never loses its data. */
const known = { knowsEpoch: () => true, onLost: () => {} }

async function instance (t: Test, port = server.port, commandTimeout = 10_000): Promise<FastifyInstance> {
  const app = await guardedApp(t, { redis: { port }, syncInterval, commandTimeout, resetTimeout: 100 })
  app.get('/', async () => 'ok')
  await until(() => app.redisGuard.status.store === 'redis')
  return app
}

async function statusFor (app: FastifyInstance, remoteAddress: string): Promise<number> {
  return (await app.inject({ url: '/', remoteAddress })).statusCode
}

t.beforeEach(async () => { await observer.flushall() })

t.test('blocks and unblocks of one instance reach another at its next look', async t => {
  const [one, other] = [await instance(t), await instance(t)]
  await one.redisGuard.blockIP('192.0.2.1', 60)
  await one.redisGuard.blockIP('198.51.100.0/24', 60)
  t.same(
    [await statusFor(one, '192.0.2.1'), await statusFor(one, '198.51.100.7')],
    [403, 403],
    'at once on the instance that was called'
  )
  await until(
    async () => await statusFor(other, '192.0.2.1') === 403 && await statusFor(other, '198.51.100.7') === 403,
    100 * syncInterval
  )
  await other.redisGuard.unblockIP('192.0.2.1')
  t.equal(await statusFor(other, '192.0.2.1'), 200)
  await until(async () => await statusFor(one, '192.0.2.1') === 200, 100 * syncInterval)
  t.equal(await statusFor(one, '198.51.100.7'), 403)
})

t.test('an instance has all blocks before its first request', async t => {
  const one = await instance(t)
  // Redis returns the list in pages of 500.
  const addresses = Array.from({ length: 1200 }, (_, i) => `192.0.${i >> 8}.${i & 255}`)
  await Promise.all(addresses.map(async ip => await one.redisGuard.blockIP(ip, 60)))
  const other = await instance(t)
  t.same([
    await statusFor(other, '192.0.0.0'),
    await statusFor(other, '192.0.4.175'),
    await statusFor(other, '192.0.4.176')
  ], [403, 403, 200])
})

t.test('a block ends by itself on every instance', async t => {
  const [one, other] = [await instance(t), await instance(t)]
  await one.redisGuard.blockIP('192.0.2.1', 3600)
  await until(async () => await statusFor(other, '192.0.2.1') === 403)
  const nowMs = performance.now.bind(performance)
  let aheadMs = 3_500_000
  t.intercept(performance, 'now', { value: () => nowMs() + aheadMs })
  t.same([await statusFor(one, '192.0.2.1'), await statusFor(other, '192.0.2.1')], [403, 403])
  aheadMs = 3_600_000
  t.same([await statusFor(one, '192.0.2.1'), await statusFor(other, '192.0.2.1')], [200, 200])
})

t.test('an instance that was away loads the list if it missed too many changes', async t => {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const [one, away] = [await instance(t), await instance(t, proxy.port, 500)]
  await one.redisGuard.blockIP('192.0.2.1', 60)
  await one.redisGuard.blockIP('192.0.2.2', 60)
  await until(async () => await statusFor(away, '192.0.2.2') === 403)

  proxy.blackhole = true
  await until(() => away.redisGuard.status.store === 'memory' || away.redisGuard.get('x').then(() => false))
  await one.redisGuard.unblockIP('192.0.2.1')
  await one.redisGuard.blockIP('192.0.2.3', 60)
  await observer.xtrim('guard:{blocks}:changes', 'MAXLEN', 0)
  t.same(
    [await statusFor(away, '192.0.2.1'), await statusFor(away, '192.0.2.2')],
    [403, 403],
    'in the meantime it uses the list that it knows'
  )

  proxy.blackhole = false
  await until(() => away.redisGuard.status.store === 'redis')
  await until(async () => await statusFor(away, '192.0.2.3') === 403)
  t.same([await statusFor(away, '192.0.2.1'), await statusFor(away, '192.0.2.2')], [200, 403])
})

t.test('a Redis that lost its list gets it back, and its new changes are not mistaken for old ones', async t => {
  const one = await instance(t)
  await one.redisGuard.blockIP('192.0.2.1', 60)
  await observer.flushall()
  const other = await instance(t)
  await other.redisGuard.blockIP('192.0.2.2', 60)
  await until(async () => await statusFor(one, '192.0.2.2') === 403)
  await until(async () => await statusFor(other, '192.0.2.1') === 403)
  t.equal(await statusFor(one, '192.0.2.1'), 403)
  t.same((await other.redisGuard.getBlockedIPs()).map(({ ip }) => ip), ['192.0.2.1', '192.0.2.2'])
  // Redis did not get back a block that has been lifted since.
  await other.redisGuard.unblockIP('192.0.2.1')
  await until(async () => await statusFor(one, '192.0.2.1') === 200)
})

t.test('a foreign entry hides no block', async t => {
  await observer.hset('guard:{blocks}', {
    'not an address': '{}',
    '192.0.2.7': 'not JSON',
    '192.0.2.8': '{"expiresAtMs":"soon"}',
    '010.0.0.1': '{}'
  })
  const first = await instance(t)
  await first.redisGuard.blockIP('192.0.2.1', 60)
  // It loads the list at its start, so it reads what comes later as changes.
  const second = await instance(t)
  const change = async (ip: string, block: string) => {
    const sequence = String(await observer.incr('guard:{blocks}:sequence'))
    await observer.xadd('guard:{blocks}:changes', '*', 'sequence', sequence, 'ip', ip, 'block', block)
  }
  await change('192.0.2.9', 'not JSON')
  for (const ip of ['no address', '010.0.0.1']) {
    for (const block of ['', '{}']) await change(ip, block)
  }
  await first.redisGuard.blockIP('192.0.2.2', 60)
  await until(async () => await statusFor(second, '192.0.2.2') === 403)
  t.same([
    await statusFor(second, '192.0.2.1'),
    await statusFor(second, '192.0.2.7'),
    await statusFor(second, '192.0.2.9')
  ], [403, 200, 200])
  t.equal(await second.redisGuard.isIPBlocked('192.0.2.7'), false)
  t.same((await second.redisGuard.getBlockedIPs()).map(({ ip }) => ip), ['192.0.2.1', '192.0.2.2'])
})

t.test("a client with `stringNumbers`, ours or the user's, makes no difference", async t => {
  const own = new Redis({ port: server.port, stringNumbers: true })
  t.teardown(() => own.disconnect())
  for (const redis of [{ port: server.port, stringNumbers: true }, own]) {
    const app = await guardedApp(t, { redis, max: 1, nameSpace: redis === own ? 'own:' : 'ours:' })
    app.get('/', async () => 'ok')
    t.same([await statusFor(app, '192.0.2.5'), await statusFor(app, '192.0.2.5')], [200, 429])
    await app.redisGuard.blockIP('192.0.2.1', 60)
    t.same([await app.redisGuard.isIPBlocked('192.0.2.1'), await app.redisGuard.unblockIP('192.0.2.1')], [true, true])
    await app.redisGuard.set('key', 1)
    t.same(
      [await app.redisGuard.incr('key'), await app.redisGuard.expire('key', 5), await app.redisGuard.del('key')],
      [2, true, true]
    )
    t.equal(await app.redisGuard.clearOldRateLimitEvents(0), 1)
  }
})

/** The answer of Redis to a look for changes. It does not continue from the known ones, so the list is loaded. */
const missed =
  { nowMs: 0, cursor: { id: '0-0', sequence: 0 }, changes: [], missed: true, isBehind: false, epoch: 'known' }

const losses = {
  'is found when it is looked at': { answers: [{ ...missed, epoch: 'another' }], loads: 0 },
  'came back with older data': { answers: [{ ...missed, isBehind: true }], loads: 0 },
  'goes while it loads': { answers: [missed, { ...missed, epoch: '' }], loads: 1 },
  'is replaced by an older one while it loads': { answers: [missed, { ...missed, isBehind: true }], loads: 1 }
}
for (const [name, { answers, loads }] of Object.entries(losses)) {
  t.test(`a list that a Redis has lost is not adopted: the loss ${name}`, async t => {
    let [asked, loaded, lost] = [0, 0, 0]
    const redis = {
      changes: async () => answers[asked++]!,
      async * pages () {
        loaded++
        yield []
      }
    } as unknown as RedisBlocks
    const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 1, maxEvents: 1, now: Date.now })
    memory.blocks.block({ ip: '192.0.2.1', durationMs: 60_000, reason: '', origin: '' })
    const follower = new BlockListFollower({
      memory: memory.blocks,
      redis,
      usable: () => true,
      knowsEpoch: epoch => epoch === 'known',
      onLost: () => { lost++ },
      intervalMs: 10,
      now: () => 0,
      onError: error => { throw error }
    })
    await follower.sync()
    t.same([asked, loaded, lost], [answers.length, loads, 1])
    t.equal(memory.blocks.isBlocked('192.0.2.1'), true)
    follower.close()
    await follower.sync()
    t.equal(asked, answers.length, 'a closed follower asks nothing')
  })
}

t.test('a list that changes faster than it loads is read again later, not at once', async t => {
  let loads = 0
  const redis = {
    changes: async () => ({ nowMs: Date.now(), cursor: { id: '0-0', sequence: 0 }, changes: [], missed: true }),
    async * pages () { loads++ }
  }
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 1, maxEvents: 1, now: () => Date.now() })
  const follower = new BlockListFollower({
    memory: memory.blocks,
    redis: redis as unknown as RedisBlocks,
    usable: () => true,
    ...known,
    intervalMs: 10,
    now: () => Date.now(),
    onError: error => { throw error }
  })
  await follower.sync()
  t.equal(loads, 1)
})

t.test('after a failed load of the list, changes are no longer recorded for it', async t => {
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 10, maxEvents: 1, now: Date.now })
  const redis = {
    changes: async () =>
      ({ nowMs: Date.now(), cursor: { id: '0-1', sequence: 1 }, changes: [], missed: true, epoch: '' }),
    async * pages () { throw new Error('gone') }
  } as unknown as RedisBlocks
  const errors: Error[] = []
  const follower = new BlockListFollower({
    ...known,
    memory: memory.blocks,
    redis,
    usable: () => true,
    intervalMs: 1000,
    now: Date.now,
    onError: error => errors.push(error)
  })
  await follower.sync()
  t.match(errors, [{ message: 'gone' }])
  memory.blocks.block({ ip: '192.0.2.1', durationMs: 60_000, reason: '', origin: '' })
  await memory.blocks.replace(async () => true)
  t.same(memory.blocks.blocks(), [], 'a later list is adopted unchanged')
})

t.test('times follow the clock of this process, not of Redis; changes during a load are kept', async t => {
  const hourMs = 3_600_000
  const clock = { ms: 1_000_000_000 }
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 1, maxEvents: 1, now: () => clock.ms })
  const block = (ip: string) =>
    ({ ip, reason: '', origin: '', blockedAtMs: clock.ms + hourMs, expiresAtMs: clock.ms + hourMs + 1000 })
  let missed = true
  const redis = {
    changes: async () => {
      const answer = {
        nowMs: clock.ms + hourMs,
        cursor: { id: '0-0', sequence: 0 },
        changes: missed ? [] : [{ ip: '192.0.2.2', block: block('192.0.2.2') }],
        missed
      }
      missed = false
      return answer
    },
    async * pages () {
      memory.blocks.block({ ip: '192.0.2.3', durationMs: 1000, reason: '', origin: '' })
      memory.blocks.unblock('192.0.2.4')
      yield [block('192.0.2.1'), block('192.0.2.4')]
    }
  }
  let asked = 0
  const follower = new BlockListFollower({
    memory: memory.blocks,
    redis: redis as unknown as RedisBlocks,
    usable: () => asked++ < 2,
    ...known,
    intervalMs: 10,
    now: () => clock.ms,
    onError: error => { throw error }
  })
  await follower.sync()
  const blocked = () => ['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4'].map(ip => memory.blocks.isBlocked(ip))
  t.same(blocked(), [true, true, true, false])
  clock.ms += 1000
  t.same(blocked(), [false, false, false, false])
})

t.test('a list that cannot be read because Redis went away is not reported', async t => {
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 10, maxEvents: 1, now: Date.now })
  let isUsable = true
  const redis = {
    async changes () {
      isUsable = false
      throw new Error('gone')
    }
  } as unknown as RedisBlocks
  const errors: Error[] = []
  const follower = new BlockListFollower({
    ...known,
    memory: memory.blocks,
    redis,
    usable: () => isUsable,
    intervalMs: 1000,
    now: Date.now,
    onError: error => errors.push(error)
  })
  await follower.sync()
  t.same(errors, [])
})

t.test('a list that cannot be read leaves the current one in force, and is reported once', async t => {
  const lines: Record<string, unknown>[] = []
  const options = { redis: { port: server.port }, syncInterval, commandTimeout: 10_000 }
  const one = await guardedApp(t, options, logTo(lines))
  one.get('/', async () => 'ok')
  await until(() => one.redisGuard.status.store === 'redis')
  lines.length = 0
  const refused = async () => {
    const { body } = await one.inject('/metrics')
    return Number(/redis_guard_errors_total\{kind="reply"\} (\d+)/.exec(body)![1])
  }
  await one.redisGuard.blockIP('192.0.2.1', 60)
  await observer.call('ACL', 'SETUSER', 'default', '-xread')
  await until(async () => await refused() >= 4)
  t.equal(await statusFor(one, '192.0.2.1'), 403)
  t.match(lines.map(({ msg }) => msg).sort(), [
    'Redis rejected a command, memory answers for it',
    'the block list could not be read from Redis'
  ])
  await observer.call('ACL', 'SETUSER', 'default', '+xread')
  const other = await instance(t)
  await other.redisGuard.blockIP('192.0.2.5', 60)
  await until(async () => await statusFor(one, '192.0.2.5') === 403)
})

t.test('an older change of another instance neither unblocks nor blocks a client', async t => {
  const [one, other] = [await instance(t), await instance(t)]
  let wrong = 0
  for (let i = 0; i < size(100, 400); i++) {
    const ip = `10.0.0.${i % 200}`
    await other.redisGuard.blockIP(ip, 5)
    await other.redisGuard.unblockIP(ip)
    await one.redisGuard.blockIP(ip, 60)
    if (await statusFor(one, ip) !== 403) wrong++
    await other.redisGuard.unblockIP(ip)
    await other.redisGuard.blockIP(ip, 50)
    await one.redisGuard.unblockIP(ip)
    if (await statusFor(one, ip) !== 200) wrong++
  }
  t.equal(wrong, 0)
})

const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e6))

t.test(`two instances and Redis end alike, whatever is blocked, with outages between (SEED=${seed})`, async t => {
  const random = randomFrom(seed)
  const proxies = [await TcpProxy.start(server.port), await TcpProxy.start(server.port)]
  t.teardown(async () => await Promise.all(proxies.map(async proxy => await proxy.stop())))
  const apps = await Promise.all(proxies.map(async ({ port }) => await instance(t, port, 500)))
  const isAt = (app: FastifyInstance, store: string) => async () => {
    await app.redisGuard.get('x')
    return app.redisGuard.status.store === store
  }
  const cut = async (i: number) => {
    proxies[i]!.blackhole = true
    await until(isAt(apps[i]!, 'memory'))
  }
  const ips = ['192.0.2.1', '192.0.2.2', '192.0.2.0/24']
  const standing = new Map<string, { readonly reason: string, readonly end: number }>()
  const step = async (reason: string) => {
    const [app, ip] = [random.pick(apps), random.pick(ips)]
    const known = standing.get(ip)
    if (random.chance(0.2)) {
      standing.delete(ip)
      return await app.redisGuard.unblockIP(ip)
    }
    const [seconds, replace] = [random.pick([600, 6000, 60_000, Infinity]), random.chance(0.2)]
    const end = Date.now() + seconds * 1000
    if (replace || known === undefined || end > known.end) standing.set(ip, { reason, end })
    await app.redisGuard.blockIP(ip, seconds, { reason, replace })
  }
  const expected = () => [...standing].map(([ip, { reason }]) => `${ip} ${reason}`).sort()
  const found = async (app: FastifyInstance) =>
    (await app.redisGuard.getBlockedIPs()).map(({ ip, reason }) => `${ip} ${reason}`).sort()

  for (let round = 0; round < size(3, 6); round++) {
    const away = random.pick([[], [0], [1], [0, 1]])
    for (const i of away) await cut(i)
    for (let i = 0; i < 5; i++) {
      await step(`${round}.${i}`)
      // Longer than Redis takes to get the change, so that the order of two changes is certain.
      await sleep(50)
    }
    for (const i of away) {
      proxies[i]!.blackhole = false
      await until(isAt(apps[i]!, 'redis'))
    }
    t.same(await found(apps[0]!), expected(), `round ${round}, away: ${away}`)
  }
  // An instance that knows the other's last block has followed all changes.
  for (const [i, app] of apps.entries()) {
    const ip = `198.51.100.${i}`
    await app.redisGuard.blockIP(ip, 600, { reason: 'last' })
    standing.set(ip, { reason: 'last', end: Infinity })
    for (const other of apps) await until(async () => await statusFor(other, ip) === 403)
  }
  for (const [i, app] of apps.entries()) {
    await cut(i)
    t.same(await found(app), expected(), `memory of instance ${i}`)
  }
})
