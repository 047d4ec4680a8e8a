/** Concurrent events: a simulated Redis and breaker answer exactly while something else is under way. */
import t, { type Test } from 'tap'
import { parseAddress } from '../../lib/addresses/address.js'
import { windowOf } from '../../lib/rules/fixed-window.js'
import { StoreUnavailableError } from '../../lib/errors.js'
import { defineLimit } from '../../lib/rules/rate-limit.js'
import type { Heartbeat } from '../../lib/store/redis/encodings/instance.js'
import { noNumbers } from '../../lib/store/redis/sequence.js'
import { blockedIn, type BlockOperation } from '../../lib/store/block-store.js'
import type { Fence } from '../../lib/store/redis/sequence.js'
import { timers } from '../../lib/runtime/timers.js'
import { until } from '../../tools/until.js'
import type { Taken } from '../../lib/store/limit-store.js'
import { countedBy, gone, keys, madeUpStores } from '../support/made-up-redis.js'
import { type Asked, hitOf, takeOf } from '../support/take.js'

const limit = defineLimit('fixed-window', 10, 60_000)
const check = { name: 'limit', limit, cost: 1 }
const asked: Asked = { clientKey: 'client', checks: [check] }

/** The fence of a Redis that does not know this instance. */
const unknown: Fence = { last: -1, next: 2 ** 32 }

/** A Redis that does not know this instance or its calls, and a second instance. */
function setUp (t: Test, capacity?: number) {
  const made = madeUpStores(t, capacity)
  const { redis, stores } = made
  redis.instances = 2
  redis.now = () => 0
  redis.blocks.hasSeenMore = sequence => sequence < 5
  redis.instance.fence = async () => unknown
  const hit = (key: string, cost = 1) =>
    stores.limits.take(hitOf({ clientKey: key, checks: [{ name: 'limit', limit, cost }] }))
  return { ...made, hit }
}

/** Waits until the continuations of settled promises have run. */
async function settled (): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await new Promise(resolve => setImmediate(resolve))
}

/** A promise that the caller settles. */
function promised<T> () {
  let resolve!: (value: T) => void
  let reject!: (error: Error) => void
  const promise = new Promise<T>((...settle) => { [resolve, reject] = settle })
  return { promise, resolve, reject }
}

t.test('if Redis goes away again during a replay, that replay changes nothing', async t => {
  for (const isReplayed of [true, false]) {
    const { breaker, redis, stores } = setUp(t)
    const fence = promised<Fence>()
    redis.instance.fence = async () => await fence.promise
    breaker.up()
    t.equal(stores.availability.status.reason, 'Redis is back, and the journal is replayed')
    breaker.down()
    await stores.availability.settle()
    if (isReplayed) fence.resolve(unknown)
    else fence.reject(gone)
    await settled()
    t.match(stores.availability.status, { store: 'memory', reason: 'gone' })
    redis.instance.fence = async () => unknown
    breaker.up()
    await stores.availability.settle()
    t.equal(stores.availability.status.store, 'redis')
    t.equal(stores.availability.instances, 2)
  }
})

t.test('a replay that fails late does not end the next one', async t => {
  const { breaker, redis, stores } = setUp(t)
  const [first, second] = [promised<Fence>(), promised<Fence>()]
  redis.instance.fence = async () => await first.promise
  breaker.up()
  breaker.down()
  redis.instance.fence = async () => await second.promise
  breaker.up()
  first.reject(gone)
  await settled()
  second.resolve(unknown)
  await stores.availability.settle()
  t.equal(stores.availability.status.store, 'redis')
})

t.test('one replay runs at a time, and none after closing', async t => {
  const { breaker, redis, stores } = setUp(t)
  let fences = 0
  const fence = promised<Fence>()
  redis.instance.fence = async () => { fences++; return await fence.promise }
  breaker.up()
  breaker.up()
  t.equal(fences, 1)
  stores.availability.close()
  fence.resolve(unknown)
  await stores.availability.settle()
  t.equal(stores.availability.status.store, 'redis')
  stores.availability.lostData(gone)
  stores.availability.lostData(gone)
  t.equal(fences, 1)
  t.equal(stores.availability.status.store, 'memory')
})

