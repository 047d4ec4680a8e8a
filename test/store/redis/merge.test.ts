/** Merging counters of an outage, or of another instance, into those of a real Redis: store/redis/lua/merge.lua. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { GuardedRedis } from '../../../lib/redis/breaker.js'
import { Connection } from '../../../lib/redis/connection.js'
import { Script } from '../../../lib/redis/script.js'
import { algorithms, ruleOf } from '../../../lib/rules/algorithms.js'
import { defineLimit, type Limit } from '../../../lib/rules/rate-limit.js'
import type { LimitState } from '../../../lib/rules/rule.js'
import { Keys } from '../../../lib/store/keys.js'
import { RedisStore } from '../../../lib/store/redis/redis-store.js'
import type { LocalCounter } from '../../../lib/store/limit-store.js'
import type { BlockOperation } from '../../../lib/store/block-store.js'
import { contractsOf } from '../../support/redis-contracts.js'
import { numbersOf, stateOf } from '../../support/states.js'
import { RedisServer } from '../../../tools/redis-server.js'
import { scripts } from '../../../lib/store/redis/lua/scripts.js'
import { takeAllOf, takeOf } from '../../support/take.js'

const server = await RedisServer.start()
const observer = server.client()
const keys = new Keys('guard:')
const times = { connectTimeout: 30_000, commandTimeout: 30_000, resetTimeout: 500 }
const connection = new Connection({ kind: 'server', options: { port: server.port } }, times)
const guarded = new GuardedRedis(connection, { ...times, probeKey: keys.probe })
await guarded.connect(30_000)
const store = new RedisStore(guarded, { keys, maxEvents: 1000, instance: 'one' })
await store.instance.fence()
const { blocks } = contractsOf(store)
t.teardown(async () => {
  guarded.close()
  observer.disconnect()
  await server.stop()
})

let clients = 0
let ids = 0

/** A new client with one limit, and its counter in Redis. */
function clientOf (limit: Limit) {
  const client = `client${++clients}`
  const check = { name: 'limit', limit, cost: 1 }
  return {
    key: keys.newCounter(limit.algorithm, 'limit', client),
    async hit (times: number): Promise<LimitState> {
      const hits = Array.from({ length: times }, () => ({ clientKey: client, checks: [check] }))
      const taken = await takeAllOf(store.limits, hits)
      return taken.at(-1)!.outcomes[0]!.state
    },
    async remaining (): Promise<number> {
      const { outcomes } = await takeOf(store.limits, { clientKey: client, checks: [check] })
      return outcomes[0]!.explanation.remaining + 1
    }
  }
}

function countedOn (baseline: LimitState | undefined, limit: Limit, hits: number): LimitState {
  let state = baseline
  for (let i = 0; i < hits; i++) state = ruleOf(limit).accept(state, Date.now(), limit, 1)
  return state!
}

async function merge (counters: readonly LocalCounter[], id = String(++ids), hasBaselines = false): Promise<void> {
  const { epoch } = await store.instance.heartbeat()
  await store.limits.merge(id, counters, Date.now(), { epoch, hasBaselines })
}

