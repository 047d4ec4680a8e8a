/**
 * After Redis has lost all of its data, each instance restores what it knew, and adds what it has counted since. The
 * result is the truth, in whatever order they come: store/redis/lua/restore.lua and merge.lua, on a real Redis.
 */
import t from 'tap'
import { GuardedRedis } from '../../../lib/redis/breaker.js'
import { Connection } from '../../../lib/redis/connection.js'
import { algorithms, ruleOf } from '../../../lib/rules/algorithms.js'
import { defineLimit, type Limit } from '../../../lib/rules/rate-limit.js'
import type { LimitState } from '../../../lib/rules/rule.js'
import { Keys } from '../../../lib/store/keys.js'
import { RedisStore } from '../../../lib/store/redis/redis-store.js'
import { randomFrom } from '../../support/random.js'
import { numbersOf, stateOf } from '../../support/states.js'
import { takeAllOf } from '../../support/take.js'
import { RedisServer } from '../../../tools/redis-server.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
const random = randomFrom(seed)

const server = await RedisServer.start()
const observer = server.client()
const keys = new Keys('guard:')
const times = { connectTimeout: 30_000, commandTimeout: 30_000, resetTimeout: 500 }
const connection = new Connection({ kind: 'server', options: { port: server.port } }, times)
const guarded = new GuardedRedis(connection, { ...times, probeKey: keys.probe })
await guarded.connect(30_000)
const store = new RedisStore(guarded, { keys, maxEvents: 1000, instance: 'one' })
await store.instance.fence()
t.teardown(async () => {
  guarded.close()
  observer.disconnect()
  await server.stop()
})

/** So long that nothing fades or drains by a whole hit while a test runs. */
const windowMs = 86_400_000
const epochOf = async () => (await store.instance.heartbeat()).epoch
let clients = 0
let ids = 0

interface Numbers {
  readonly used: number
  /** refused by a fixed window, fading in a sliding one */
  readonly other: number
}

/** A client of its own, with one counter that Redis has lost. */
function clientOf (limit: Limit) {
  const client = `client${++clients}`
  const checks = [{ name: 'limit', limit, cost: 1 }]
  const key = keys.newCounter(limit.algorithm, 'limit', client)
  const startedAtMs = Date.now() - 1000
  return {
    key,
    note: keys.restored(key),
    /** The counter as an instance knew it before the loss. */
    baseline ({ used, other }: Numbers): LimitState {
      switch (limit.algorithm) {
        case 'fixed-window': return stateOf(limit, used, other, startedAtMs + windowMs)
        case 'sliding-window': return stateOf(limit, used, other, startedAtMs)
        case 'gcra': return stateOf(limit, used * windowMs, limit.max, startedAtMs)
      }
    },
    async restore (baseline: LimitState): Promise<void> {
      await store.limits.restore([{ key, limit, baseline }], Date.now(), await epochOf())
    },
    /** Adds hits that an instance has counted on top of its baseline. */
    async replay (baseline: LimitState, hits: number): Promise<void> {
      const counted = hits === 0 ? baseline : ruleOf(limit).accept(baseline, Date.now(), limit, hits)
      const into = { epoch: await epochOf(), hasBaselines: true }
      await store.limits.merge(`counters-${++ids}`, [{ key, limit, baseline, counted }], Date.now(), into)
    },
    async hit (hits: number): Promise<void> {
      await takeAllOf(store.limits, Array.from({ length: hits }, () => ({ clientKey: client, checks })))
    },
    /** The counter in Redis, in whole hits. */
    async counted (): Promise<Numbers> {
      const state = (await store.limits.peek(client, checks))[0]!.state
      if (state === undefined) return { used: 0, other: 0 }
      const [used, other] = numbersOf(limit, state)
      return limit.algorithm === 'gcra' ? { used: Math.ceil(used / windowMs), other: 0 } : { used, other }
    }
  }
}

/** All orders of some things. */
function ordersOf<T> (things: readonly T[]): (readonly T[])[] {
  if (things.length === 0) return [[]]
  return things.flatMap((first, i) => ordersOf(things.toSpliced(i, 1)).map(others => [first, ...others]))
}

/** Steps of several instances in a random order, in which those of each instance keep theirs. */
function shuffled<T> (steps: readonly (readonly T[])[]): T[] {
  const left = steps.map(own => [...own])
  const order: T[] = []
  while (left.some(own => own.length > 0)) order.push(random.pick(left.filter(own => own.length > 0)).shift()!)
  return order
}

