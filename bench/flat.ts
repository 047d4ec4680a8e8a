/**
 * Shows whether memory and handles stay the same while requests come from random
 * addresses:
 *
 *   npm run bench:flat                              5 million requests on Redis, some 10 minutes
 *   npm run bench:flat -- --requests 100000 --max 0
 *   npm run bench:flat -- --max 1000,0              two routes by turns, with a limit each
 *   npm run bench:flat -- --redis 6379              a Redis that runs already
 *
 * Prints a line of JSON for each of `--looks` looks; needs --expose-gc, and a
 * process that does nothing else.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import Fastify from 'fastify'
import redisGuard from 'fastify-redis-guard'
import { RedisServer } from '../tools/redis-server.js'

export interface Look {
  readonly requests: number
  /** in use after a collection: heap and typed arrays */
  readonly bytes: number
  readonly handles: number
}

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '5000000' },
    max: { type: 'string', default: '1000' },
    looks: { type: 'string', default: '20' },
    redis: { type: 'string' }
  }
})
const limits = values.max.split(',').map(Number)
const server = values.redis === undefined
  ? await RedisServer.start('--maxmemory', '1gb', '--maxmemory-policy', 'volatile-ttl')
  : undefined
const app = Fastify({ trustProxy: ['127.0.0.1'] })
try {
  await app.register(redisGuard, {
    redis: { port: server?.port ?? Number(values.redis) },
    // On a busy machine, too, Redis must stay in use, since its memory is measured.
    commandTimeout: 10_000,
    timeWindow: '1 minute',
    cache: 1000,
    maxEvents: 1000
  })
  for (const [i, max] of limits.entries()) app.get(`/${i}`, { config: { rateLimit: { max } } }, async () => 'ok')
  // Enough to fill all that is bounded by 10,000 clients; what is full is emptied, and as full again after as many.
  await send(15_000)
  const looks = Number(values.looks)
  const step = Math.ceil(Number(values.requests) / looks)
  for (let i = 0; i <= looks; i++) {
    if (i > 0) await send(step)
    console.log(JSON.stringify(await look(i * step)))
  }
  if (app.redisGuard.status.store !== 'redis') throw new Error(`Redis went away: ${app.redisGuard.status.reason}`)
} finally {
  await app.close()
  await server?.stop()
}

async function send (count: number): Promise<void> {
  for (let sent = 0; sent < count; sent += 50) {
    await Promise.all(Array.from({ length: 50 }, async (_, i) => {
      return await app.inject({ url: `/${i % limits.length}`, headers: { 'x-forwarded-for': anyAddress() } })
    }))
  }
}

function anyAddress (): string {
  const part = (values: number) => Math.floor(Math.random() * values)
  if (part(10) < 7) return `${1 + part(223)}.${part(256)}.${part(256)}.${part(256)}`
  return `2001:db8:${part(65536).toString(16)}:${part(65536).toString(16)}::1`
}

/** The smallest of several looks. In one of them no write and no answer is pending. */
async function look (requests: number): Promise<Look> {
  const bytes: number[] = []
  for (let i = 0; i < 4; i++) {
    await sleep(150)
    globalThis.gc!()
    const { heapUsed, arrayBuffers } = process.memoryUsage()
    bytes.push(heapUsed + arrayBuffers)
  }
  return { requests, bytes: Math.min(...bytes), handles: process.getActiveResourcesInfo().length }
}
