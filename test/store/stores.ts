/** Makes the stores that pass the contracts, through the methods that requests and the guarded client use. */
import type { Redis } from 'ioredis'
import type { Test } from 'tap'
import { Journal } from '../../lib/outage/journal.js'
import { Shares } from '../../lib/outage/shares.js'
import { outageStores } from '../../lib/outage/stores.js'
import { GuardedRedis } from '../../lib/redis/breaker.js'
import { Connection } from '../../lib/redis/connection.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import { RedisStore } from '../../lib/store/redis/redis-store.js'
import { RedisServer } from '../../tools/redis-server.js'
import { type Contracts, contractsOf } from '../support/redis-contracts.js'

export interface StoresUnderTest extends Contracts {
  /** lets time pass; durations in the contracts are too long to end on the real clock */
  readonly wait: (ms: number) => Promise<void>
  /** the store's clock, ms since 1970 */
  readonly now: () => Promise<number>
}

export type Make = (t: Test, options?: { readonly maxEvents?: number }) => Promise<StoresUnderTest>

export const keys = new Keys('guard:')

/** Makes stores. Those on Redis share one server, which is emptied each time. */
export class StoreMaker {
  readonly #server: RedisServer
  /** reads Redis directly */
  readonly observer: Redis

  private constructor (server: RedisServer) {
    this.#server = server
    this.observer = server.client()
  }

  static async start (t: Test): Promise<StoreMaker> {
    const maker = new StoreMaker(await RedisServer.start())
    t.teardown(async () => {
      maker.observer.disconnect()
      await maker.#server.stop()
    })
    return maker
  }

  readonly memory: Make = async (t, options) => {
    const { store, ...clock } = memoryStore(options)
    return { ...store, ...clock }
  }

  readonly redis: Make = async (t, options) => {
    const { store } = await this.#redisStore(t, options)
    await store.instance.fence()
    return { ...contractsOf(store), ...this.#clock }
  }

  readonly outageWithRedis: Make = async (t, options) => {
    const stores = outageStores({
      memory: memoryStore(options).store, redis: await this.#redisSide(t, options), keys, now: Date.now
    })
    t.teardown(() => stores.availability.close())
    await stores.availability.settle()
    t.equal(stores.availability.usesRedis, true)
    return { ...stores, ...this.#clock }
  }

  readonly outageWithoutRedis: Make = async (t, options) => {
    const redis = await this.#redisSide(t, options)
    redis.guarded.close()
    const { store: memory, nowMs, ...clock } = memoryStore(options)
    const stores = outageStores({ memory, redis, keys, now: nowMs })
    t.teardown(() => stores.availability.close())
    t.equal(stores.availability.usesRedis, false)
    return { ...stores, ...clock }
  }

  async #redisStore (t: Test, options: { readonly maxEvents?: number } = {}) {
    await this.observer.flushall()
    const times = { connectTimeout: 30_000, commandTimeout: 30_000, resetTimeout: 500 }
    const connection = new Connection({ kind: 'server', options: { port: this.#server.port } }, times)
    const guarded = new GuardedRedis(connection, { ...times, probeKey: keys.probe })
    t.teardown(() => guarded.close())
    await guarded.connect(30_000)
    return { guarded, store: new RedisStore(guarded, { keys, instance: 'test', ...defaults, ...options }) }
  }

  async #redisSide (t: Test, options?: { readonly maxEvents?: number }) {
    const journal = new Journal({ capacity: 10_000, maxEvents: 10_000, onDrop: kind => t.fail(kind) })
    const shares = new Shares(memoryStore(options).store.limits, Date.now)
    return { ...await this.#redisStore(t, options), journal, shares }
  }

  readonly #clock: Pick<StoresUnderTest, 'wait' | 'now'> = {
    wait: async ms => { await this.observer.eval(passTime, 2, keys.blocks, keys.blockExpiry, ms) },
    now: async () => {
      const [seconds, microseconds] = (await this.observer.time()).map(Number) as [number, number]
      return seconds * 1000 + Math.floor(microseconds / 1000)
    }
  }
}

const defaults = { maxEvents: 10_000 }

function memoryStore (options: { readonly maxEvents?: number } = {}) {
  let ms = 1_700_000_000_000
  const nowMs = () => ms
  return {
    store: new MemoryStore({ keys, capacity: 5000, ...defaults, ...options, now: nowMs }),
    nowMs,
    wait: async (byMs: number) => { ms += byMs },
    now: async () => ms
  }
}

/**
 * Lets time pass in Redis. Its clock cannot be set, so the script moves the ends of the stored entries instead.
 *
 * KEYS: all; the block list and the ends of blocks. ARGV: ms.
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
