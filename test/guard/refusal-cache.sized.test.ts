/** The refusal cache refuses only what Redis would refuse, and counts each refusal in Redis. */
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import t, { type Test } from 'tap'
import { askAgainMs, RefusalCache } from '../../lib/guard/refusal-cache.js'
import { algorithms, ruleOf } from '../../lib/rules/algorithms.js'
import { type Check, defineLimit, explainHit, isChanged, takeAll } from '../../lib/rules/rate-limit.js'
import type { Explanation, LimitState } from '../../lib/rules/rule.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { Keys } from '../../lib/store/keys.js'
import { type Outcome, outcomeOf, type Refusals, type Taken } from '../../lib/store/limit-store.js'
import { timers } from '../../lib/runtime/timers.js'
import { guardedApp } from '../support/app.js'
import { randomFrom } from '../support/random.js'
import { RedisServer } from '../../tools/redis-server.js'
import { size } from '../support/size.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

const startMs = 1_700_000_000_000
/** The number of random runs. */
const seeds = size(50, 200)
const keys = new Keys('guard:')

/** A cache on a clock that moves only when the test moves it. */
function setUpFor (capacity: number) {
  const clock = { ms: 0 }
  const written: Refusals[] = []
  const write = async (refusals: readonly Refusals[]) => { written.push(...refusals) }
  const cache = new RefusalCache({ keys, capacity, now: () => clock.ms, write })
  return { cache, clock, written }
}

function setUp (capacity = 100) {
  const { cache, ...rest } = setUpFor(capacity)
  return { cache: forOneLimit(cache), ...rest }
}

/** The cache, for hits with one limit. */
function forOneLimit (cache: RefusalCache) {
  return {
    refuse (client: string, check: Check, canAsk: boolean): Explanation | undefined {
      return cache.refuse({ clientKey: client, checks: [check] }, canAsk)?.outcomes[0]!.explanation
    },
    adopt: (client: string, check: Check, { outcomes: [outcome], ...taken }: Taken) => {
      cache.adopt({ clientKey: client }, { ...taken, outcomes: [{ ...outcome!, check }] })
    },
    flush: async () => await cache.flush(),
    get size () { return cache.size }
  }
}

/** Redis as the cache sees it: one counter that follows the rules. */
function counter (check: Check) {
  let state: LimitState | undefined
  return (nowMs: number, cost = check.cost): Taken => {
    const outcome = ruleOf(check.limit).take(state, nowMs, check.limit, cost)
    if (isChanged(outcome)) state = outcome.state
    const outcomes = [outcomeOf({ ...check, cost }, outcome, nowMs)]
    return { kind: 'taken', source: 'redis', accepted: outcome.fits, nowMs, outcomes }
  }
}

type Judged = ReturnType<typeof takeAll<{ readonly check: Check, readonly state: LimitState | undefined }>>['judged']

/** The answer of Redis. */
function takenOf (accepted: boolean, judged: Judged, nowMs: number): Taken {
  const outcomes = judged.map(({ of: { check }, outcome }) => outcomeOf(check, outcome, nowMs))
  return { kind: 'taken', source: 'redis', accepted, nowMs, outcomes }
}

/** The answer of Redis to the first hit of a client. */
function freshlyTaken (nowMs: number, checks: readonly Check[]): Taken {
  const { accepted, judged } = takeAll(checks.map(check => ({ check, state: undefined })), nowMs)
  return takenOf(accepted, judged, nowMs)
}

function checkOf (algorithm: typeof algorithms[number], max: number, windowMs = 60_000, cost = 1): Check {
  return { name: 'login', limit: defineLimit(algorithm, max, windowMs), cost }
}

