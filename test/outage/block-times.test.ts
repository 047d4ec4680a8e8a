/** The order of blocks and unblocks: they count in the order of the calls, even if some reach Redis late. */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { GuardedRedis } from '../../lib/redis/breaker.js'
import { Connection } from '../../lib/redis/connection.js'
import { inChunk } from '../../lib/outage/counter-journal.js'
import { Journal } from '../../lib/outage/journal.js'
import { type OutageStores, outageStores } from '../../lib/outage/stores.js'
import type { BlockStore } from '../../lib/store/block-store.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryLimits } from '../../lib/store/memory/limits.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import { RedisStore } from '../../lib/store/redis/redis-store.js'
import { Shares } from '../../lib/outage/shares.js'
import { guardedApp } from '../support/app.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const hourMs = 3_600_000
const ip = '192.0.2.1'
/** the timeout of a call that hangs */
const hungMs = 200
/** how much later than the next call a hanging call runs, on Redis' own clock */
const laterMs = 100
const keys = new Keys('guard:')

const server = await RedisServer.start()
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await server.stop()
})

interface How {
  /** how far this instance's clock is ahead of that of Redis */
  readonly aheadMs?: number
  /** short if a call has to hang */
  readonly commandTimeout?: number
}

function connection (commandTimeout: number): GuardedRedis {
  const times = { connectTimeout: 30_000, commandTimeout, resetTimeout: 100 }
  const options = { port: server.port }
  return new GuardedRedis(new Connection({ kind: 'server', options }, times), { ...times, probeKey: keys.probe })
}

interface Instance extends OutageStores {
  readonly journal: Journal
}

async function instance (t: Test, name: string, { aheadMs = 0, commandTimeout = 30_000 }: How = {}): Promise<Instance> {
  const now = () => Date.now() + aheadMs
  const guarded = connection(commandTimeout)
  const redis = {
    guarded,
    store: new RedisStore(guarded, { keys, maxEvents: 10, instance: name }),
    journal: new Journal({ capacity: 10_000, maxEvents: 10, onDrop: () => {} }),
    shares: new Shares(new MemoryLimits({ keys, capacity: 10, now }), now)
  }
  const stores = outageStores({ memory: new MemoryStore({ keys, capacity: 10, maxEvents: 1, now }), redis, keys, now })
  t.teardown(() => {
    stores.availability.close()
    guarded.close()
  })
  await guarded.connect(30_000)
  await until(() => stores.availability.usesRedis)
  return { ...stores, journal: redis.journal }
}

const blockOf = (ip: string, durationMs = hourMs) => ({ ip, durationMs, reason: String(durationMs), origin: 'test' })

type Step = (blocks: BlockStore) => Promise<unknown>

const block: Step = async blocks => await blocks.block(blockOf(ip))
const blockLonger: Step = async blocks => await blocks.block(blockOf(ip, 2 * hourMs))
const replace: Step = async blocks => await blocks.block({ ...blockOf(ip, hourMs / 2), replace: true })
const unblock: Step = async blocks => await blocks.unblock(ip)

/** Calls, and the reasons of the blocks that stand in the end. */
type History = readonly [before: Step | undefined, hung: Step, after: Step, standing: string[]]

const histories: Readonly<Record<string, History>> = {
  'a block, then an unblock': [undefined, block, unblock, []],
  'an unblock, then a block': [block, unblock, blockLonger, [String(2 * hourMs)]],
  'a block, then one that replaces it': [undefined, block, replace, [String(hourMs / 2)]]
}

