/** A Redis that is nearly full, evicts or may evict keys is reported once, at the start or when that begins. */
import t, { type Test } from 'tap'
import { MemoryWatch } from '../../lib/startup/memory-watch.js'
import { guardedApp, logTo } from '../support/app.js'
import { mockMachinery } from '../support/fake-timers.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const maxBytes = 20_000_000

/** A check that times out is repeated only after a minute, and a timeout adds a warning. */
const patient = { commandTimeout: 30_000 }

async function startServer (t: Test, policy = 'noeviction') {
  const server = await RedisServer.start('--maxmemory', String(maxBytes), '--maxmemory-policy', policy)
  t.teardown(async () => await server.stop())
  const client = server.client()
  t.teardown(() => client.disconnect())
  const usedBytes = async () => Number(/^used_memory:(\d+)/m.exec(await client.info())![1])
  /** Adds one key that takes the missing bytes. */
  const fillTo = async (part: number) => {
    await client.del('filler')
    const missing = Math.floor(maxBytes * part - await usedBytes())
    if (missing > 0) await client.call('SETRANGE', 'filler', missing, 'x')
    await client.expire('filler', 600)
  }
  const evictions = async () => Number(/^evicted_keys:(\d+)/m.exec(await client.info())![1])
  /** Adds keys until Redis has to evict one. */
  const overfill = async () => {
    const before = await evictions()
    for (let i = 0; await evictions() === before; i++) await client.set(`cache-${i}`, 'x'.repeat(1_000_000), 'EX', 600)
  }
  return { server, client, fillTo, overfill }
}

function watching (t: Test, client: { info: () => Promise<string> }) {
  const codes: string[] = []
  const details: object[] = []
  const clock = { ms: 1 }
  const watch = new MemoryWatch({
    ask: async () => [await client.info()],
    warn: ({ code }, given) => {
      codes.push(code)
      details.push(given)
    },
    now: () => clock.ms
  })
  return { watch, codes, details, clock }
}

t.test('reports memory above 80% of maxmemory once, and again after it was below 75%', async t => {
  const { client, fillTo } = await startServer(t)
  const { watch, codes, details } = watching(t, client)
  const codesAt = async (part: number) => {
    await fillTo(part)
    await watch.look()
    return codes.length
  }
  for (const [part, count] of [
    [0.5, 0], [0.78, 0], [0.85, 1], [0.9, 1], [0.78, 1], [0.85, 1], [0.6, 1], [0.85, 2]
  ] as const) {
    t.equal(await codesAt(part), count, `${part} of maxmemory`)
  }
  t.same(codes, ['GUARD_WARN_MEMORY', 'GUARD_WARN_MEMORY'])
  t.match(details[0], { maxBytes, policy: 'noeviction', usedBytes: Number })
})

t.test('reports evictions once, and again after an hour without any', async t => {
  const { client, overfill } = await startServer(t, 'volatile-lru')
  const { watch, codes, details, clock } = watching(t, client)
  const evictionsAfter = async (minutes: number, evicts: boolean) => {
    if (evicts) await overfill()
    clock.ms += minutes * 60_000
    await watch.look()
    return codes.filter(code => code === 'GUARD_WARN_EVICTED').length
  }
  for (const [minutes, evicts, count] of [
    [1, false, 0], [1, true, 1], [59, true, 1], [59, true, 1], [59, false, 1], [2, true, 2]
  ] as const) {
    t.equal(await evictionsAfter(minutes, evicts), count)
  }
  t.match(details[codes.indexOf('GUARD_WARN_EVICTED')], { evictedKeys: Number })
})

t.test('reports evictions from before the start, and follows a restarted Redis that counts from 0', async t => {
  const { server, client, overfill } = await startServer(t, 'volatile-ttl')
  await overfill()
  const { watch, codes, clock } = watching(t, client)
  await watch.look()
  t.same(codes.sort(), ['GUARD_WARN_EVICTED', 'GUARD_WARN_MEMORY', 'GUARD_WARN_VOLATILE_EVICTION'])
  await server.kill()
  await server.restart()
  clock.ms += 7_200_000
  await until(async () => await watch.look().then(() => true, () => false))
  t.equal(codes.length, 3)
  await overfill()
  await watch.look()
  t.equal(codes.filter(code => code === 'GUARD_WARN_EVICTED').length, 2)
})

