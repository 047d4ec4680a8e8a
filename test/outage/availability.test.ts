/**
 * Answers and failures of Redis at the moment of a switch: heartbeats, replays and calls under way. Redis and the
 * breaker are simulated, and the test sets the timers, so that no order depends on luck.
 */
import t, { type Test } from 'tap'
import { StoreUnavailableError } from '../../lib/errors.js'
import { windowOf } from '../../lib/rules/fixed-window.js'
import { SentError } from '../../lib/store/redis/sequence.js'
import { defineLimit } from '../../lib/rules/rate-limit.js'
import { type Fallback, type Hit, outcomeOf, type Taken } from '../../lib/store/limit-store.js'
import type { Block } from '../../lib/store/block-store.js'
import { mockMachinery } from '../support/fake-timers.js'
import { countedBy, gone, keys, madeUpStores } from '../support/made-up-redis.js'
import { answerOf } from '../support/take.js'

const limit = defineLimit('fixed-window', 10, 60_000)
const check = { name: 'limit', limit, cost: 1 }
const checks = [check]
const lost = new StoreUnavailableError('lost', 'lost')
const rejected = new StoreUnavailableError('reply', 'reply')

/** Lets all promises that can continue do so. */
async function turns (): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise(resolve => setImmediate(resolve))
}

function setUp (t: Test) {
  const clock = mockMachinery(t, 'setTimeout')
  const { memory, breaker, redis, journal, stores } = madeUpStores(t)
  breaker.connect = async () => breaker.up()
  const switches: string[] = []
  stores.availability.on('switch', ({ store, reason }) => switches.push(reason ?? store))
  const isUp = async () => {
    breaker.up()
    await stores.availability.settle()
    t.equal(stores.availability.status.store, 'redis')
  }
  const hit = async (key: string, onOutage: Fallback | 'fail' = 'memory') => {
    const answer = await answerOf(stores.limits, { clientKey: key, checks, onOutage })
    return answer.kind === 'unanswered' ? answer.failure.message : `${answer.source} ${answer.accepted}`
  }
  const counterOf = (client: string) => keys.newCounter('fixed-window', 'limit', client)
  return { clock, memory, breaker, redis, journal, stores, switches, isUp, hit, counterOf }
}

/** Redis' answers to hits that it counts. */
function counted (hits: readonly Hit[]): readonly Taken[] {
  return hits.flatMap(hit => countedBy([hit], check))
}

t.test('a heartbeat that finds another epoch ends the use of Redis until the replay is over', async t => {
  const { clock, redis, switches, isUp, hit, counterOf } = setUp(t)
  await isUp()
  redis.limits.decide = async hits => counted(hits)
  await hit('client')
  redis.epoch = 'second'
  clock.tick(0)
  await turns()
  t.same(switches, ['redis', 'Redis has lost its data', 'redis'])
  t.match(redis.mergeCalls, [{ hasBaselines: false, counters: [{ key: counterOf('client') }] }])
  t.equal(redis.merged.length, 1)
})

t.test('a Redis without its data does not know how many instances there are', async t => {
  const { clock, redis, stores, isUp } = setUp(t)
  redis.instances = 2
  await isUp()
  Object.assign(redis, { epoch: 'second', instances: 1 })
  clock.tick(0)
  await turns()
  t.same([stores.availability.status.store, stores.availability.instances], ['redis', 2])
})

t.test('a heartbeat that Redis rejects is followed by the next one', async t => {
  const { clock, redis, stores, isUp } = setUp(t)
  await isUp()
  const { heartbeat } = redis.instance
  redis.instance.heartbeat = async () => { redis.heartbeats++; throw rejected }
  clock.tick(0)
  await turns()
  redis.instance.heartbeat = heartbeat
  const before = redis.heartbeats
  clock.tick(1000)
  await turns()
  t.equal(redis.heartbeats, before + 1)
  t.equal(stores.availability.status.store, 'redis')
})

for (const closes of [false, true]) {
  const again = closes ? 'not asked again after the end' : 'asked again a second later'
  t.test(`a Redis that works but fails the replay is ${again}`, async t => {
    const { clock, breaker, redis, stores, journal, hit } = setUp(t)
    await hit('client')
    const { merge } = redis.limits
    redis.limits.merge = async () => { throw gone }
    breaker.up()
    await stores.availability.settle()
    t.match(stores.availability.status, { store: 'memory', reason: 'gone' })
    redis.limits.merge = merge
    if (closes) stores.availability.close()
    clock.tick(1000)
    await turns()
    t.same([stores.availability.status.store, journal.size], closes ? ['memory', 1] : ['redis', 0])
  })
}