t.test('while Redis is slow, refusals are written one at a time, and no more wait than keys are kept', async t => {
  const check = checkOf('fixed-window', 1)
  const [writes, answers] = [[] as number[], [] as (() => void)[]]
  const cache = forOneLimit(new RefusalCache({
    keys,
    capacity: 100,
    now: () => 0,
    write: async refusals => {
      writes.push(refusals.reduce((sum, { count }) => sum + count, 0))
      await new Promise<void>(resolve => answers.push(resolve))
    }
  }))
  const flushed: Promise<void>[] = []
  for (let round = 0; round < 10; round++) {
    for (let i = 0; i < 100; i++) {
      const redis = counter(check)
      redis(startMs)
      // Each answer of Redis starts a new count of refusals.
      cache.adopt(`client${i}`, check, redis(startMs))
      cache.refuse(`client${i}`, check, true)
    }
    flushed.push(cache.flush())
    await new Promise(resolve => setImmediate(resolve))
  }
  t.same(writes, [100], 'one write is under way')
  for (const left of [1, 0]) {
    answers.shift()!()
    await new Promise(resolve => setImmediate(resolve))
    t.equal(answers.length, left)
  }
  t.same(writes, [100, 100])
  await Promise.all(flushed)
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: refuses only what Redis would refuse, with the same explanation`, async t => {
    let refusedLocally = 0
    for (let seed = 1; seed <= seeds; seed++) {
      const random = randomFrom(seed)
      const check = checkOf(algorithm, random.whole(1, 5), random.whole(1, 3000))
      const { cache, clock, written } = setUp()
      const [redis, shadow] = [counter(check), counter(check)]
      for (let step = 0; step < 200; step++) {
        clock.ms += random.chance(0.7) ? random.whole(0, 3) : random.whole(0, 800)
        const nowMs = startMs + clock.ms
        const cost = random.chance(0.8) ? 1 : random.whole(0, 7)
        const expected = shadow(nowMs, cost)
        const explanation = cache.refuse('client', { ...check, cost }, true)
        if (explanation === undefined) {
          cache.adopt('client', { ...check, cost }, redis(nowMs, cost))
          continue
        }
        refusedLocally++
        // `redis` does not receive the refusals that the cache writes behind, so it counts fewer.
        const found = { accepted: false, explanation: { ...explanation, refusals: 0 } }
        const explained = ruleOf(check.limit).explain(expected.outcomes[0]!.state, nowMs, check.limit, cost)
        const wanted = {
          accepted: expected.accepted, explanation: { ...explainHit(explained, check.limit, cost), refusals: 0 }
        }
        if (!isDeepStrictEqual(found, wanted)) return t.same(found, wanted, `seed ${seed}, step ${step}`)
      }
      await cache.flush()
      if (algorithm !== 'fixed-window') t.same(written, [], `seed ${seed}`)
    }
    t.ok(refusedLocally > 5 * seeds, `${refusedLocally} refusals`)
  })
}

t.test('asks Redis again at intervals, with one hit, and adopts the answer', async t => {
  const check = checkOf('fixed-window', 1)
  const { cache, clock } = setUp()
  const redis = counter(check)
  const adopt = (taken: Taken) => cache.adopt('client', check, taken)
  adopt(redis(startMs))
  t.equal(cache.size, 0, 'an accepted hit is not remembered')
  adopt(redis(startMs))
  t.equal(cache.size, 1)
  clock.ms = askAgainMs - 1
  t.ok(cache.refuse('client', check, true))
  clock.ms = askAgainMs
  t.equal(cache.refuse('client', check, true), undefined)
  t.ok(cache.refuse('client', check, true), 'while that answer is awaited')
  t.equal(cache.refuse('another', check, true), undefined)
  t.equal(cache.refuse('client', { ...check, name: 'other' }, true), undefined)
  // The key was reset.
  adopt(counter(check)(startMs + askAgainMs))
  t.equal(cache.size, 0)
  t.equal(cache.refuse('client', check, true), undefined)
})

t.test('a refusal of an expensive hit, or under a lower max, does not refuse a hit that fits', async t => {
  const dear = checkOf('fixed-window', 10, 60_000, 8)
  const { cache, written } = setUp()
  const redis = counter(dear)
  cache.adopt('client', dear, redis(startMs))
  cache.adopt('client', dear, redis(startMs))
  t.same(cache.refuse('client', dear, true), {
    remaining: 2, resetMs: 60_000, retryAfterMs: 60_000, refusals: 2
  })
  t.equal(cache.refuse('client', { ...dear, cost: 2 }, true), undefined)
  t.equal(cache.refuse('client', checkOf('fixed-window', 16, 60_000, 8), true), undefined)
  t.equal(cache.refuse('client', checkOf('fixed-window', 10, 1000, 8), true), undefined, 'nor under another window')
  await cache.flush()
  t.match(written, [{ client: 'client', count: 1 }])
})

t.test('a cached refusal ends with the window, by a monotonic clock', async t => {
  const check = checkOf('fixed-window', 0, 300)
  const { cache, clock } = setUp()
  cache.adopt('client', check, counter(check)(startMs))
  clock.ms = 299.9
  t.equal(cache.refuse('client', check, true)!.retryAfterMs, 1)
  clock.ms = 300
  t.equal(
    cache.refuse('client', check, true),
    undefined,
    'even if the next window also refuses: only Redis may start it'
  )
})

t.test('keeps refusing what Redis refused while Redis cannot be asked', async t => {
  const check = checkOf('gcra', 1, 10_000)
  const { cache, clock } = setUp()
  const redis = counter(check)
  redis(startMs)
  cache.adopt('client', check, redis(startMs))
  clock.ms = 9999
  t.ok(cache.refuse('client', check, false))
  clock.ms = 10_000
  t.equal(cache.refuse('client', check, false), undefined)
})

t.test('a hit that can never fit asks Redis no more often than others, even if refusals are not stored', async t => {
  for (const algorithm of algorithms) {
    for (const [max, cost] of [[1, 2], [0, 1]] as const) {
      const check = checkOf(algorithm, max, 60_000, cost)
      const { cache, clock, written } = setUp()
      const redis = counter(check)
      cache.adopt('client', check, redis(startMs))
      clock.ms = askAgainMs - 1
      const expected = redis(startMs + clock.ms)
      const { state } = expected.outcomes[0]!
      const wanted =
        explainHit(ruleOf(check.limit).explain(state, expected.nowMs, check.limit, cost), check.limit, cost)
      t.same(cache.refuse('client', check, true), wanted)
      if (max > 0) t.equal(cache.refuse('client', { ...check, cost: 1 }, true), undefined, 'a cheaper hit asks Redis')
      clock.ms = askAgainMs
      t.equal(cache.refuse('client', check, true), undefined)
      await cache.flush()
      t.equal(written.length, algorithm === 'fixed-window' ? 1 : 0)
    }
  }
})

t.test('with several limits, refuses only what Redis would refuse, with the same explanations', async t => {
  let refusedLocally = 0
  for (let seed = 1; seed <= seeds; seed++) {
    const random = randomFrom(seed)
    const limits = Array.from({ length: random.whole(2, 4) }, (_, i) => ({
      name: `limit${i}`,
      limit: defineLimit(algorithms[random.whole(0, 2)]!, random.whole(0, 5), random.whole(1, 3000)),
      shadow: random.chance(0.2)
    }))
    const clock = { ms: 0 }
    const counted = limits.map(() => 0)
    const write = async (refusals: readonly Refusals[]) => {
      for (const { name, count } of refusals) counted[Number(name.at(-1))]! += count
    }
    const cache = new RefusalCache({ keys, capacity: 100, now: () => clock.ms, write })
    const states: (LimitState | undefined)[] = []
    const written = limits.map(() => 0)
    for (let step = 0; step < 200; step++) {
      clock.ms += random.chance(0.7) ? random.whole(0, 3) : random.whole(0, 800)
      const checks = limits.map(limit => ({ ...limit, cost: random.chance(0.8) ? 1 : random.whole(0, 7) }))
      const nowMs = startMs + clock.ms
      // The answer of Redis if it were asked each time.
      const { accepted, judged } = takeAll(checks.map((check, i) => ({ check, state: states[i] })), nowMs)
      const wanted = takenOf(accepted, judged, nowMs)
      const refused = cache.refuse({ clientKey: 'client', checks }, true)
      judged.forEach(({ outcome }, i) => {
        if (isChanged(outcome)) states[i] = outcome.state
        if (refused !== undefined && outcome.left === 'refusal') written[i]!++
      })
      if (refused === undefined) {
        cache.adopt({ clientKey: 'client' }, wanted)
        continue
      }
      refusedLocally++
      const answerOf = ({ accepted, outcomes }: { accepted: boolean, outcomes: readonly Outcome[] }) => ({
        accepted,
        outcomes: outcomes.map(({ fits, explanation }) => [fits, explanation])
      })
      const [found, expected] = [answerOf(refused), answerOf(wanted)]
      if (!isDeepStrictEqual(found, expected)) return t.same(found, expected, `seed ${seed}, step ${step}`)
    }
    await cache.flush()
    if (!isDeepStrictEqual(counted, written)) return t.same(counted, written, `seed ${seed}`)
  }
  t.ok(refusedLocally > 5 * seeds, `${refusedLocally} refusals`)
})

t.test('asks Redis again when the refusal of one of several limits is due', async t => {
  const checks = ['a', 'b'].map(name => ({ ...checkOf('fixed-window', 0), name }))
  const { cache, clock } = setUpFor(100)
  const refusalAt = (nowMs: number, checks: readonly Check[]) => freshlyTaken(nowMs, checks)
  for (const check of checks) {
    cache.adopt({ clientKey: 'client' }, refusalAt(startMs + clock.ms, [check]))
    clock.ms += askAgainMs / 2
  }
  t.equal(cache.refuse({ clientKey: 'client', checks }, true), undefined)
  t.match(cache.refuse({ clientKey: 'client', checks }, true), { accepted: false }, 'while that answer is awaited')
  t.match(cache.refuse({ clientKey: 'client', checks }, false), { accepted: false })
})

t.test('asks Redis for a limit that each refusal changes, and for an unknown limit', async t => {
  const limit = defineLimit('fixed-window', 0, 60_000)
  const plain = { name: 'plain', limit, cost: 1 }
  const { cache } = setUpFor(100)
  for (const excess of ['restart', 'backoff'] as const) {
    const checks = [plain, { name: excess, limit: defineLimit('fixed-window', 0, 60_000, { excess }), cost: 1 }]
    cache.adopt({ clientKey: 'client' }, freshlyTaken(startMs, checks))
    t.equal(cache.refuse({ clientKey: 'client', checks }, true), undefined)
  }
  t.equal(cache.refuse({ clientKey: 'client', checks: [plain, { ...plain, name: 'other' }] }, true), undefined)
  t.match(cache.refuse({ clientKey: 'client', checks: [plain] }, true), { accepted: false })
})

t.test('keeps a bounded number of keys, and drops the one that Redis refused least recently', async t => {
  const check = checkOf('fixed-window', 0)
  const { cache } = setUp(3)
  const refused = counter(check)(startMs)
  for (const client of ['a', 'b', 'c', 'a', 'd']) cache.adopt(client, check, refused)
  t.equal(cache.size, 3)
  t.same(['a', 'b', 'c', 'd'].map(client => cache.refuse(client, check, true) !== undefined), [true, false, true, true])
})

t.test('adds refusals up, and writes them behind', async t => {
  const check = checkOf('fixed-window', 1)
  const { cache, written } = setUp()
  const redis = counter(check)
  for (let i = 0; i < 2; i++) cache.adopt('client', check, redis(startMs))
  for (let i = 0; i < 100; i++) cache.refuse('client', check, true)
  t.same(written, [])
  await until(() => written.length > 0)
  // The state in Redis after each refusal.
  const states = Array.from({ length: 101 }, () => redis(startMs).outcomes[0]!.state)
  const refusals = { client: 'client', name: 'login', limit: check.limit }
  t.same(written, [{ ...refusals, window: states[0], count: 100 }])
  cache.refuse('client', check, true)
  await cache.flush()
  t.same(written.slice(1), [{ ...refusals, window: states[100], count: 1 }])
})

t.test('a failed write does not end the process, and later writes still happen', async t => {
  const check = checkOf('fixed-window', 0)
  let writes = 0
  const write = async () => { if (++writes === 1) throw new Error('away') }
  const cache = new RefusalCache({ keys, capacity: 1, now: () => 0, write })
  cache.adopt({ clientKey: 'client' }, counter(check)(startMs))
  cache.refuse({ clientKey: 'client', checks: [check] }, true)
  await until(() => writes === 1)
  cache.refuse({ clientKey: 'client', checks: [check] }, true)
  await until(() => writes === 2)
})

t.test('on a server', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const redis = server.client()
  t.teardown(() => redis.disconnect())
  const start = async (t: Test, options: RedisGuardOptions) => {
    const app = await guardedApp(t, { redis: server.url, commandTimeout: 10_000, ...options })
    app.get('/', async () => 'ok')
    if (options.redis !== false) await until(() => app.redisGuard.status.store === 'redis')
    return app
  }
  const scripts = async () => {
    const calls = (await redis.info('commandstats')).matchAll(/^cmdstat_eval(?:sha)?:calls=(\d+)/gm)
    return [...calls].reduce((sum, [, calls]) => sum + Number(calls), 0)
  }

  t.test('a flood costs Redis next to nothing; counters, events, suspects and metrics count every hit', async t => {
    await redis.flushall()
    const app = await start(t, { max: 10, timeWindow: '1 hour', syncInterval: 60_000 })
    const flood = size(1000, 3000)
    const startMs = Date.now()
    for (let i = 0; i < 12; i++) await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
    const before = await scripts()
    const answers = await Promise.all(Array.from({ length: flood }, async () => {
      return await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
    }))
    t.ok(answers.every(({ statusCode, headers }) => {
      return statusCode === 429 && headers['x-ratelimit-remaining'] === '0' && Number(headers['retry-after']) > 30
    }))
    const total = flood + 12
    await until(async () => await redis.get('guard:fixed-window:{192.0.2.1}:global') === `10:${total - 10}`)
    // Per second: two questions, four writes of cached refusals, two of events, and a heartbeat.
    const most = 10 + 10 * (Date.now() - startMs) / 1000
    t.ok(await scripts() - before < most, `${await scripts() - before} scripts, at most ${most}`)
    t.same(await app.redisGuard.getSuspiciousIPs(), [{ ip: '192.0.2.1', count: total - 10 }])
    const metrics = (await app.inject('/metrics')).payload
    const counts = metrics.matchAll(/decisions_total\{limit="global",outcome="limited",source="\w+"\} (\d+)/g)
    const limited = [...counts].reduce((sum, [, count]) => sum + Number(count), 0)
    t.equal(limited, total - 10)
  })

  t.test('several limits answer as memory does, and ask Redis no more often than one limit', async t => {
    const cost = (request: { headers: object }) => Number((request.headers as { cost: string }).cost)
    const limits: Record<string, NonNullable<RedisGuardOptions['limits']>> = {
      backoff: [
        { name: 'requests', max: 1, timeWindow: '1 minute' },
        { name: 'backoff', max: 1, timeWindow: '10 minutes', exponentialBackoff: true }
      ],
      batch: [
        { name: 'requests', max: 1, timeWindow: '1 hour' },
        { name: 'calls', max: 10, timeWindow: '1 hour', cost }
      ],
      ban: [
        { name: 'requests', max: 1, timeWindow: '1 hour' },
        { name: 'ban', max: 10, timeWindow: '1 day', cost, ban: 1 }
      ],
      shadow: [
        { name: 'burst', max: 1, timeWindow: '1 hour' },
        { name: 'shadow', max: 0, timeWindow: '1 day', shadow: true }
      ]
    }
    const askedOf: Record<string, number> = {}
    // The clock stands still, so a slow machine causes no extra question.
    const nowMs = timers.monotonicMs()
    t.intercept(timers, 'monotonicMs', { value: () => nowMs })
    for (const [name, list] of Object.entries(limits)) {
      const apps = await Promise.all([false as const, server.url].map(async redis =>
        await start(t, { redis, nameSpace: `${name}:`, limits: list, standardHeaders: true })))
      const seen = await Promise.all(apps.map(async app => {
        const answers: object[] = []
        for (const cost of [1, 1, 1, 11, 11, 1, 11, 1]) {
          const { statusCode, headers } = await app.inject({ url: '/', headers: { cost: String(cost) } })
          const { 'ratelimit-policy': policy, 'x-ratelimit-limit': limit, 'retry-after': retryAfter } = headers
          answers.push({ statusCode, policy, limit, canRetry: retryAfter !== undefined })
        }
        const peeked = await app.redisGuard.limits.peek('127.0.0.1')
        const minutes = peeked.map(({ name, resetMs }) => [name, Math.round(resetMs / 60_000)])
        const { body } = await app.inject('/metrics')
        const byRedis = [...body.matchAll(/decisions_total\{[^}]*source="redis"\} (\d+)/g)]
        askedOf[name] = byRedis.reduce((sum, [, count]) => sum + Number(count), 0)
        const shadowed = [...body.matchAll(/outcome="shadowed",source="\w+"\} (\d+)/g)]
          .reduce((sum, [, count]) => sum + Number(count), 0)
        return { answers, minutes, shadowed }
      }))
      t.same(seen[1], seen[0], name)
    }
    // `backoff` asks each time: a refusal makes its window longer. A limit in shadow is a decision of its own.
    t.same(askedOf, { backoff: 8, batch: 2, ban: 2, shadow: 4 })
  })

  t.test('a deleted counter is free again on every instance within half a second', async t => {
    await redis.flushall()
    const apps = await Promise.all([1, 2].map(async () => await start(t, { max: 1, timeWindow: '1 hour' })))
    for (const app of apps) {
      for (let i = 0; i < 3; i++) await app.inject('/')
      t.equal((await app.inject('/')).statusCode, 429)
    }
    for (const app of apps) {
      await redis.del('guard:fixed-window:{127.0.0.1}:global')
      await until(async () => (await app.inject('/')).statusCode === 200, 20 * askAgainMs)
    }
  })

  t.test('refusals of an expired window are not added to the next window', async t => {
    await redis.flushall()
    const app = await start(t, { max: 1, timeWindow: 1500 })
    for (let i = 0; i < 20; i++) await app.inject('/')
    await until(async () => (await app.inject('/')).statusCode === 200)
    await app.close()
    t.equal(await redis.get('guard:fixed-window:{127.0.0.1}:global'), '1')
  })

  t.test('an outage gives a refused client no second quota, unless skipOnError is set', async t => {
    await Promise.all([undefined, true].map(async skipOnError => {
      const proxy = await TcpProxy.start(server.port)
      const skipping = skipOnError === undefined ? {} : { skipOnError }
      const app = await start(t, {
        redis: { port: proxy.port }, nameSpace: `${skipOnError}:`, max: 2, timeWindow: '1 hour', ...skipping
      })
      for (let i = 0; i < 3; i++) await app.inject('/')
      await proxy.stop()
      await until(() => app.redisGuard.status.store === 'memory')
      await sleep(askAgainMs + 10)
      t.equal((await app.inject('/')).statusCode, skipOnError === undefined ? 429 : 200)
    }))
  })
})
