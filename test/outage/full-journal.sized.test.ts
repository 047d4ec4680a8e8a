/** A Redis that works but refuses the replay: real servers, under a flood of fresh names. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { inChunk } from '../../lib/outage/counter-journal.js'
import { atOnce } from '../../lib/outage/recovery.js'
import { guardedApp, logTo } from '../support/app.js'
import { inRepository } from '../support/paths.js'
import { Program } from '../../tools/program.js'
import { RedisServer } from '../../tools/redis-server.js'
import { size } from '../support/size.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

/** Several times more than fits into a call. */
const maxJournal = size(500, 2000)
/** The least duration of a flood. It also lasts until Redis was found to work several times. */
const floodMs = size(0, 5000)
/** ms between a hundred names and the next */
const pauseMs = size(20, 1)
/** Larger values instead of more requests: together they are twice the heap. */
const small = { requests: 6000, valueBytes: 20_000 }
const max = 5
/** Long enough for a probe on a busy machine; a dropped packet costs as long. */
const times = { resetTimeout: 100, commandTimeout: size(1000, 250), connectTimeout: 30_000 }

interface Flooded {
  readonly app: FastifyInstance
  readonly admin: Redis
  readonly proxy: TcpProxy
  readonly lines: Record<string, unknown>[]
}

async function setUp (t: Test): Promise<Flooded> {
  const server = await RedisServer.start('--maxmemory-policy', 'noeviction')
  t.teardown(async () => await server.stop())
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const admin = server.client()
  t.teardown(() => admin.disconnect())
  const lines: Record<string, unknown>[] = []
  const options = { redis: { port: proxy.port }, max, timeWindow: '1 hour', maxJournal, ...times }
  const app = await guardedApp(t, options, logTo(lines))
  app.get('/', async () => 'ok')
  t.equal(app.redisGuard.status.store, 'redis')
  return { app, admin, proxy, lines }
}

async function hit (app: FastifyInstance, remoteAddress: string): Promise<number> {
  return (await app.inject({ url: '/', remoteAddress })).statusCode
}

async function metric (app: FastifyInstance, name: string): Promise<number> {
  const found = new RegExp(`^${name} (\\d+)$`, 'm').exec((await app.inject('/metrics')).payload)
  return Number(found?.[1] ?? 0)
}

const dropped = (kind: string) => `redis_guard_journal_dropped_total\\{kind="${kind}"\\}`

/** The names of the flood, each used once. */
const freshName = (i: number) => `198.${i >> 16}.${(i >> 8) & 255}.${i & 255}`

/**
 * Continues until Redis was found to work three more times, and refused the journal each time.
 *
 * @returns the number of names, and the most entries that the journal had
 */
async function flood (
  app: FastifyInstance, forMs: number, meanwhile: () => Promise<void>
): Promise<{ names: number, most: number }> {
  const timesUp = async () => await metric(app, 'redis_guard_breaker_transitions_total\\{to="closed"\\}')
  const [endMs, enough] = [Date.now() + forMs, await timesUp() + 3]
  let [names, most] = [0, 0]
  while (Date.now() < endMs || names < 3 * maxJournal || await timesUp() < enough) {
    for (let i = 0; i < 100; i++) await hit(app, freshName(names++))
    // Answers without Redis leave its connection no turn of the event loop.
    await sleep(pauseMs)
    await meanwhile()
    most = Math.max(most, await metric(app, 'redis_guard_journal_entries'))
  }
  return { names, most }
}

/** @returns the sum of the fresh names' counters in Redis, and the largest one */
async function countedOf (admin: Redis, names: number): Promise<{ sum: number, most: number }> {
  const keys = Array.from({ length: names }, (_, i) => `guard:fixed-window:{${freshName(i)}}:global`)
  const counts = (await admin.mget(keys)).map(Number)
  return { sum: counts.reduce((a, b) => a + b, 0), most: Math.max(...counts) }
}

/** Leaves room for the probe, the fence and the heartbeat, but not for a hundred counters. */
async function fill (admin: Redis): Promise<void> {
  const used = Number(/^used_memory:(\d+)/m.exec(await admin.info('memory'))![1])
  await admin.config('SET', 'maxmemory', String(used + 12_000))
}