t.test('if Redis goes away during a replay, the breaker decides when the next one starts', async t => {
  const { clock, breaker, redis, stores, hit } = setUp(t)
  await hit('client')
  redis.instance.fence = async () => {
    breaker.usable = false
    throw gone
  }
  breaker.up()
  await stores.availability.settle()
  redis.instance.fence = async () => { throw new Error('must not be called') }
  clock.tick(60_000)
  await turns()
  t.match(stores.availability.status, { store: 'memory', reason: 'gone' })
})

t.test('a Redis that is a few batches behind gets its counters back', async t => {
  const { breaker, redis, isUp, hit, counterOf } = setUp(t)
  await isUp()
  redis.limits.decide = async hits => {
    redis.instance.lastAnswered = 5
    return counted(hits)
  }
  await hit('client')
  breaker.down()
  redis.instance.fence = async () => ({ last: 4, next: 10 })
  await isUp()
  t.match(redis.mergeCalls, [{ hasBaselines: false, counters: [{ key: counterOf('client') }] }])
  t.equal(redis.merged.length, 1)
})

for (const isSecondLoss of [false, true]) {
  const what = isSecondLoss ? 'all that is known by then' : 'the same counters, without the hits since'
  t.test(`a recovery after a loss that fails half-way, and is tried again, restores ${what}`, async t => {
    const { clock, breaker, redis, stores, isUp, hit, counterOf } = setUp(t)
    await isUp()
    redis.limits.decide = async hits => counted(hits)
    for (const client of ['quiet', 'active']) await hit(client)
    breaker.down()
    for (let i = 0; i < 2; i++) await hit('active')
    await stores.values.set('value', 'text')
    Object.assign(redis, { epoch: 'second' })
    redis.instance.fence = async () => ({ last: -1, next: 2 ** 32 })
    const { restore } = redis.limits
    const { merge } = redis.values
    redis.limits.restore = async () => { throw gone }
    redis.values.merge = async () => { throw gone }
    const tryAgain = async () => {
      clock.tick(1000)
      await turns()
    }

    // First the counters fail, then the values behind them.
    breaker.up()
    await stores.availability.settle()
    await hit('quiet')
    redis.limits.restore = restore
    await tryAgain()
    t.equal(stores.availability.status.store, 'memory')
    const restored = (used: number, client: string) => ({ key: counterOf(client), baseline: { used } })
    t.match(redis.restored, [restored(1, 'active'), restored(1, 'quiet')])
    const merged = (from: number, to: number) => ({ baseline: { used: from }, counted: { used: to } })
    t.match(redis.mergeCalls, [{ hasBaselines: true, counters: [merged(1, 3), merged(1, 2)] }])

    await hit('active')
    if (isSecondLoss) redis.epoch = 'third'
    redis.values.merge = merge
    await tryAgain()
    t.equal(stores.availability.status.store, 'redis')
    const again = isSecondLoss ? [restored(3, 'active'), restored(2, 'quiet')] : []
    t.match(redis.restored.slice(2), again)
    t.equal(redis.restored.length, 2 + again.length)
    t.match(redis.merged.slice(2), [merged(3, 4)])
  })
}

t.test('entries that Redis rejects during a replay are reported, and the others are sent', async t => {
  const { breaker, redis, stores, journal, hit, isUp } = setUp(t)
  await hit('client')
  await stores.blocks.block({ ip: '192.0.2.1', durationMs: 60_000, reason: '', origin: '' })
  redis.blocks.apply = async () => { throw rejected }
  const reported: unknown[] = []
  stores.availability.on('rejected', (what, count, error) => reported.push([what, count, error]))
  await isUp()
  t.same(reported, [['blocks', 1, rejected]])
  t.same([redis.mergeCalls.length, journal.size, breaker.usable], [1, 0, true])
})

t.test('the rest of a replay that does not arrive is sent with a later heartbeat', async t => {
  const { clock, breaker, redis, journal, hit, isUp } = setUp(t)
  await isUp()
  let fail = (_: Error) => {}
  redis.limits.decide = async () => await new Promise((resolve, reject) => { fail = reject })
  const late = hit('late')
  await turns()
  breaker.down()
  await isUp()
  fail(gone)
  t.equal(await late, 'memory true')
  t.equal(journal.size, 1)
  const { merge } = redis.limits
  redis.limits.merge = async () => { throw gone }
  clock.tick(0)
  await turns()
  t.equal(journal.size, 1)
  redis.limits.merge = merge
  clock.tick(1000)
  await turns()
  t.same([journal.size, redis.mergeCalls.length], [0, 1])
})