for (const algorithm of algorithms) {
  const limit = defineLimit(algorithm, 1000, windowMs)
  const numbers = (): Numbers => ({
    used: random.whole(1, 40),
    other: algorithm === 'gcra' ? 0 : random.whole(0, 5)
  })

  t.test(`${algorithm}: two and three instances restore exact counts, in every order`, async t => {
    for (const count of [2, 3]) {
      const instances = Array.from({ length: count }, () => ({ before: numbers(), since: random.whole(0, 20) }))
      const truth = {
        used: Math.max(...instances.map(({ before }) => before.used)) +
          instances.reduce((sum, { since }) => sum + since, 0),
        other: Math.max(...instances.map(({ before }) => before.other))
      }
      for (const order of ordersOf(instances)) {
        const client = clientOf(limit)
        for (const { before, since } of order) {
          const baseline = client.baseline(before)
          await client.restore(baseline)
          await client.replay(baseline, since)
        }
        t.same(await client.counted(), truth, JSON.stringify({ seed, order }))
      }
    }
  })

  t.test(`${algorithm}: repeated restores, and hits between them, keep counts exact`, async t => {
    for (let round = 0; round < 20; round++) {
      const client = clientOf(limit)
      let [used, other, most] = [0, 0, 0]
      const steps = Array.from({ length: 3 }, () => {
        const before = numbers()
        const [since, later] = [random.whole(0, 20), random.whole(0, 3)]
        const baseline = client.baseline(before)
        used += since + later
        most = Math.max(most, before.used)
        other = Math.max(other, before.other)
        const restores = Array.from({ length: random.whole(1, 3) }, () => async () => await client.restore(baseline))
        return [...restores, async () => await client.replay(baseline, since), async () => await client.hit(later)]
      })
      // An instance that has not known the client is back before all others.
      const first = random.whole(0, 5)
      await client.hit(first)
      for (const step of shuffled(steps)) await step()
      t.same(await client.counted(), { used: first + used + most, other }, JSON.stringify({ seed, round }))
    }
  })

  t.test(`${algorithm}: a second loss begins again`, async t => {
    const client = clientOf(limit)
    const [known, more] = [client.baseline({ used: 7, other: 0 }), client.baseline({ used: 9, other: 0 })]
    await client.restore(more)
    await client.replay(more, 3)
    await client.restore(known)
    const epoch = await epochOf()
    await observer.flushall()
    await store.instance.fence()
    const into = { epoch, hasBaselines: true }
    const entry = { key: client.key, limit, baseline: known }
    const lost = { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'lost' }
    await t.rejects(store.limits.restore([entry], Date.now(), epoch), lost)
    await t.rejects(store.limits.merge('late', [{ ...entry, counted: more }], Date.now(), into), lost)
    t.same(await client.counted(), { used: 0, other: 0 }, 'what was meant for the data before is not added')
    await client.restore(known)
    await client.restore(more)
    await client.replay(known, 2)
    t.same(await client.counted(), { used: 11, other: 0 })
  })

  t.test(`${algorithm}: a note goes with its window, and a foreign value in its place is replaced`, async t => {
    const foreign: Record<string, (note: string) => Promise<unknown>> = {
      none: async () => {},
      'a list': async note => await observer.rpush(note, '7'),
      'a text': async note => await observer.set(note, 'x'),
      'a hash': async note => await observer.hset(note, 'x', '7')
    }
    for (const [name, put] of Object.entries(foreign)) {
      const client = clientOf(limit)
      await put(client.note)
      await client.restore(client.baseline({ used: 7, other: 0 }))
      await client.restore(client.baseline({ used: 9, other: 0 }))
      t.same(await client.counted(), { used: 9, other: 0 }, name)
      const [ofCounter, ofNote] = [await observer.pttl(client.key), await observer.pttl(client.note)]
      t.ok(ofNote > 0 && Math.abs(ofNote - ofCounter) < 1000, `${ofNote} and ${ofCounter} ms`)
    }
  })

  t.test(`${algorithm}: what is over is not restored, and leaves no note`, async t => {
    const short = defineLimit(algorithm, 1000, 10)
    const client = clientOf(short)
    const baseline = ruleOf(short).accept(undefined, Date.now() - 1000, short, 5)
    await store.limits.restore([{ key: client.key, limit: short, baseline }], Date.now(), await epochOf())
    t.equal(await observer.exists(client.key, client.note), 0)
  })
}

t.test('sliding-window: a baseline of the window before counts as what has faded into this one', async t => {
  const limit = defineLimit('sliding-window', 1000, windowMs)
  const client = clientOf(limit)
  const nowMs = Date.now()
  // One instance has heard of 5 in this window, of 20 in the one before; the other one of 18 in that.
  const newer = stateOf(limit, 5, 20, nowMs - 1000)
  const older = stateOf(limit, 18, 0, nowMs - 1000 - windowMs)
  for (const baselines of [[newer, older], [older, newer]]) {
    await observer.del(client.key, client.note)
    for (const baseline of baselines) await client.restore(baseline)
    t.same(await client.counted(), { used: 5, other: 20 })
  }
})

t.test('fixed-window: a window that refusals made longer is restored as the longer one', async t => {
  const limit = defineLimit('fixed-window', 5, 60_000, { excess: 'restart' })
  const client = clientOf(limit)
  const nowMs = Date.now()
  const [shorter, longer] = [stateOf(limit, 5, 1, nowMs + 30_000), stateOf(limit, 5, 4, nowMs + 50_000)]
  for (const baselines of [[shorter, longer], [longer, shorter]]) {
    await observer.del(client.key, client.note)
    for (const baseline of baselines) await client.restore(baseline)
    t.same(await client.counted(), { used: 5, other: 4 })
    t.ok(await observer.pttl(client.key) > 40_000)
  }
})

t.test('gcra: routes of a group with another max restore the same bucket', async t => {
  const [small, large] = [defineLimit('gcra', 10, windowMs), defineLimit('gcra', 1000, windowMs)]
  const client = clientOf(small)
  const nowMs = Date.now()
  // 5 of 10, and 600 of 1000: the second one is the larger part.
  const baselines = [
    { limit: small, baseline: stateOf(small, 5 * windowMs, 10, nowMs) },
    { limit: large, baseline: stateOf(large, 600 * windowMs, 1000, nowMs) }
  ]
  for (const order of ordersOf(baselines)) {
    await observer.del(client.key, client.note)
    for (const baseline of order) {
      await store.limits.restore([{ key: client.key, ...baseline }], nowMs, await epochOf())
    }
    const { level, max } = await observer.hgetall(client.key)
    t.ok(Math.abs(Number(level) / Number(max) / windowMs - 0.6) < 0.01, `${level} by ${max}`)
  }
})