for (const algorithm of algorithms) {
  const limit = defineLimit(algorithm, 100, 100_000)

  t.test(`${algorithm}: merges what was counted remotely, once for each id`, async t => {
    const { key, hit, remaining } = clientOf(limit)
    const baseline = await hit(10)
    const counted = countedOn(baseline, limit, 20)
    await merge([{ key, limit, baseline, counted }], `same ${algorithm}`)
    await merge([{ key, limit, baseline, counted }], `same ${algorithm}`)
    t.equal(await remaining(), 70)
    t.ok(await observer.pttl(key) > 0)
  })

  t.test(`${algorithm}: the counts of two instances add up, even if Redis lost the baseline of both`, async t => {
    for (const isLost of [false, true]) {
      const { key, hit, remaining } = clientOf(limit)
      const baseline = await hit(10)
      if (isLost) await observer.del(key)
      await merge([{ key, limit, baseline, counted: countedOn(baseline, limit, 20) }])
      await merge([{ key, limit, baseline, counted: countedOn(baseline, limit, 30) }])
      t.equal(await remaining(), 40)
    }
  })

  t.test(`${algorithm}: after a loss, the largest baseline counts, plus the hits on top of each`, async t => {
    for (const { kept, order } of [0, 7].flatMap(kept => [{ kept, order: [0, 1] }, { kept, order: [1, 0] }])) {
      const { key, hit, remaining } = clientOf(limit)
      if (kept > 0) await hit(kept)
      const before = await observer.dumpBuffer(key)
      // Redis counted 10 hits; one instance knows of 8.
      const baselines = [await hit(8 - kept), await hit(2)]
      const leftMs = await observer.pttl(key)
      await observer.del(key)
      if (kept > 0) await observer.restore(key, leftMs, before)
      const counters = baselines.map((state, i) => {
        return { key, limit, baseline: state, counted: countedOn(state, limit, 20 + 10 * i) }
      })
      await merge([counters[order[0]!]!])
      await hit(5)
      await merge([counters[order[1]!]!])
      const used = 100 - await remaining()
      const truth = 10 + 20 + 30 + 5
      t.ok(used >= truth - (10 - 8) && used <= truth, `${used} of ${truth}, with ${kept} kept`)
    }
  })

  t.test(`${algorithm}: a chunk that includes an earlier one adds the rest, even after a data loss`, async t => {
    const { key, hit, remaining } = clientOf(limit)
    const baseline = await hit(10)
    await observer.del(key)
    const first = countedOn(baseline, limit, 20)
    await merge([{ key, limit, baseline, counted: first }])
    await merge([{ key, limit, baseline: first, counted: countedOn(first, limit, 30) }])
    t.equal(await remaining(), 40)
  })

  t.test(`${algorithm}: refunds by another instance hold if Redis has all its data`, async t => {
    for (const hasBaselines of [true, false]) {
      const { key, hit, remaining } = clientOf(limit)
      const baseline = await hit(10)
      await observer.del(key)
      await hit(2)
      await merge([{ key, limit, baseline, counted: countedOn(baseline, limit, 20) }], undefined, hasBaselines)
      t.equal(await remaining(), hasBaselines ? 78 : 70)
    }
  })

  t.test(`${algorithm}: a counter without a baseline starts with the merged count`, async t => {
    const { key, remaining } = clientOf(limit)
    await merge([{ key, limit, baseline: undefined, counted: countedOn(undefined, limit, 60) }])
    t.equal(await remaining(), 40)
    const ttl = await observer.pttl(key)
    t.ok(ttl > 0 && ttl <= 200_000, `${ttl}`)
  })

  t.test(`${algorithm}: hits that other instances counted in the meantime stay`, async t => {
    const { key, hit, remaining } = clientOf(limit)
    const baseline = await hit(10)
    await hit(25)
    await merge([{ key, limit, baseline, counted: countedOn(baseline, limit, 5) }])
    t.equal(await remaining(), 60)
    // Nothing was counted on top of the baseline, which Redis has already.
    await merge([{ key, limit, baseline, counted: baseline }])
    t.equal(await remaining(), 59)
  })

  t.test(`${algorithm}: an expired counter is not merged, and a foreign value is replaced`, async t => {
    const short = defineLimit(algorithm, 100, 20)
    const { key, hit } = clientOf(short)
    const baseline = await hit(1)
    const counted = countedOn(baseline, short, 5)
    await sleep(60)
    await merge([{ key, limit: short, baseline, counted }])
    t.equal(await observer.exists(key), 0)
    const other = clientOf(limit)
    await observer.rpush(other.key, 'a list')
    await merge([{ key: other.key, limit, baseline: undefined, counted: countedOn(undefined, limit, 60) }])
    t.equal(await other.remaining(), 40)
  })
}