t.test('blocks are restored if Redis lacks them, and lifted if it still has them, once each', async t => {
  const { breaker, redis, memory, stores, isUp } = setUp(t)
  await isUp()
  const durationMs = 60_000
  const request = (ip: string, ms = durationMs) => ({ ip, durationMs: ms, reason: '', origin: '' })
  const standing = ({ ip, reason, origin, durationMs }: ReturnType<typeof request>): Block =>
    ({ ip, reason, origin, blockedAtMs: Date.now(), expiresAtMs: Date.now() + durationMs })
  // Before the outage: Redis loses 1, 6 and 7, and does not get the changes that follow.
  for (const i of [1, 2, 3, 4, 5, 6, 7]) memory.blocks.block(request(`192.0.2.${i}`))
  memory.blocks.unblock('192.0.2.3')
  memory.blocks.unblock('192.0.2.5')
  memory.blocks.block(request('192.0.2.5', 30_000))
  memory.blocks.unblock('192.0.2.9')
  breaker.down()
  // During the outage.
  await stores.blocks.unblock('192.0.2.4')
  await stores.blocks.block(request('192.0.2.6', 120_000))
  redis.listed = [2, 3, 4, 5].map(i => standing(request(`192.0.2.${i}`)))
  redis.epoch = 'second'
  await isUp()
  const applied = redis.applied.map(operation => 'block' in operation
    ? `${operation.block.ip} ${operation.block.durationMs} ${operation.block.replace ?? false}`
    : `${operation.unblock} lifted`)
  // The last two are replayed from the journal.
  t.same(applied.toSorted(), [
    '192.0.2.1 60000 false', '192.0.2.3 lifted', '192.0.2.4 lifted', '192.0.2.5 30000 true', '192.0.2.6 120000 false',
    '192.0.2.7 60000 false'
  ].toSorted())
})

t.test('a hit that Redis rejects is decided by memory and not journaled', async t => {
  const { redis, journal, isUp, hit, switches } = setUp(t)
  await isUp()
  redis.limits.decide = async () => { throw rejected }
  t.same([await hit('client'), await hit('client', 'share')], ['memory true', 'memory true'])
  t.equal(journal.size, 0)
  t.same(switches, ['redis'])
})

/** Ways in which a call fails: the error, and the number it was sent under (0: it was not sent, or to a Cluster). */
const failures = [
  { name: 'was sent', error: gone, number: 7, isInDoubt: true },
  { name: 'has no number', error: gone, number: 0, isInDoubt: false },
  { name: 'finds that Redis has lost its data', error: lost, number: 7, isInDoubt: false }
] as const

for (const { name, error, number, isInDoubt } of failures) {
  const fails = async (): Promise<never> => { throw number === 0 ? error : new SentError(error, number) }
  /** Redis when the call fails: nothing that it lost is replayed. */
  const setUpFailing = async (t: Test) => {
    const made = setUp(t)
    await made.isUp()
    made.redis.instance.fence = async () => { throw gone }
    const state = windowOf(3, 0, Date.now() + 60_000)
    made.memory.limits.adopt({ clientKey: 'client' }, { check, state }, Date.now())
    return { ...made, state }
  }
  const size = isInDoubt ? 2 : 1

  t.test(`a hit whose call ${name} is decided by memory and journaled, ${isInDoubt ? '' : 'not '}in doubt`, async t => {
    const { redis, journal, hit } = await setUpFailing(t)
    redis.limits.decide = fails
    t.equal(await hit('client'), 'memory true')
    t.equal(journal.size, size)
    t.equal(journal.next(1).length, isInDoubt ? 0 : 1)
  })

  t.test(`a hit whose call ${name} fails if memory must not answer`, async t => {
    const { breaker, redis, journal, hit } = await setUpFailing(t)
    redis.limits.decide = fails
    t.equal(await hit('client', 'fail'), error.message)
    breaker.down()
    t.equal(await hit('client', 'fail'), gone.message)
    t.equal(journal.size, 0)
  })

  t.test(`a reset whose call ${name} is journaled, ${isInDoubt ? '' : 'not '}in doubt`, async t => {
    const { redis, journal, stores } = await setUpFailing(t)
    redis.limits.forget = fails
    t.equal(await stores.limits.forget('client', checks), true)
    t.equal(journal.size, 1)
    t.equal(journal.next(1).length, isInDoubt ? 0 : 1)
  })

  t.test(`a refund whose call ${name} ${number === 0 ? 'is given up, since it may have run' : 'waits'}`, async t => {
    const { redis, journal, stores, state } = await setUpFailing(t)
    redis.limits.refund = fails
    const nowMs = Date.now()
    const outcomes = [outcomeOf(check, { fits: true, state }, nowMs)]
    const taken: Taken = { kind: 'taken', source: 'redis', accepted: true, nowMs, outcomes }
    await stores.limits.refund({ clientKey: 'client' }, taken)
    t.equal(journal.size, number === 0 ? 0 : size)
  })

  t.test(`a write of events whose call ${name} is journaled, ${isInDoubt ? '' : 'not '}in doubt`, async t => {
    const { redis, journal, memory, stores } = await setUpFailing(t)
    redis.events.logEvents = fails
    await stores.events.logEvents([{ type: 'limited', ip: '192.0.2.1', count: 1, atMs: 0 }])
    t.same([journal.size, memory.events.events(10).length], [1, 1])
    t.equal(journal.next(1).length, isInDoubt ? 0 : 1)
  })

  t.test(`a value whose call ${name} is journaled, ${isInDoubt ? '' : 'not '}in doubt`, async t => {
    const { redis, journal, stores } = await setUpFailing(t)
    redis.values.change = fails
    await stores.values.set('key', 'x', undefined, true)
    t.equal(journal.size, 1)
    t.equal(journal.next(1).length, isInDoubt ? 0 : 1)
    await turns()
    t.equal(stores.availability.status.store, error === lost ? 'memory' : 'redis')
  })
}