type Change = (flooded: Flooded) => Promise<void>

const refusals: Record<string, { readonly begin: Change, readonly end: Change }> = {
  'is full': {
    begin: async ({ admin }) => await fill(admin),
    end: async ({ admin }) => { await admin.config('SET', 'maxmemory', '0') }
  },
  'is behind something that drops large packets': {
    begin: async ({ proxy }) => { proxy.largest = 6000 },
    end: async ({ proxy }) => { proxy.largest = Infinity }
  }
}

for (const [name, { begin, end }] of Object.entries(refusals)) {
  t.test(`with a Redis that ${name}, the journal stays in its bound, and what it keeps arrives once`, async t => {
    const flooded = await setUp(t)
    const { app, admin, proxy, lines } = flooded
    t.equal(await hit(app, '192.0.2.1'), 200)
    proxy.blackhole = true
    await until(async () => await app.redisGuard.get('x') === null && app.redisGuard.status.store === 'memory')
    for (let i = 1; i < max; i++) t.equal(await hit(app, '192.0.2.1'), 200)
    for (let i = 0; i < max; i++) t.equal(await hit(app, '192.0.2.2'), 200)
    await app.redisGuard.blockIP('203.0.113.1', 600)
    await app.redisGuard.incr('sum')
    const { names, most } = await flood(app, floodMs, async () => {
      // After the first hundred names: enough for a chunk that Redis refuses.
      await begin(flooded)
      proxy.blackhole = false
    })
    t.ok(most <= maxJournal, `${most} entries at most`)
    t.ok(most > maxJournal * 0.9, `${most} entries at most`)
    const logged = (pattern: RegExp) => lines.filter(({ msg }) => pattern.test(String(msg))).length
    t.ok(logged(/the journal is full: some of the counters/) >= 1)
    t.ok(logged(/the journal is full: some of the counters/) <= logged(/Redis is away/), 'at most once for each outage')
    t.equal(await metric(app, dropped('blocks')), 0)
    t.equal(await metric(app, dropped('values')), 0)
    await end(flooded)
    await until(() => app.redisGuard.status.store === 'redis')
    await until(async () => await metric(app, 'redis_guard_journal_entries') === 0)
    for (const address of ['192.0.2.1', '192.0.2.2']) {
      const used = await admin.get(`guard:fixed-window:{${address}}:global`)
      t.equal(used, String(max), `${address} has used its quota in Redis`)
      t.equal(await hit(app, address), 429)
    }
    t.equal(await admin.hexists('guard:{blocks}', '203.0.113.1'), 1)
    t.equal(await admin.get('guard:value:{sum}'), '1')
    const counted = await countedOf(admin, names)
    t.equal(counted.most, 1, 'no hit is counted twice')
    const arrivedOrDropped = counted.sum + await metric(app, dropped('counters'))
    t.ok(arrivedOrDropped >= names, `${arrivedOrDropped} of ${names} hits have arrived or were counted as dropped`)
    // An entry that Redis has but has not answered may be dropped as well, and counts as both.
    t.ok(arrivedOrDropped <= names + atOnce * inChunk, `${arrivedOrDropped} of ${names} hits, some of them twice`)
  })
}

t.test('a process with a small heap survives a Redis that does not accept the journal', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  proxy.largest = 6000
  const bounds = { maxJournal, cache: size(500, 1000), maxEvents: 1000 }
  const options: RedisGuardOptions = { redis: { port: proxy.port }, max: 1, resetTimeout: 100, ...bounds }
  const flooding = new Program(process.execPath, [
    '--max-old-space-size=64', inRepository('test/support/flood.mjs'), JSON.stringify(options),
    JSON.stringify(size<object>(small, {}))
  ])
  t.teardown(async () => await flooding.stop('SIGKILL'))
  await flooding.saying(/at most \d+ entries/, 100_000)
  t.match(flooding.output, /^store memory/)
  const most = Number(/at most (\d+)/.exec(flooding.output)![1])
  t.ok(most > maxJournal * 0.9 && most <= maxJournal, `${most} entries at most`)
  t.equal(await flooding.exited(), 0)
})
