/** Values while Redis is away: the changes of `set`, `incr`, `expire` and `del`, and their replay. */
import fc from 'fast-check'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { ValueChange, ValueOperation } from '../../lib/store/value-store.js'
import { ValueJournal } from '../../lib/outage/value-journal.js'
import { guardedApp } from '../support/app.js'
import { medianMs } from '../support/median.js'
import { outages } from '../support/outages.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// The tests with their own servers wait most of the time.
t.jobs = 3
const aside = { buffered: true }

/** All changes of the journal; each chunk is taken. */
function drain (journal: ValueJournal): readonly ValueChange[] {
  const chunks = journal.rest()
  for (const chunk of chunks) journal.done(chunk)
  return chunks.flatMap(({ changes }) => changes)
}

const set = (key: string, atMs: number, text: string, expiresAtMs = Infinity): ValueOperation =>
  ({ kind: 'set', key, atMs, text, expiresAtMs })
const incr = (key: string, atMs: number): ValueOperation => ({ kind: 'incr', key, atMs, by: 1 })
const expire = (key: string, atMs: number, expiresAtMs: number): ValueOperation =>
  ({ kind: 'expire', key, atMs, expiresAtMs })
const del = (key: string, atMs: number): ValueOperation => ({ kind: 'del', key, atMs })

const sums: readonly [title: string, operations: readonly ValueOperation[], sum: object][] = [
  ['incr is added up', [incr('k', 1), incr('k', 2)],
    { base: undefined, add: 2, addedAtMs: 2, end: undefined }],
  ['set replaces earlier changes', [incr('k', 1), expire('k', 2, 99), set('k', 3, 'x')],
    { base: { atMs: 3, text: 'x' }, add: 0, end: undefined }],
  ['set may have an expiry', [set('k', 3, 'x', 50)],
    { base: { atMs: 3, text: 'x' }, end: { atMs: 3, expiresAtMs: 50 } }],
  ['changes after set are kept beside it', [set('k', 3, '7'), incr('k', 4), expire('k', 5, 60)],
    { base: { atMs: 3, text: '7' }, add: 1, addedAtMs: 4, end: { atMs: 5, expiresAtMs: 60 } }],
  ['the later of two expiries holds', [expire('k', 1, 60), expire('k', 2, 50)],
    { base: undefined, add: 0, end: { atMs: 2, expiresAtMs: 50 } }],
  ['del replaces earlier changes', [set('k', 1, 'x', 50), incr('k', 2), del('k', 3)],
    { base: { atMs: 3, text: undefined }, add: 0, end: undefined }],
  ['expire does nothing to a deleted value', [del('k', 1), expire('k', 2, 60)],
    { base: { atMs: 1, text: undefined }, end: undefined }],
  ['changes after del start a new value', [del('k', 1), incr('k', 2), expire('k', 3, 60)],
    { base: { atMs: 1, text: undefined }, add: 1, end: { atMs: 3, expiresAtMs: 60 } }]
]

t.test('the calls on one key become one change', async t => {
  for (const [title, operations, sum] of sums) {
    const journal = new ValueJournal()
    for (const operation of operations) journal.add(operation, journal.nextOrder(), undefined)
    t.match(drain(journal), [{ key: 'k', ...sum }], title)
    t.same(drain(journal), [])
    t.equal(journal.size, 0)
  }
})

t.test('calls in doubt count if they did not run, in the order in which they began', async t => {
  for (const [last, add, text] of [[4, 3, undefined], [5, 2, undefined], [6, 1, undefined]] as const) {
    const journal = new ValueJournal()
    const orders = [journal.nextOrder(), journal.nextOrder(), journal.nextOrder()]
    journal.add(incr('k', 3), orders[2]!, undefined)
    journal.add(incr('k', 1), orders[0]!, 5)
    journal.add(incr('k', 2), orders[1]!, 6)
    journal.settle({ last, next: 2 ** 32 })
    t.match(drain(journal), [{ add, base: text }], `the last that ran: ${last}`)
  }
  const journal = new ValueJournal()
  const [first, second] = [journal.nextOrder(), journal.nextOrder()]
  journal.add(set('k', 2, 'later'), second, undefined)
  journal.add(set('k', 1, 'earlier'), first, 5)
  journal.add(incr('ran', 1), journal.nextOrder(), 5)
  journal.settle({ last: 5, next: 2 ** 32 })
  t.match(drain(journal), [{ key: 'k', base: { text: 'later' } }])
})