t.test('after an outage an instance keeps to its share until the others are back', async t => {
  const { clock, breaker, redis, isUp, hit } = setUp(t)
  let answer = { epoch: 'first', instances: 2, since: 2, nowMs: Date.now() }
  redis.instance.heartbeat = async () => answer
  await isUp()
  breaker.down()
  answer = { ...answer, instances: 1, since: 1 }
  await isUp()
  let asked = 0
  redis.limits.decide = async hits => {
    asked++
    return counted(hits)
  }
  for (let i = 0; i < limit.max / 2; i++) t.equal(await hit('client', 'share'), 'redis true')
  t.equal(await hit('client', 'share'), 'memory false')
  t.equal(asked, limit.max / 2, 'Redis is not asked about a refused hit')
  for (const error of [gone, rejected]) {
    redis.limits.decide = async () => { throw error }
    t.equal(await hit(error.kind, 'share'), 'memory true', 'a failed hit counts against the share once')
  }
  redis.limits.decide = async hits => counted(hits)
  answer = { ...answer, instances: 2, since: 2 }
  clock.tick(0)
  await turns()
  t.equal(await hit('client', 'share'), 'redis true')
})

t.test('memory answers a failed read, unless its error is no failure of Redis', async t => {
  const { redis, stores, isUp } = setUp(t)
  await isUp()
  t.equal(await stores.values.get('key'), null)
  t.match(await stores.limits.peek('client', checks), [{ check, state: undefined }])
  const mistake = new TypeError('a mistake')
  redis.values.get = async () => { throw mistake }
  redis.values.change = async () => { throw mistake }
  redis.limits.peek = async () => { throw mistake }
  await t.rejects(async () => await stores.values.get('key'), mistake)
  await t.rejects(async () => await stores.values.set('key', 'x', undefined), mistake)
  await t.rejects(async () => await stores.limits.peek('client', checks), mistake)
})

t.test('a value that Redis rejects is kept by memory, or is an error if it must reach Redis', async t => {
  const { redis, journal, stores, isUp } = setUp(t)
  await isUp()
  redis.values.change = async () => { throw rejected }
  t.equal(await stores.values.incr('sum'), 1)
  await t.rejects(async () => await stores.values.set('limit', 'x', undefined, true), rejected)
  t.equal(journal.size, 0)
})

t.test('events that Redis rejects are kept by memory alone', async t => {
  const { redis, memory, journal, stores, isUp } = setUp(t)
  await isUp()
  redis.events.logEvents = async () => { throw rejected }
  await stores.events.logEvents([{ type: 'limited', ip: '192.0.2.1', count: 1, atMs: 0 }])
  t.equal(journal.size, 0)
  t.equal(memory.events.events(10).length, 1)
})

for (const hasTime of [true, false]) {
  const tried = hasTime ? 'tried once more' : 'not tried where no time is left'
  t.test(`at closing, a Redis that is away is ${tried}`, async t => {
    const { breaker, journal, stores, hit } = setUp(t)
    let connects = 0
    breaker.connect = async () => {
      connects++
      breaker.up()
    }
    await stores.availability.drain(Infinity)
    t.equal(connects, 0, 'nothing waits')
    await hit('client')
    if (hasTime) {
      await stores.availability.drain(Infinity)
      t.same([connects, journal.size], [1, 0])
      return
    }
    breaker.usable = true
    await stores.availability.drain(-Infinity)
    t.same([connects, journal.size], [0, 0], 'a usable Redis gets the journal')
  })
}