t.test('an answer that comes after Redis is gone does not undo what memory has counted since', async t => {
  const { breaker, redis, stores, memory, hit } = setUp(t)
  breaker.up()
  await stores.availability.settle()
  const answer = promised<readonly Taken[]>()
  redis.limits.decide = async () => await answer.promise
  hit('client')
  await new Promise(resolve => setImmediate(resolve))
  breaker.down()
  hit('client')
  hit('client')
  answer.resolve(countedBy([hitOf(asked)], check))
  await settled()
  t.match(memory.limits.known({ clientKey: 'client' }, check), { used: 3 })
})

t.test('answers that come after Redis is gone let no more pass than the share of this instance', async t => {
  const { breaker, redis, stores } = setUp(t)
  breaker.up()
  await stores.availability.settle()
  t.equal(stores.availability.instances, 2)
  const answer = promised<readonly Taken[]>()
  redis.limits.decide = async () => await answer.promise
  const passed: boolean[] = []
  const shared: Asked = { ...asked, onOutage: 'share' }
  const hit = () => takeOf(stores.limits, shared).then(({ accepted }) => passed.push(accepted), t.error)
  for (let i = 0; i < limit.max; i++) hit()
  await new Promise(resolve => setImmediate(resolve))
  breaker.down()
  t.match(stores.limits.take(hitOf(shared)), { accepted: true }, 'memory answers at once')
  passed.push(true)
  answer.resolve(countedBy(Array.from({ length: limit.max }, () => hitOf(asked)), check))
  await settled()
  t.equal(passed.length, limit.max + 1)
  t.equal(passed.filter(Boolean).length, limit.max / 2)
})

t.test('a heartbeat whose answer comes after Redis is gone is ignored', async t => {
  for (const answers of [true, false]) {
    const { breaker, redis, stores } = setUp(t)
    breaker.up()
    await stores.availability.settle()
    const beat = promised<Heartbeat>()
    let beats = 0
    redis.instance.heartbeat = async () => { beats++; return await beat.promise }
    await until(() => beats === 1)
    breaker.down()
    if (answers) beat.resolve({ epoch: 'another', instances: 9, since: 9, nowMs: 0 })
    else beat.reject(gone)
    await settled()
    t.same([stores.availability.status.store, stores.availability.instances], ['memory', 2])
  }
})

t.test('after an outage the other instances are waited for five seconds, however the clock of Redis steps', async t => {
  const clock = { ms: 1_000_000 }
  t.intercept(timers, 'monotonicMs', { value: () => clock.ms })
  for (const stepMs of [-3_600_000, 3_600_000]) {
    const { breaker, redis, stores } = setUp(t)
    breaker.up()
    await stores.availability.settle()
    breaker.down()
    let beats = 0
    redis.instance.heartbeat = async () => {
      return { epoch: 'first', instances: 1, since: 0, nowMs: 5_000_000 + (beats++ === 0 ? 0 : stepMs) }
    }
    breaker.up()
    await stores.availability.settle()
    clock.ms += 5000
    // The first heartbeat is that of the recovery, and the last may not have been read yet.
    await until(() => beats >= 4)
    t.equal(stores.availability.instances, 2, `${stepMs} ms: the other instance is waited for`)
    clock.ms++
    await until(() => stores.availability.instances === 1)
  }
})

t.test('entries that did not arrive at the end of a replay are sent by the next one', async t => {
  const { breaker, redis, stores, hit, journal } = setUp(t)
  hit('before')
  let merges = 0
  redis.limits.merge = async (id, counters, nowMs, into) => {
    merges++
    // During the replay of the first one, another hit arrives.
    if (merges === 1) hit('meanwhile')
    if (merges === 2) throw gone
    redis.mergeCalls.push({ hasBaselines: into.hasBaselines, counters })
  }
  breaker.up()
  await stores.availability.settle()
  t.equal(stores.availability.status.store, 'redis')
  t.equal(journal.size, 1)
  breaker.down()
  breaker.up()
  await stores.availability.settle()
  t.same(redis.merged.map(({ key }) => key), [
    keys.newCounter('fixed-window', 'limit', 'before'),
    keys.newCounter('fixed-window', 'limit', 'meanwhile')
  ])
  t.equal(journal.size, 0)
})

t.test('a hit that fails after Redis is used again is replayed with the next heartbeat', async t => {
  const { breaker, redis, stores, hit, journal } = setUp(t)
  breaker.up()
  await stores.availability.settle()
  const answer = promised<readonly Taken[]>()
  redis.limits.decide = async () => await answer.promise
  hit('late')
  await new Promise(resolve => setImmediate(resolve))
  breaker.down()
  breaker.up()
  await stores.availability.settle()
  answer.reject(gone)
  await until(() => redis.mergeCalls.length > 0)
  t.same(redis.merged.map(({ key }) => key), [keys.newCounter('fixed-window', 'limit', 'late')])
  t.equal(journal.size, 0)
})