t.test('a call that fails after the fence is settled at once', async t => {
  const journal = new ValueJournal()
  journal.settle({ last: 5, next: 100 })
  journal.add(incr('k', 1), journal.nextOrder(), 5)
  t.equal(journal.size, 0)
  journal.add(incr('k', 1), journal.nextOrder(), 6)
  journal.add(incr('k', 1), journal.nextOrder(), 101)
  journal.settle({ last: 101, next: 200 })
  t.match(drain(journal), [{ add: 1 }])
})

const operation = fc.constantFrom(
  (atMs: number) => set('k', atMs, 'x'),
  (atMs: number) => incr('k', atMs),
  (atMs: number) => expire('k', atMs, atMs + 60),
  (atMs: number) => del('k', atMs)
)

t.test('many operations on one key take little room, and lose nothing', async t => {
  fc.assert(fc.property(fc.array(operation, { maxLength: 50 }), makers => {
    const journal = new ValueJournal()
    let [isThere, add, end] = [true, 0, undefined as number | undefined]
    makers.forEach((make, atMs) => {
      const operation = make(atMs)
      journal.add(operation, journal.nextOrder(), undefined)
      switch (operation.kind) {
        case 'set': [isThere, add, end] = [true, 0, undefined]; break
        case 'del': [isThere, add, end] = [false, 0, undefined]; break
        case 'incr': [isThere, add] = [true, add + 1]; break
        case 'expire': if (isThere) end = operation.expiresAtMs
      }
      if (journal.size > 4) throw new Error(`${journal.size} entries`)
    })
    const [change] = drain(journal)
    t.same([change?.add ?? 0, change?.end?.expiresAtMs], [add, end])
  }))
})

/** A journal that keeps some calls in doubt, and the time that further calls take. */
function addTo (kept: number): { readonly journal: ValueJournal, readonly ms: number } {
  const journal = new ValueJournal()
  for (let i = 0; i < kept; i++) journal.add(incr('k', 1), journal.nextOrder(), i + 1)
  const ms = medianMs(200, () => {
    for (let i = 0; i < 100; i++) {
      journal.add(incr('k', 2), journal.nextOrder(), undefined)
      journal.add(expire('k', 2, 60), journal.nextOrder(), undefined)
    }
  })
  return { journal, ms }
}

t.test('incr and expire on one key are as fast with many calls in doubt', async t => {
  const [few, many] = [addTo(10), addTo(20_000)]
  const { journal } = many
  t.ok(journal.size >= 20_000 && journal.size <= 20_003, `${journal.size} entries`)
  t.ok(many.ms < 20 * few.ms, `${many.ms / few.ms} times as long`)
  t.equal(journal.next(1)[0], undefined, 'nothing is replayed before the calls are settled')
  journal.settle({ last: 15_000, next: 2 ** 32 })
  t.match(drain(journal), [{ add: 25_000, end: { expiresAtMs: 60 } }])
})

t.test('a chunk stays the same until it is done, and later changes wait', async t => {
  const journal = new ValueJournal()
  for (let i = 0; i < 250; i++) journal.add(incr(`key-${i}`, 1), journal.nextOrder(), undefined)
  const chunk = journal.next(1)[0]!
  journal.add(incr('key-0', 2), journal.nextOrder(), undefined)
  t.equal(journal.next(1)[0], chunk)
  t.match(chunk, { id: 1, changes: { length: 100 } })
  t.same([journal.size, journal.rest().map(({ changes }) => changes.length)], [251, [100, 100, 51]])
  journal.done(chunk)
  journal.done(chunk)
  t.equal(journal.size, 151)
})