t.test('an empty window is not merged', async t => {
  const limit = defineLimit('fixed-window', 100, 1000)
  const { key } = clientOf(limit)
  const nowMs = Date.now()
  await merge([{ key, limit, baseline: undefined, counted: stateOf(limit, 0, 0, nowMs + 500) }])
  t.equal(await observer.exists(key), 0)
})

t.test('fixed-window: merging keeps the end of the window, unless it is too far away', async t => {
  const limit = defineLimit('fixed-window', 100, 100_000)
  const { key, hit } = clientOf(limit)
  const baseline = await hit(1)
  const endMs = await observer.pexpiretime(key)
  for (let i = 0; i < 20; i++) await merge([{ key, limit, baseline, counted: countedOn(baseline, limit, 1) }])
  t.equal(await observer.pexpiretime(key), endMs)
  await observer.pexpire(key, 500_000)
  await merge([{ key, limit, baseline, counted: countedOn(baseline, limit, 1) }])
  t.ok(await observer.pttl(key) <= 100_000)
  await observer.persist(key)
  await merge([{ key, limit, baseline, counted: countedOn(baseline, limit, 1) }])
  t.ok(await observer.pttl(key) > 0)
})

t.test('a backoff that ends beyond its cap is shortened to the cap, whether Redis or the outage made it', async t => {
  const limit = defineLimit('fixed-window', 1, 1000, { excess: 'backoff', maxBackoffMs: 10_000 })
  for (const where of ['in Redis', 'in the outage']) {
    const { key, hit } = clientOf(limit)
    const baseline = await hit(4)
    const tooFarMs = Date.now() + 2 ** 40
    if (where === 'in Redis') {
      await observer.set(key, '1:40')
      await observer.pexpireat(key, tooFarMs)
    }
    const [used, refused] = numbersOf(limit, baseline)
    const counted = where === 'in Redis' ? baseline : stateOf(limit, used, refused + 40, tooFarMs)
    await merge([{ key, limit, baseline, counted }])
    const leftMs = await observer.pttl(key)
    t.ok(leftMs > 8000 && leftMs <= 10_000, `${where}: ${leftMs}`)
  }
})

t.test('sliding-window: windows that start at different times are matched by the nearest start', async t => {
  const limit = defineLimit('sliding-window', 100, 10_000)
  interface Window { readonly used: number, readonly fading: number, readonly startsAtMs: number }
  const cases: [inRedis: Window, merged: Window, expected: { used: string, fading: string }][] = [
    // The merged window began nearly a window later: the current window of Redis is its previous one.
    [{ used: 7, fading: 3, startsAtMs: -9000 }, { used: 5, fading: 2, startsAtMs: -1000 }, { used: '5', fading: '9' }],
    // The merged window began nearly a window earlier.
    [{ used: 7, fading: 3, startsAtMs: -1000 }, { used: 5, fading: 2, startsAtMs: -9000 }, { used: '7', fading: '8' }],
    [{ used: 7, fading: 3, startsAtMs: -3000 }, { used: 5, fading: 2, startsAtMs: -1000 }, { used: '12', fading: '5' }],
    // The window that Redis had stored is now the fading one.
    [{ used: 7, fading: 3, startsAtMs: -12_000 }, { used: 5, fading: 2, startsAtMs: -1000 },
      { used: '5', fading: '9' }],
    [{ used: 7, fading: 3, startsAtMs: -25_000 }, { used: 5, fading: 2, startsAtMs: -1000 }, { used: '5', fading: '2' }]
  ]
  for (const [inRedis, merged, expected] of cases) {
    const { key } = clientOf(limit)
    const nowMs = Date.now()
    await observer.hset(key, { ...inRedis, startsAtMs: nowMs + inRedis.startsAtMs })
    const counted = stateOf(limit, merged.used, merged.fading, nowMs + merged.startsAtMs)
    await merge([{ key, limit, baseline: undefined, counted }])
    t.match(await observer.hgetall(key), expected)
  }
})