t.test('chunks that a slow Redis has not answered are not sent again with each heartbeat', async t => {
  const { breaker, redis, stores, hit, journal } = setUp(t)
  breaker.up()
  await stores.availability.settle()
  let [beats, merges] = [0, 0]
  const merged = promised<void>()
  redis.instance.heartbeat = async () => { beats++; return { epoch: 'first', instances: 2, since: 2, nowMs: 0 } }
  redis.limits.merge = async () => { merges++; await merged.promise }
  const answer = promised<readonly Taken[]>()
  redis.limits.decide = async () => await answer.promise
  hit('late')
  await new Promise(resolve => setImmediate(resolve))
  breaker.down()
  breaker.up()
  await stores.availability.settle()
  answer.reject(gone)
  // One more than the heartbeat of the return.
  await until(() => beats > 4)
  t.equal(merges, 1)
  merged.resolve()
  await until(() => journal.size === 0)
})

t.test('refusals that a Redis without its data did not accept are replayed with the rest', async t => {
  const { breaker, redis, stores, memory } = setUp(t)
  const windowEndsAtMs = Date.now() + 60_000
  const state = windowOf(11, 0, windowEndsAtMs)
  memory.limits.adopt({ clientKey: 'client' }, { check: { name: 'limit', limit, cost: 1 }, state }, Date.now())
  breaker.up()
  await stores.availability.settle()
  redis.limits.countRefusals = async () => { throw new StoreUnavailableError('lost', 'it is not the next one') }
  await stores.limits.countRefusals([{ client: 'client', name: 'limit', limit, window: state, count: 5 }])
  await stores.availability.settle()
  t.match(redis.merged.at(-1), { baseline: state, counted: windowOf(11, 5, windowEndsAtMs) })
  t.equal(stores.availability.status.store, 'redis')
})

t.test('while many entries arrive, further passes replay them', async t => {
  const { breaker, redis, stores, hit } = setUp(t)
  hit('first')
  let left = 3
  redis.limits.merge = async (id, counters, nowMs, into) => {
    redis.mergeCalls.push({ hasBaselines: into.hasBaselines, counters })
    if (left-- > 0) for (let i = 0; i < 120; i++) hit(`client${left}-${i}`)
  }
  breaker.up()
  await stores.availability.settle()
  t.equal(stores.availability.status.store, 'redis')
  t.equal(redis.merged.length, 1 + 3 * 120)
})

t.test('if it is unknown which counters Redis still has, all are restored, a hundred per call', async t => {
  const { breaker, redis, stores, memory, hit } = setUp(t)
  const state = windowOf(3, 0, 60_000)
  for (let i = 0; i < 250; i++) memory.limits.adopt({ clientKey: `client${i}` }, { check, state }, 0)
  hit('client7')
  redis.instance.fence = async () => noNumbers
  breaker.up()
  await stores.availability.settle()
  t.same(redis.mergeCalls.map(({ counters }) => counters.length), [100, 100, 49, 1])
  t.match(redis.mergeCalls.at(-1)?.counters, [{ baseline: { used: 3 }, counted: { used: 4 } }])
})

t.test('a refused hit is not counted by limits that it would have fit', async t => {
  const { stores, journal, breaker } = setUp(t)
  const narrow = defineLimit('fixed-window', 1, 60_000)
  const checks = [{ name: 'wide', limit, cost: 1 }, { name: 'narrow', limit: narrow, cost: 1 }]
  for (const expected of [true, false]) {
    t.equal((await takeOf(stores.limits, { clientKey: 'client', checks })).accepted, expected)
  }
  t.match(journal.rest(), [{ counters: new Set([{ counted: { used: 1, refused: 1 } }, { counted: { used: 1 } }]) }])
  t.equal(breaker.usable, false)
})

t.test('memory does not answer for an error that is no failure of Redis', async t => {
  const { stores, breaker, redis } = setUp(t)
  breaker.up()
  await stores.availability.settle()
  const fails = async () => { throw new TypeError('a mistake') }
  Object.assign(redis.events, { events: fails, logEvents: fails })
  await t.rejects(async () => await stores.events.events(1), { message: 'a mistake' })
  await t.rejects(stores.events.logEvents([{ type: 'limited', count: 1, atMs: 0 }]), { message: 'a mistake' })
})