t.test('the oldest keys are dropped first, sent or not', async t => {
  const journal = new ValueJournal()
  for (let i = 0; i < 150; i++) journal.add(incr(`key-${i}`, 1), journal.nextOrder(), undefined)
  const chunk = journal.next(1)[0]!
  t.equal(journal.drop(70), 70)
  t.match(chunk.changes.map(({ key }) => key), Array.from({ length: 30 }, (_, i) => `key-${70 + i}`))
  t.equal(journal.drop(40), 40)
  t.match(drain(journal).map(({ key }) => key), Array.from({ length: 40 }, (_, i) => `key-${110 + i}`))
})

async function startRedis (t: Test): Promise<RedisServer> {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  return server
}

interface Instance {
  readonly app: FastifyInstance
  readonly proxy: TcpProxy
}

/** @param commandTimeout  shorter than the answer of a slow Redis; long if there is no outage */
async function instance (t: Test, server: RedisServer, commandTimeout = 1500): Promise<Instance> {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const times = { commandTimeout, resetTimeout: 200, connectTimeout: 30_000 }
  const app = await guardedApp(t, { redis: { port: proxy.port }, ...times })
  await goes(app, 'redis')
  t.equal(app.redisGuard.status.store, 'redis')
  return { app, proxy }
}

async function goes (app: FastifyInstance, store: string): Promise<void> {
  await until(async () => {
    await app.redisGuard.isIPBlocked('192.0.2.1')
    return app.redisGuard.status.store === store
  })
}

for (const [name, { begin, end }] of Object.entries(outages)) {
  t.test(`a Redis that ${name}: values continue, and Redis has each change once afterwards`, aside, async t => {
    const server = await startRedis(t)
    const { app, proxy } = await instance(t, server)
    const client = server.client()
    t.teardown(() => client.disconnect())
    const { redisGuard } = app
    await redisGuard.set('counter', 41)
    await redisGuard.set('read', 'once', { ttlSeconds: 100 })
    await client.set('guard:value:{elsewhere}', 'stored')
    t.equal(await redisGuard.get('elsewhere'), 'stored')
    t.equal(await redisGuard.get('nothing'), null)
    await redisGuard.set('gone', 'x')
    await redisGuard.set('ends', 'x')
    begin(server, proxy)
    // These calls are on their way when the outage is noticed.
    const during = await Promise.all([
      redisGuard.incr('counter'), redisGuard.incr('fresh'), redisGuard.set('late', 1), redisGuard.del('gone'),
      redisGuard.expire('ends', 100), redisGuard.get('read')
    ])
    t.same(during, [42, 1, undefined, true, true, 'once'])
    await goes(app, 'memory')
    t.equal(await redisGuard.incr('counter'), 43)
    t.equal(await redisGuard.incr('fresh'), 2)
    await redisGuard.set('late', 2)
    t.equal(await redisGuard.expire('fresh', 200), true)
    t.equal(await redisGuard.expire('unknown', 200), false)
    t.same(
      [await redisGuard.get('elsewhere'), await redisGuard.get('gone'), await redisGuard.get('late')],
      ['stored', null, '2']
    )
    await t.rejects(redisGuard.incr('read'), { code: 'GUARD_ERR_VALUE' })
    end(server, proxy)
    await goes(app, 'redis')
    const written = await Promise.all(['counter', 'fresh', 'late', 'gone', 'ends', 'read'].map(async key => {
      return await client.get(`guard:value:{${key}}`)
    }))
    t.same(written, ['43', '2', '2', null, 'x', 'once'])
    for (const [key, seconds] of [['fresh', 200], ['ends', 100], ['read', 100]] as const) {
      const leftMs = await client.pttl(`guard:value:{${key}}`)
      t.ok(leftMs > (seconds - 10) * 1000 && leftMs <= seconds * 1000, `${key}: ${leftMs} ms left`)
    }
    t.equal(await redisGuard.incr('counter'), 44)
  })
}