for (const aheadMs of [0, hourMs, -hourMs]) {
  for (const [name, [before, hung, after, standing]] of Object.entries(histories)) {
    t.test(`${name}: a call that hangs and runs later undoes nothing (clock ${aheadMs} ms ahead)`, async t => {
      await observer.flushall()
      const one = await instance(t, 'one', { aheadMs, commandTimeout: hungMs })
      const other = await instance(t, 'other', { aheadMs: -aheadMs, commandTimeout: hungMs })
      await before?.(one.blocks)
      await until(() => one.availability.usesRedis && one.journal.size === 0)
      server.signal('SIGSTOP')
      await hung(one.blocks)
      t.equal(one.availability.usesRedis, false)
      await after(one.blocks)
      await sleep(laterMs)
      server.signal('SIGCONT')
      await until(() => one.availability.usesRedis && one.journal.size === 0)
      await until(() => other.availability.usesRedis)
      for (const { blocks } of [one, other]) t.same((await blocks.blocks()).map(({ reason }) => reason), standing)
    })
  }
}

t.test('of two instances whose clocks differ, the later call decides', async t => {
  await observer.flushall()
  const stores = [await instance(t, 'one', { aheadMs: hourMs }), await instance(t, 'other', { aheadMs: -hourMs })]
  for (let i = 0; i < 20; i++) {
    await stores[i % 2]!.blocks.block(blockOf(ip))
    t.equal(await stores[0]!.blocks.isBlocked(ip), true)
    await stores[(i + 1) % 2]!.blocks.unblock(ip)
    t.equal(await stores[0]!.blocks.isBlocked(ip), false)
  }
})

t.test('Cluster: a block that hangs and runs later does not undo an unblock, nor an unblock a block', async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const redis = { cluster: cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port })) }
  const app = await guardedApp(t, { redis, resetTimeout: 100, commandTimeout: 1000, connectTimeout: 30_000 })
  const guard = app.redisGuard
  await until(() => guard.status.store === 'redis')
  await guard.blockIP('192.0.2.2', 3600)
  for (const server of cluster.servers) server.signal('SIGSTOP')
  await Promise.all([guard.blockIP('192.0.2.1', 3600), guard.unblockIP('192.0.2.2')])
  t.equal(guard.status.store, 'memory')
  await guard.unblockIP('192.0.2.1')
  await guard.blockIP('192.0.2.2', 7200)
  await sleep(laterMs)
  for (const server of cluster.servers) server.signal('SIGCONT')
  await until(() => guard.status.store === 'redis')
  t.same((await guard.getBlockedIPs()).map(({ ip }) => ip), ['192.0.2.2'])
})

t.test('a call that Redis ran, and that is sent again after the next one, does not undo that one', async t => {
  await observer.flushall()
  const guarded = connection(30_000)
  t.teardown(() => guarded.close())
  await guarded.connect(30_000)
  const { blocks } = new RedisStore(guarded, { keys, maxEvents: 10, instance: 'one' })
  const journal = new Journal({ capacity: 10_000, maxEvents: 10, onDrop: () => {} })
  const atMs = Date.now() - 1000
  for (let i = 1; i < inChunk; i++) journal.addBlock({ atMs, block: { ...blockOf(`10.0.0.${i}`), replace: false } })
  journal.addBlock({ atMs, unblock: ip })
  journal.addBlock({ atMs, block: { ...blockOf(ip), replace: false } })
  const [first, second] = journal.next(2)
  for (const chunk of [first, second, first]) {
    t.equal(chunk!.kind, 'blocks')
    if (chunk!.kind === 'blocks') await blocks.apply(chunk!.operations, 0)
  }
  t.ok(await observer.hexists(keys.blocks, ip))
})

t.test('the changes of one address in an outage keep their order, in however many calls they are sent', async t => {
  await observer.flushall()
  const stores = await instance(t, 'one', { commandTimeout: hungMs })
  server.signal('SIGSTOP')
  // With this one, every hundredth pair below lies across the border of two calls.
  await stores.blocks.block(blockOf('192.0.2.2'))
  t.equal(stores.availability.usesRedis, false)
  const ips = Array.from({ length: 4000 }, (_, i) => `10.0.${i >> 8}.${i & 255}`)
  for (const ip of ips) await Promise.all([stores.blocks.unblock(ip), stores.blocks.block(blockOf(ip))])
  server.signal('SIGCONT')
  await until(() => stores.availability.usesRedis && stores.journal.size === 0)
  t.equal(await observer.hlen(keys.blocks), ips.length + 1)
})