t.test('any number of counters that Redis may have lost is restored, a hundred per call', async t => {
  const { breaker, memory, redis, stores } = setUp(t, 2000)
  const state = windowOf(3, 0, 60_000)
  for (let i = 0; i < 1650; i++) memory.limits.adopt({ clientKey: `client${i}` }, { check, state }, 0)
  redis.instance.fence = async () => noNumbers
  breaker.up()
  await stores.availability.settle()
  t.same(redis.mergeCalls.map(({ counters }) => counters.length), [...Array<number>(16).fill(100), 50])
})

t.test('a block or unblock whose call fails holds locally, whatever older change arrived in between', async t => {
  const { memory, breaker, redis, stores } = setUp(t)
  const call = promised<unknown[]>()
  let isSent = false
  redis.blocks.change = async () => {
    isSent = true
    return await call.promise
  }
  breaker.up()
  await until(() => stores.availability.usesRedis)
  const request = { ip: '192.0.2.1', durationMs: Infinity, reason: '', origin: '' }
  const changes = [stores.blocks.block(request), stores.blocks.unblock('192.0.2.2')]
  for (const ip of ['192.0.2.1', '192.0.2.2']) {
    memory.blocks.adopt({
      ip,
      reason: 'older',
      origin: '',
      blockedAtMs: Date.now() - 1000,
      expiresAtMs: Date.now() + 60_000
    })
  }
  await until(() => isSent)
  call.reject(gone)
  await Promise.all(changes)
  t.match(memory.blocks.blocks(), [{ ip: '192.0.2.1', reason: '', expiresAtMs: Infinity }])
  t.equal(memory.blocks.blocks().length, 1)
})

t.test("after a block or unblock, memory has Redis' answer, unless it knows something newer", async t => {
  const { memory, breaker, redis, stores } = setUp(t)
  const nowMs = Date.now()
  // The clock of Redis is at 0.
  const standing = { reason: 'standing', origin: '', blockedAtMs: 0, expiresAtMs: 60_000 }
  const older = { reason: 'older', origin: '', blockedAtMs: nowMs - 1000, expiresAtMs: nowMs + 90_000 }
  let answers: (() => void)[] = []
  redis.blocks.change = async (...[operations]: unknown[]) => {
    await new Promise<void>(resolve => answers.push(resolve))
    return (operations as BlockOperation[]).map(operation => {
      const ip = blockedIn(operation)
      const isHeld = 'block' in operation
      return {
        standing: isHeld ? { ip, ...standing } : undefined,
        wasBlocked: true,
        sequence: ip === '192.0.2.9' ? 4 : 5
      }
    })
  }
  breaker.up()
  await until(() => stores.availability.usesRedis)
  const block = async (ip: string) => await stores.blocks.block({ ip, durationMs: 60_000, reason: '', origin: '' })
  const reasonsAfter = async (calls: readonly Promise<unknown>[], meanwhile: () => void) => {
    await until(() => answers.length > 0)
    meanwhile()
    answers.forEach(answer => answer())
    answers = []
    await Promise.all(calls)
    return memory.blocks.blocks().map(({ ip, reason }) => `${ip} ${reason}`)
  }

  t.same(await reasonsAfter([block('192.0.2.1'), stores.blocks.unblock('192.0.2.2')], () => {
    memory.blocks.unblock('192.0.2.1')
    memory.blocks.adopt({ ip: '192.0.2.2', ...older })
  }), ['192.0.2.1 standing'], 'an older change arrived in between')
  t.ok(
    Math.abs(memory.blocks.find(parseAddress('192.0.2.1')!)!.expiresAtMs - nowMs - 60_000) < 1000,
    "on this process's clock"
  )

  t.same(
    await reasonsAfter([block('192.0.2.9')], () => memory.blocks.unblock('192.0.2.9')),
    ['192.0.2.1 standing'],
    'a newer change'
  )

  const first = block('192.0.2.3')
  await until(() => answers.length > 0)
  const second = stores.blocks.unblock('192.0.2.3')
  await until(() => answers.length > 1)
  answers.shift()!()
  await first
  t.equal(memory.blocks.isBlocked('192.0.2.3'), false, 'a later call of this instance')
  t.same(await reasonsAfter([second], () => {}), ['192.0.2.1 standing'])
})