t.test('reports each maxmemory-policy once', async t => {
  const { client } = await startServer(t, 'volatile-lru')
  const { watch, codes } = watching(t, client)
  for (const policy of ['volatile-lru', 'allkeys-lru', 'noeviction', 'allkeys-lru']) {
    await client.config('SET', 'maxmemory-policy', policy)
    await watch.look()
  }
  t.same(codes, ['GUARD_WARN_VOLATILE_EVICTION', 'GUARD_WARN_EVICTION'])
})

t.test('does not warn about memory without maxmemory or without a readable answer', async t => {
  for (const answers of [[], ['used_memory:5\r\nmaxmemory:0\r\n'], ['used_memory:x\r\nmaxmemory:1\r\n'], ['']]) {
    const codes: string[] = []
    await new MemoryWatch({ ask: async () => answers, warn: ({ code }) => codes.push(code), now: () => 0 }).look()
    t.same(codes, [])
  }
})

t.test('does not report old evictions again when their server did not answer in between', async t => {
  const info = (id: string, evicted: number) => `run_id:${id}\r\nevicted_keys:${evicted}\r\n`
  const looks = [
    [info('a', 0), info('b', 5)], [info('a', 0)], [info('a', 0), info('b', 5)], [info('a', 0), info('b', 6)]
  ]
  const codes: string[] = []
  let ms = 0
  const watch = new MemoryWatch({
    ask: async () => looks.shift()!,
    warn: ({ code }) => codes.push(code),
    now: () => ms
  })
  const counts: number[] = []
  while (looks.length > 0) {
    await watch.look()
    counts.push(codes.length)
    ms += 7_200_000
  }
  t.same(counts, [1, 1, 1, 2])
})

t.test('a failed check is followed by the next one, until the watch is closed', async t => {
  const clock = mockMachinery(t, 'setInterval')
  let asked = 0
  const watch = new MemoryWatch({ ask: async () => { asked++; throw new Error('away') }, warn: () => {}, now: () => 0 })
  watch.start()
  clock.tick(120_000)
  t.equal(asked, 3)
  watch.close()
  clock.tick(120_000)
  t.equal(asked, 3)
})

t.test('an application logs and lists warnings about its Redis while it runs', async t => {
  // With volatile-ttl Redis evicts the filler before the keys of the guard, except that of its probe.
  const { server, fillTo, overfill } = await startServer(t, 'volatile-ttl')
  const clock = mockMachinery(t, 'setInterval')
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, { redis: server.url, ...patient }, logTo(lines))
  const codes = () => app.redisGuard.warnings.map(({ code }) => code)
  await until(() => codes().length === 1)
  t.same(codes(), ['GUARD_WARN_VOLATILE_EVICTION'])
  await fillTo(0.85)
  clock.tick(60_000)
  await until(() => codes().length === 2)
  await fillTo(0.5)
  clock.tick(60_000)
  await app.redisGuard.get('x')
  await fillTo(0.85)
  clock.tick(60_000)
  await until(() => lines.length === 3)
  await overfill()
  clock.tick(60_000)
  await until(() => codes().length === 3)
  t.same(codes(), ['GUARD_WARN_VOLATILE_EVICTION', 'GUARD_WARN_MEMORY', 'GUARD_WARN_EVICTED'])
  t.match(lines.map(({ code }) => code), [
    'GUARD_WARN_VOLATILE_EVICTION', 'GUARD_WARN_MEMORY', 'GUARD_WARN_MEMORY', 'GUARD_WARN_EVICTED'
  ])
  t.match(lines[1], { maxBytes, msg: /more than 80% of its maxmemory/ })
})

t.test('checks each primary of a Cluster', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const clients = cluster.servers.map(server => server.client())
  t.teardown(() => clients.forEach(client => client.disconnect()))
  await clients[2]!.config('SET', 'maxmemory-policy', 'volatile-ttl')
  const nodes = cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port }))
  const app = await guardedApp(t, { redis: { cluster: nodes }, ...patient })
  await until(() => app.redisGuard.warnings.length > 0)
  t.match(app.redisGuard.warnings, [{ code: 'GUARD_WARN_VOLATILE_EVICTION' }])
})