t.test('an outage that one instance sees: sums add up, and the latest set or delete holds', aside, async t => {
  const server = await startRedis(t)
  const [away, other] = [await instance(t, server), await instance(t, server, 30_000)]
  const [a, b] = [away.app.redisGuard, other.app.redisGuard]
  for (const key of ['sum', 'mine', 'theirs', 'deleted there', 'summed before', 'text']) await a.set(key, 10)
  away.proxy.blackhole = true
  await goes(away.app, 'memory')
  // Longer than an answer takes on a busy machine: an instance may be wrong about Redis' clock by that much.
  const pause = async () => { await new Promise(resolve => setTimeout(resolve, 500)) }
  await b.incr('sum')
  await b.set('mine', 'theirs')
  await pause()
  await Promise.all([
    a.incr('sum'), a.set('mine', 'mine'), a.set('theirs', 'mine', { ttlSeconds: 5 }), a.set('deleted there', 'mine'),
    a.incr('summed before'), a.incr('text'), a.set('short', 'x', { ttlSeconds: 0.01 })
  ])
  await pause()
  await Promise.all([b.set('theirs', 'theirs'), b.del('deleted there'), b.set('summed before', 100), b.incr('sum')])
  const client = server.client()
  await client.set('guard:value:{text}', 'no number')
  away.proxy.blackhole = false
  await goes(away.app, 'redis')
  const names = ['sum', 'mine', 'theirs', 'deleted there', 'summed before', 'text', 'short']
  const values = await Promise.all(names.map(async name => await b.get(name)))
  t.same(values, ['13', 'mine', 'theirs', null, '100', 'no number', null])
  t.equal(await client.pttl('guard:value:{theirs}'), -1)
  client.disconnect()
})

t.test('in a Cluster, values continue through an outage', aside, async t => {
  const cluster = await RedisCluster.start()
  t.teardown(async () => await cluster.stop())
  const nodes = cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port }))
  const times = { commandTimeout: 1000, resetTimeout: 200, connectTimeout: 30_000 }
  const app = await guardedApp(t, { redis: { cluster: nodes }, ...times })
  await goes(app, 'redis')
  const { redisGuard } = app
  for (let i = 0; i < 10; i++) await redisGuard.set(`key-${i}`, i)
  for (const server of cluster.servers) server.signal('SIGSTOP')
  await goes(app, 'memory')
  for (let i = 0; i < 10; i++) t.equal(await redisGuard.incr(`key-${i}`), i + 1)
  for (const server of cluster.servers) server.signal('SIGCONT')
  await goes(app, 'redis')
  for (let i = 0; i < 10; i++) t.equal(await redisGuard.get(`key-${i}`), String(i + 1))
})

t.test('a value that Redis rejects or does not know is answered from memory', aside, async t => {
  const server = await startRedis(t)
  const { app } = await instance(t, server, 30_000)
  const client = server.client()
  t.teardown(() => client.disconnect())
  await client.lpush('guard:value:{list}', 'x')
  await t.rejects(app.redisGuard.incr('list'), { code: 'GUARD_ERR_VALUE' })
  await t.rejects(app.redisGuard.get('list'), { code: 'GUARD_ERR_VALUE' })
  await client.set('guard:{events}', 'no stream')
  t.same(await app.redisGuard.getRateLimitEvents(), [], 'the foreign value is ignored')
  await client.call('ACL', 'SETUSER', 'default', '-pexpire')
  await app.redisGuard.set('key', 1)
  t.equal(await app.redisGuard.expire('key', 10), true)
  t.equal(app.redisGuard.status.store, 'redis')
  await client.call('ACL', 'SETUSER', 'default', '+pexpire')
  // Redis has lost its data, which the next command notices.
  await client.flushall()
  await app.redisGuard.set('key', 2)
  await goes(app, 'redis')
  await until(async () => await client.get('guard:value:{key}') === '2')
  t.equal(await app.redisGuard.incr('key'), 3)
})
