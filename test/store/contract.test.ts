/** The contract of stores, passed by memory, by Redis, and by both behind one another. */
import t, { type Test } from 'tap'
import { GuardedRedis } from '../../lib/redis/breaker.js'
import { Connection } from '../../lib/redis/connection.js'
import { defineLimit } from '../../lib/rules/rate-limit.js'
import { Journal } from '../../lib/outage/journal.js'
import { limitsOfMemory, type RequestLimits } from '../../lib/outage/limits.js'
import { outageStores } from '../../lib/outage/stores.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import { Shares } from '../../lib/outage/shares.js'
import type { LimitStore, Taken } from '../../lib/store/limit-store.js'
import { RedisStore } from '../../lib/store/redis/redis-store.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'
import { contractsOf } from '../support/redis-contracts.js'
import { storeContract, type StoreUnderTest } from './contract.js'

const server = await RedisServer.start()
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await server.stop()
})

const keys = new Keys('guard:')
const defaults = { maxEvents: 10_000 }

function memoryStore (options: { maxEvents?: number }): StoreUnderTest & { store: MemoryStore } {
  let nowMs = 1_700_000_000_000
  const store = new MemoryStore({ keys, capacity: 5000, ...defaults, ...options, now: () => nowMs })
  const { limits, blocks, events, values } = store
  return {
    limits,
    blocks,
    events,
    values,
    store,
    wait: async ms => { nowMs += ms },
    now: async () => nowMs
  }
}

/** Requests are decided one at a time. */
function takingLists (limits: RequestLimits): LimitStore {
  return {
    take: async hits => await Promise.all(hits.map(async hit => await new Promise<Taken>((resolve, reject) => {
      limits.takeOne(hit, 'memory', (failure, taken) => taken === undefined ? reject(failure) : resolve(taken))
    }))),
    peek: (key, checks) => limits.peek(key, checks),
    forget: (key, checks) => limits.forget(key, checks)
  }
}

/**
 * As if time had passed: Redis' clock cannot be set, so the ends of what it has stored are moved instead.
 *
 * KEYS: all; the list of blocks and their ends. ARGV: ms.
 */
const passTime = `
  local ms = tonumber(ARGV[1])
  local time = redis.call('TIME')
  local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, key in ipairs(redis.call('KEYS', '*')) do
    if redis.call('TYPE', key).ok == 'hash' and redis.call('HEXISTS', key, 'atMs') == 1 then
      redis.call('HINCRBY', key, 'atMs', -ms)
    end
    local endMs = redis.call('PEXPIRETIME', key)
    if endMs > 0 and endMs - ms <= nowMs then redis.call('DEL', key)
    elseif endMs > 0 then redis.call('PEXPIREAT', key, endMs - ms) end
  end
  local blocks = redis.call('HGETALL', KEYS[1])
  for i = 2, #blocks, 2 do
    local moved = string.gsub(blocks[i], '"expiresAtMs":(%d+)', function (endMs)
      return '"expiresAtMs":' .. string.format('%.0f', endMs - ms)
    end)
    redis.call('HSET', KEYS[1], blocks[i - 1], moved)
  end
  for _, ip in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do redis.call('ZINCRBY', KEYS[2], -ms, ip) end`

async function redisStore (t: Test, options: { maxEvents?: number }): Promise<StoreUnderTest & { store: RedisStore, guarded: GuardedRedis }> {
  await observer.flushall()
  const times = { connectTimeout: 30_000, commandTimeout: 30_000, resetTimeout: 500 }
  const connection = new Connection({ kind: 'server', options: { port: server.port } }, times)
  const guarded = new GuardedRedis(connection, { ...times, probeKey: keys.probe })
  t.teardown(() => guarded.close())
  await guarded.connect(30_000)
  const store = new RedisStore(guarded, { keys, instance: 'test', ...defaults, ...options })
  await store.instance.fence()
  return {
    ...contractsOf(store),
    guarded,
    store,
    wait: async ms => { await observer.eval(passTime, 2, keys.blocks, keys.blockExpiry, ms) },
    now: async () => {
      const [seconds, microseconds] = (await observer.time()).map(Number) as [number, number]
      return seconds * 1000 + Math.floor(microseconds / 1000)
    }
  }
}

t.test('memory', async t => storeContract(t, async (t, options = {}) => memoryStore(options)))