t.test('gcra: hits under another max are added as the time that they take to drain', async t => {
  const small = defineLimit('gcra', 10, 1_000_000)
  const large = defineLimit('gcra', 1000, 1_000_000)
  const paced = defineLimit('gcra', 1000, 1_000_000, { burst: 20 })
  for (const isLost of [false, true]) {
    const { key, hit } = clientOf(small)
    const baseline = await hit(5)
    if (isLost) await observer.del(key)
    // 5 of 10, and 100 of 1000 on top: 6 of 10, or 600 of 1000. That is more than the burst of 20 of a third limit.
    await merge([{ key, limit: paced, baseline, counted: countedOn(baseline, large, 100) }])
    const bucket = await observer.hgetall(key)
    t.equal(bucket['max'], '1000')
    const hits = Number(bucket['level']) / 1_000_000
    t.ok(hits > 599 && hits <= 600, `${hits} of 1000`)
    // Another instance knew the same baseline.
    await merge([{ key, limit: small, baseline, counted: baseline }])
    const again = await observer.hgetall(key)
    t.ok(Math.abs(Number(again['level']) / Number(again['max']) - 600_000) < 1000, JSON.stringify(again))
  }
})

t.test('gcra: merging never overfills the bucket, and a bucket that never drains expires after a window', async t => {
  const limit = defineLimit('gcra', 10, 60_000, { burst: 5 })
  const { key, hit } = clientOf(limit)
  const baseline = await hit(1)
  await merge([{ key, limit, baseline, counted: countedOn(baseline, limit, 50) }])
  t.ok(Number(await observer.hget(key, 'level')) <= 5 * 60_000)
  const never = defineLimit('gcra', 0, 60_000, { burst: 5 })
  const other = clientOf(never)
  await merge([{ key: other.key, limit: never, baseline: undefined, counted: countedOn(undefined, never, 1) }])
  t.ok(await observer.pttl(other.key) <= 60_000)
})

t.test('after a fence, no batch runs that was sent before it', async t => {
  const limit = defineLimit('fixed-window', 100, 100_000)
  const hits = (client: string) => [{ clientKey: client, checks: [{ name: 'limit', limit, cost: 1 }] }]
  await store.instance.fence()
  await takeAllOf(store.limits, hits('fenced'))
  const { lastAnswered } = store.instance
  t.ok(lastAnswered > 0)
  t.equal((await store.instance.fence()).last, lastAnswered)
  // Its answer may be lost, so a second fence gives the same answer.
  t.equal((await store.instance.fence()).last, lastAnswered)
  // A batch with an old number, like one that was still on its way.
  const late = new RedisStore(guarded, { keys, maxEvents: 1, instance: 'one' })
  await t.rejects(takeAllOf(late.limits, hits('fenced')), { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'lost' })
  t.equal(await observer.get(keys.newCounter('fixed-window', 'limit', 'fenced')), '1')
  await takeAllOf(store.limits, hits('fenced'))
  t.equal(await observer.get(keys.newCounter('fixed-window', 'limit', 'fenced')), '2')
  await observer.del(keys.batch('one'))
  await t.rejects(takeAllOf(store.limits, hits('fenced')), { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'lost' })
  t.equal((await store.instance.fence()).last, -1)
  t.equal((await store.instance.fence()).last, -1)
  await takeAllOf(store.limits, hits('fenced'))
  t.equal((await store.instance.fence()).last, store.instance.lastAnswered)
  t.equal(guarded.usable, true)
})

t.test('a script that Redis has forgotten is sent again under a new number', async t => {
  const limit = defineLimit('fixed-window', 100, 100_000)
  const hits = [{ clientKey: 'forgotten', checks: [{ name: 'limit', limit, cost: 1 }] }]
  await store.instance.fence()
  for (let round = 0; round < 3; round++) {
    await observer.script('FLUSH')
    const numbers: number[] = []
    await Promise.all(Array.from({ length: 5 }, async () => {
      await takeAllOf(store.limits, hits)
      numbers.push(store.instance.lastAnswered)
    }))
    t.same(numbers.toSorted((a, b) => a - b), numbers, 'in the order of execution')
  }
  t.equal(await observer.get(keys.newCounter('fixed-window', 'limit', 'forgotten')), '15')
})

