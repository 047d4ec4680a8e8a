/** Measures the bytes that one client takes in Redis: MEMORY USAGE of the keys that one request leaves. */
import Fastify from 'fastify'
import type { Redis } from 'ioredis'
import { type VariantName, variants } from './variants.js'

export interface RedisBytes {
  readonly variant: VariantName
  readonly key: string
  /** bytes of the key's name, which `bytes` includes */
  readonly keyLength: number
  /** name, value and entry; without the entry of the table of expiry times */
  readonly bytes: number
}

const counting =
  ['fastify-redis', 'flexible-redis', 'guard-fixed-window', 'guard-sliding-window', 'guard-gcra'] as const
const address = '198.18.100.100'

export async function measureRedisBytes (redis: Redis, redisPort: number): Promise<RedisBytes[]> {
  const rows: RedisBytes[] = []
  for (const variant of counting) {
    await redis.flushall()
    const app = Fastify({ trustProxy: ['127.0.0.0/8'] })
    try {
      await variants[variant].add(app, { redisPort, nearRedisPort: redisPort, max: 1000, blocks: false })
      app.get('/', async () => ({ hello: 'world' }))
      // Twice, since a counter of 1 can be smaller than others.
      for (let i = 0; i < 2; i++) await app.inject({ url: '/', headers: { 'x-forwarded-for': address } })
      for (const key of await redis.keys(`*${address}*`)) {
        rows.push({
          variant,
          key,
          keyLength: key.length,
          bytes: Number(await redis.memory('USAGE', key, 'SAMPLES', 0))
        })
      }
    } finally {
      await app.close()
    }
  }
  return rows
}