t.test('redis', async t => storeContract(t, async (t, options = {}) => await redisStore(t, options)))

t.test('both, with Redis', async t => storeContract(t, async (t, options = {}) => {
  const redis = await redisStore(t, options)
  const journal = new Journal({ capacity: 1000, maxEvents: 1000, onDrop: () => {} })
  const shares = new Shares(memoryStore(options).store.limits, Date.now)
  const { availability, limits, ...others } = outageStores({
    memory: memoryStore(options).store, redis: { ...redis, journal, shares }, keys, now: Date.now
  })
  t.teardown(() => availability.close())
  await availability.settle()
  return { ...redis, ...others, limits: takingLists(limits) }
}))

t.test('memory, with no Redis configured', async t => storeContract(t, async (t, options = {}) => {
  const memory = memoryStore(options)
  return { ...memory, limits: takingLists(limitsOfMemory(memory.store.limits)) }
}))

t.test('a key that lost its expiry gets one, and lets its client in again', async t => {
  const { limits, wait } = await redisStore(t, {})
  for (const algorithm of ['fixed-window', 'sliding-window', 'gcra'] as const) {
    const hit = { key: 'client', checks: [{ name: 'limit', limit: defineLimit(algorithm, 1, 100_000), cost: 1 }] }
    const key = keys.limit(algorithm, 'limit', 'client')
    const accepted = async () => (await limits.take([hit]))[0]!.accepted
    t.equal(await accepted(), true)
    await observer.persist(key)
    t.equal(await accepted(), false)
    const ttl = await observer.pttl(key)
    t.ok(ttl > 0 && ttl <= 200_000, `${algorithm}: ${ttl}`)
    await wait(210_000)
    t.equal(await accepted(), true)
  }
})

t.test('a key that holds something else is not counted on', async t => {
  const { limits } = await redisStore(t, {})
  await observer.set(keys.limit('fixed-window', 'limit', 'client'), 'not a number')
  await observer.hset(keys.limit('gcra', 'limit', 'client'), { used: 'x' })
  for (const algorithm of ['fixed-window', 'gcra'] as const) {
    const hit = { key: 'client', checks: [{ name: 'limit', limit: defineLimit(algorithm, 1, 100_000), cost: 1 }] }
    t.same((await limits.take([hit, hit])).map(({ accepted }) => accepted), [true, false])
  }
})

t.test('every counter in Redis expires', async t => {
  const { limits } = await redisStore(t, {})
  for (const algorithm of ['fixed-window', 'sliding-window', 'gcra'] as const) {
    await limits.take([{ key: 'client', checks: [{ name: 'limit', limit: defineLimit(algorithm, 3, 9000), cost: 2 }] }])
    const ttl = await observer.pttl(keys.limit(algorithm, 'limit', 'client'))
    t.ok(ttl > 0 && ttl <= 18_000, `${algorithm}: ${ttl}`)
  }
})

t.test('what has run out on the real clock is gone', async t => {
  const { limits, values, blocks } = await redisStore(t, {})
  const check = { name: 'limit', limit: defineLimit('fixed-window', 1, 20), cost: 1 }
  await limits.take([{ key: 'client', checks: [check] }])
  await values.set('key', 'value', 20)
  await blocks.block({ ip: '192.0.2.1', durationMs: 20, reason: '', origin: 'test' })
  await until(async () => (await limits.peek('client', [check])).states[0] === undefined)
  await until(async () => await values.get('key') === null)
  await until(async () => !await blocks.isBlocked('192.0.2.1'))
  t.same(await blocks.blocks(), [])
  t.equal((await limits.take([{ key: 'client', checks: [check] }]))[0]!.accepted, true)
})

t.test('blocks that ran out leave Redis when others are placed', async t => {
  const { blocks, wait } = await redisStore(t, {})
  for (let i = 0; i < 20; i++) await blocks.block({ ip: `192.0.2.${i}`, durationMs: 10_000, reason: '', origin: 'test' })
  await wait(20_000)
  await blocks.block({ ip: '198.51.100.1', durationMs: 60_000, reason: '', origin: 'test' })
  t.same(await observer.hkeys(keys.blocks), ['198.51.100.1'])
  t.same(await observer.zrange(keys.blockExpiry, '0', '-1'), ['198.51.100.1'])
})