t.test('events that are replayed twice are written once', async t => {
  const events = [{ type: 'limited' as const, ip: '192.0.2.1', count: 3, atMs: Date.now() }]
  await store.events.replayEvents('events-1', events)
  await store.events.replayEvents('events-1', events)
  await store.events.replayEvents('events-2', events)
  t.same(await store.events.suspects(5), [{ ip: '192.0.2.1', count: 6 }])
  t.ok(await observer.pttl(keys.replayed(keys.events, 'one:events-1')) > 0)
})

t.test('a fence says whether a live write of events ran, and no such write runs after it', async t => {
  const events = [{ type: 'limited' as const, ip: '192.0.2.2', count: 1, atMs: Date.now() }]
  await store.instance.fence()
  await store.events.logEvents(events)
  t.equal((await store.instance.fence()).last, store.instance.lastAnswered)
  const late = new RedisStore(guarded, { keys, maxEvents: 1000, instance: 'one' })
  await t.rejects(late.events.logEvents(events), { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'lost' })
  t.match(await store.events.suspects(1), [{ ip: '192.0.2.1' }])
  // A foreign value in place of the events costs a round trip; in place of the number it counts as lost data.
  await observer.set(keys.events, 'a foreign text')
  await store.events.logEvents(events)
  t.equal((await store.events.events(5)).length, 1)
  await observer.lpush(keys.batch('two'), 'a foreign value')
  const other = new RedisStore(guarded, { keys, maxEvents: 1000, instance: 'two' })
  await t.rejects(other.events.logEvents(events), { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'lost' })
  // In place of a marker, it marks nothing.
  await observer.lpush(keys.replayed(keys.events, 'one:events-3'), 'a foreign value')
  await store.events.replayEvents('events-3', events)
  t.equal((await store.events.events(5)).length, 2)
})

t.test('of a block and an unblock the later one holds, whichever is replayed first', async t => {
  const block = (ip: string, durationMs = 60_000) => ({ ip, durationMs, reason: 'replayed', origin: 'test' })
  const nowMs = Date.now()
  const cases: [ip: string, first: () => Promise<unknown>, replayed: BlockOperation, isBlocked: boolean][] = [
    ['192.0.2.1', async () => await blocks.block(block('192.0.2.1')), { atMs: nowMs - 5000, unblock: '192.0.2.1' },
      true],
    ['192.0.2.2', async () => { await blocks.block(block('192.0.2.2')); await blocks.unblock('192.0.2.2') },
      { atMs: nowMs - 5000, block: block('192.0.2.2') }, false],
    ['192.0.2.3', async () => await store.blocks.apply([{ atMs: nowMs - 9000, block: block('192.0.2.3') }], 0),
      { atMs: nowMs - 5000, unblock: '192.0.2.3' }, false],
    ['192.0.2.4', async () => await store.blocks.apply([{ atMs: nowMs - 9000, unblock: '192.0.2.4' }], 0),
      { atMs: nowMs - 5000, block: block('192.0.2.4') }, true],
    ['192.0.2.5', async () => {}, { atMs: nowMs - 5000, block: block('192.0.2.5', 4000) }, false],
    ['192.0.2.6', async () => {}, { atMs: nowMs - 5000, block: block('192.0.2.6', Infinity) }, true]
  ]
  for (const [ip, first, replayed, isBlocked] of cases) {
    await first()
    await store.blocks.apply([replayed], 0)
    t.equal(await blocks.isBlocked(ip), isBlocked, ip)
  }
  await blocks.block({ ...block('192.0.2.7'), reason: 'direct' })
  await store.blocks.apply([{ atMs: nowMs - 5000, block: block('192.0.2.7') }], 0)
  t.equal(
    (await blocks.blocks()).find(({ ip }) => ip === '192.0.2.7')!.reason,
    'direct',
    'a later block of the same address stays'
  )
  const replayed = (await blocks.blocks()).find(({ ip }) => ip === '192.0.2.6')!
  t.ok(Math.abs(replayed.blockedAtMs - (nowMs - 5000)) < 2000, 'it has the time of the original block')
  t.equal(await store.blocks.count(), (await blocks.blocks()).length)
})