t.test('calls that wait when Redis goes away are answered by memory at once, and replayed in order', async t => {
  const { breaker, redis, journal, stores } = setUp(t)
  let sent = 0
  const stuck = promised<never>()
  const call = async () => {
    sent++
    return await stuck.promise
  }
  Object.assign(redis, { values: { change: call, get: call } })
  Object.assign(redis.limits, { forget: call })
  redis.blocks.change = call
  breaker.up()
  await until(() => stores.availability.usesRedis)
  const answered: unknown[] = []
  for (let i = 0; i < 1000; i++) {
    for (const promise of [
      stores.values.set(`key ${i}`, 'x', undefined),
      stores.blocks.block({ ip: `10.0.${i >> 8}.${i & 255}`, durationMs: 1000, reason: '', origin: '' })
    ]) {
      Promise.resolve(promise).then(answer => answered.push(answer), error => t.error(error))
    }
  }
  await until(() => sent > 0)
  const underWay = sent
  t.ok(underWay < 300, `${underWay} calls under way`)
  breaker.down()
  await until(() => answered.length >= 1000)
  t.equal(sent, underWay, 'no waiting call was sent')
  stuck.reject(gone)
  await until(() => answered.length === 2000)
  t.equal(journal.size, 2000)
  const [chunk] = journal.next(1)
  t.match(chunk, { kind: 'blocks', operations: [{ block: { ip: '10.0.1.144' } }] })
})

t.test('a long journal is sent in sixteen concurrent calls, so that a distant Redis is up to date soon', async t => {
  const { breaker, redis, stores, journal, hit } = setUp(t, 5000)
  for (let i = 0; i < 4000; i++) hit(`client${i}`)
  for (let i = 0; i < 100; i++) await stores.events.logEvents([{ type: 'limited', count: 1, atMs: i }])
  const waiting: (() => void)[] = []
  const answers: number[] = []
  const call = async () => await new Promise<void>(resolve => { waiting.push(resolve) })
  Object.assign(redis.limits, { merge: call })
  Object.assign(redis.events, { replayEvents: call })
  breaker.up()
  while (stores.availability.status.store === 'memory') {
    await settled()
    answers.push(waiting.length)
    for (const answer of waiting.splice(0)) answer()
  }
  t.equal(journal.size, 0)
  const calls = answers.filter(count => count > 0)
  t.equal(Math.max(...calls), 16)
  t.ok(calls.reduce((sum, count) => sum + count) > 5 * calls.length, `${calls.join(', ')} at once`)
})

t.test('at closing, a Redis that is away is tried while time is left, and not afterwards', async t => {
  const clock = { ms: 1000 }
  t.intercept(timers, 'monotonicMs', { value: () => clock.ms })
  const cases = [
    { what: 'nothing waits', hits: 0, idleAtMs: 1100, attempts: [] },
    { what: 'calls under way took all of the time', hits: 1, idleAtMs: 1250, attempts: [] },
    { what: 'some time is left', hits: 1, idleAtMs: 1100, attempts: [150] }
  ]
  for (const { what, hits, idleAtMs, attempts } of cases) {
    const { breaker, stores, redis, hit, journal } = setUp(t)
    for (let i = 0; i < hits; i++) hit('client')
    breaker.idle = async () => { clock.ms = idleAtMs }
    await stores.availability.drain(1250)
    t.same(breaker.attempts, attempts, what)
    t.same([redis.merged.length, journal.size], [hits, 0], what)
  }
})

t.test('at closing, entries that arrived after the recovery are sent to a Redis that answers', async t => {
  const { breaker, stores, redis, hit, journal } = setUp(t)
  breaker.up()
  await stores.availability.settle()
  const answer = promised<readonly Taken[]>()
  redis.limits.decide = async () => await answer.promise
  hit('late')
  await settled()
  breaker.down()
  // No heartbeat is answered: that would send the entry first.
  const beat = async (epoch?: string) =>
    epoch !== undefined ? await new Promise<never>(() => {}) : { epoch: 'first', instances: 2, since: 2, nowMs: 0 }
  Object.assign(redis.instance, { heartbeat: beat })
  breaker.up()
  await stores.availability.settle()
  answer.reject(gone)
  await settled()
  t.same([journal.size, redis.mergeCalls.length], [1, 0])
  await stores.availability.drain(timers.monotonicMs() + 1000)
  await settled()
  t.same([journal.size, redis.mergeCalls.length, breaker.attempts], [0, 1, []])
})