t.test('counts the instances that are alive, and keeps the epoch', async t => {
  const { epoch } = await store.instance.heartbeat()
  const first = await store.instance.heartbeat(epoch)
  t.equal(first.since, first.instances)
  t.ok(Math.abs(first.nowMs - Date.now()) < 60_000)
  const other = new RedisStore(guarded, { keys, maxEvents: 1, instance: 'two' })
  const withOther = { epoch: first.epoch, instances: first.instances + 1 }
  t.match(await other.instance.heartbeat(), { ...withOther, since: first.since }, 'it has not replayed all yet')
  t.match(await store.instance.heartbeat(epoch), {
    epoch: first.epoch,
    instances: first.instances,
    since: first.since
  })
  // Wait until the clock of Redis has moved on.
  await sleep(5)
  const later = await other.instance.heartbeat(epoch, first.nowMs + 1)
  t.match(later, withOther)
  t.match(await other.instance.heartbeat(epoch, later.nowMs), { since: 1 })
  await observer.zadd(keys.instances, Date.now() - 6000, 'two')
  t.match(await store.instance.heartbeat(epoch), { epoch: first.epoch, instances: first.instances })
  await observer.flushall()
  const afterLoss = await store.instance.heartbeat(epoch)
  t.not(afterLoss.epoch, epoch)
  t.equal(afterLoss.since, 0, 'an instance that has not replayed to the new data is not counted')
})

t.test('a late fence does not let earlier batches run again', async t => {
  const fence = new Script(scripts.fence)
  const fenceAt = async (next: number) =>
    Number(await fence.run(observer, [keys.batch('late'), keys.fence('late')], [next, 60_000]))
  await observer.set(keys.batch('late'), 7)
  t.equal(await fenceAt(1000), 7)
  t.equal(await fenceAt(2000), 7, 'the same answer if nothing has run since')
  t.equal(await fenceAt(1000), 2000)
  t.equal(await observer.get(keys.batch('late')), '2000')
  t.equal(await fenceAt(3000), 7)
})

t.test('a block list that is replaced while it is read counts as lost', async t => {
  const client = guarded.client
  await client.hset(keys.blocks, Object.fromEntries(Array.from({ length: 5000 }, (_, i) => {
    return [`10.0.${i >> 8}.${i & 255}`, '{}']
  })))
  const pages = store.blocks.pages()
  await pages.next()
  await observer.set(keys.blocks, 'a foreign text')
  await t.rejects(pages.next(), /lost its block list/)
  t.equal(await observer.exists(keys.blocks), 0)
})

t.test('a chunk that is sent again without its first entry is added once', async t => {
  await store.instance.fence()
  const limit = defineLimit('fixed-window', 100, 100_000)
  const [first, second] = [clientOf(limit), clientOf(limit)]
  const counters = await Promise.all([first, second].map(async ({ key, hit }): Promise<LocalCounter> => {
    const baseline = await hit(10)
    return { key, limit, baseline, counted: countedOn(baseline, limit, 20) }
  }))
  await merge(counters, 'sent again')
  await merge(counters.slice(1), 'sent again')
  t.equal(await second.remaining(), 70)
  const changes = ['first', 'second'].map(key => {
    return { key, base: undefined, add: 1, addedAtMs: Date.now(), end: undefined }
  })
  await store.values.merge('values sent again', changes, Date.now())
  await store.values.merge('values sent again', changes.slice(1), Date.now())
  t.equal(await observer.get(keys.value('second')), '1')
})

t.test('fixed-window: a foreign number below 0 counts as no counter', async t => {
  await store.instance.fence()
  const limit = defineLimit('fixed-window', 100, 100_000)
  const { key, hit } = clientOf(limit)
  await observer.set(key, '-5')
  t.equal(numbersOf(limit, await hit(1))[0], 1)
  t.equal(await observer.get(key), '1')
})
