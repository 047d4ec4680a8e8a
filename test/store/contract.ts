/** What every store has to do. Whatever passes here may answer in place of another. */
import type { Test } from 'tap'
import { algorithms, defineLimit } from '../../lib/rules/rate-limit.js'
import type { BlockStore } from '../../lib/store/block-store.js'
import type { EventStore, RateLimitEvent } from '../../lib/store/event-store.js'
import type { Hit, LimitStore } from '../../lib/store/limit-store.js'
import type { ValueStore } from '../../lib/store/value-store.js'

export interface StoreUnderTest {
  readonly limits: LimitStore
  readonly blocks: BlockStore
  readonly events: EventStore
  readonly values: ValueStore
  /** lets time pass; all durations are so long that none ends by itself */
  readonly wait: (ms: number) => Promise<void>
  /** the store's clock, ms since 1970 */
  readonly now: () => Promise<number>
}

/** @param make  an empty store */
export function storeContract (t: Test, make: (t: Test, options?: { maxEvents?: number }) => Promise<StoreUnderTest>): void {
  const hit = (key: string, name: string, max: number, windowMs: number, cost = 1, algorithm = algorithms[0]!): Hit =>
    ({ key, checks: [{ name, limit: defineLimit(algorithm, max, windowMs), cost }] })

  for (const algorithm of algorithms) {
    t.test(`${algorithm}: lets max hits pass, and again after the window`, async t => {
      const { limits, wait } = await make(t)
      const passed = async (hits: readonly Hit[]) => (await limits.take(hits)).map(({ accepted }) => accepted)
      const one = hit('client', 'limit', 3, 60_000, 1, algorithm)
      t.same(await passed([one, one]), [true, true])
      t.same(await passed([one, one, one]), [true, false, false])
      await wait(2 * 60_000 + 5)
      t.same(await passed([one, one, one, one]), [true, true, true, false])
    })
  }

  t.test('keeps clients, limits and algorithms apart, also where their names run into each other', async t => {
    const { limits } = await make(t)
    const pairs = [['a', 'b'], ['a:b', 'c'], ['a', 'b:c'], ['a}', 'b'], ['a', '}b'], ['', 'a'], ['a', ''], ['a\nb', 'c'], ['a b', 'c'], ['a%0020b', 'c'], ['x'.repeat(300), 'c'], ['x'.repeat(301), 'c'], ['%empty', 'a']]
    const hits = pairs.map(([key, name]) => hit(key!, name!, 1, 10_000))
    for (const one of hits) t.equal((await limits.take([one]))[0]!.accepted, true, JSON.stringify(one.key))
    for (const one of hits) t.equal((await limits.take([one]))[0]!.accepted, false, JSON.stringify(one.key))
    t.equal((await limits.take([hit('a', 'b', 1, 10_000, 1, 'gcra')]))[0]!.accepted, true)
  })

  t.test('takes a hit from all of its limits or from none', async t => {
    const { limits } = await make(t)
    const burst = { name: 'burst', limit: defineLimit('sliding-window', 2, 10_000), cost: 1 }
    const daily = { name: 'daily', limit: defineLimit('gcra', 5, 60_000), cost: 1 }
    const both = { key: 'client', checks: [burst, daily] }
    const taken = (await Promise.all([both, both, both].map(async one => await limits.take([one])))).flat()
    t.same(taken.map(({ accepted }) => accepted), [true, true, false])
    t.same(taken[2]!.outcomes.map(({ fits }) => fits), [false, true])
    // The third left nothing behind in `daily`.
    t.same((await limits.take(Array(4).fill({ key: 'client', checks: [daily] }))).map(({ accepted }) => accepted), [true, true, true, false])
  })

  t.test('takes a cost as a whole', async t => {
    const { limits } = await make(t)
    const costs = [4, 7, 6, 1]
    const taken = await limits.take(costs.map(cost => hit('client', 'limit', 10, 10_000, cost)))
    t.same(taken.map(({ accepted }) => accepted), [true, false, true, false])
  })

  t.test('lets a cost of 0 pass and leaves no trace of it', async t => {
    const { limits } = await make(t)
    for (const algorithm of algorithms) {
      const of = (cost: number) => hit('client', 'limit', 3, 10_000, cost, algorithm)
      const taken = await limits.take([of(0), of(3), of(1), of(0), of(0)])
      t.same(taken.map(({ accepted }) => accepted), [true, true, false, true, true], algorithm)
      await limits.take([{ ...of(0), key: 'other' }])
      t.same((await limits.peek('other', of(0).checks)).states, [undefined], algorithm)
      t.equal(await limits.forget('other', of(0).checks), false, algorithm)
    }
  })

  t.test('tells when it decided, on its own clock', async t => {
    const { limits, now } = await make(t)
    const before = await now()
    const [taken] = await limits.take([hit('client', 'limit', 1, 1000)])
    t.ok(taken!.nowMs >= before && taken!.nowMs <= await now(), `${before} <= ${taken!.nowMs}`)
    t.equal(taken!.outcomes[0]!.state.atMs, taken!.nowMs + 1000)
  })

  t.test('keeps values', async t => {
    const { values, wait } = await make(t)
    t.equal(await values.get('key'), null)
    await values.set('key', 'value', undefined)
    await values.set('other', 'one\r\ntwo\u0000 {} \u{1F980}', undefined)
    t.equal(await values.get('key'), 'value')
    t.equal(await values.get('other'), 'one\r\ntwo\u0000 {} \u{1F980}')
    t.equal(await values.del('key'), true)
    t.equal(await values.del('key'), false)
    t.equal(await values.get('key'), null)

    await values.set('brief', 'value', 50_000)
    t.equal(await values.get('brief'), 'value')
    await wait(60_000)
    t.equal(await values.get('brief'), null)
    t.equal(await values.del('brief'), false)
    await values.set('brief', 'value', 50_000)
    await values.set('brief', 'for good', undefined)
    await wait(60_000)
    t.equal(await values.get('brief'), 'for good', 'a value without expiry drops the old one')

    t.equal(await values.expire('nothing', 1000), false)
    t.equal(await values.expire('brief', 30_000), true)
    await wait(40_000)
    t.equal(await values.get('brief'), null)
  })

  t.test('counts up whole numbers of 64 bits, and only those', async t => {
    const { values, wait } = await make(t)
    t.equal(await values.incr('count'), 1)
    t.equal(await values.incr('count'), 2)
    t.equal(await values.get('count'), '2')
    await values.set('count', '-5', 50_000)
    t.equal(await values.incr('count'), -4)
    await wait(60_000)
    t.equal(await values.incr('count'), 1, 'counting keeps the expiry')
    for (const value of ['', 'ten', '1.5', '1e3', ' 1', '01', '+1', '-0', '9223372036854775807', '99999999999999999999']) {
      await values.set('count', value, undefined)
      await t.rejects(async () => await values.incr('count'), { code: 'GUARD_ERR_VALUE' }, value)
      t.equal(await values.get('count'), value)
    }
    await values.set('count', '9223372036854775806', undefined)
    t.equal(await values.incr('count'), 2 ** 63)
  })

  const event = (ip: string | undefined, changes: Partial<RateLimitEvent> = {}): RateLimitEvent =>
    ({ type: 'limited', ip, limit: 'global', method: 'GET', route: '/', count: 1, atMs: 1_000, ...changes })

  t.test('keeps the latest events, newest first', async t => {
    const { events } = await make(t, { maxEvents: 3 })
    t.same(await events.events(10), [])
    await events.logEvents([])
    await events.logEvents([event('192.0.2.1'), event('192.0.2.2')])
    await events.logEvents([event('192.0.2.3', { key: 'a "quoted"\nkey \u{1F980}' }), event(undefined)])
    t.same((await events.events(10)).map(({ ip }) => ip), [undefined, '192.0.2.3', '192.0.2.2'])
    t.match((await events.events(2))[1], event('192.0.2.3', { key: 'a "quoted"\nkey \u{1F980}' }))
  })

  t.test('names those who were limited most in the events that are kept', async t => {
    const { events } = await make(t, { maxEvents: 5 })
    t.same(await events.suspects(10), [])
    await events.logEvents([event('192.0.2.9', { count: 100 })])
    await events.logEvents([
      event('192.0.2.1'), event('192.0.2.2', { count: 7 }), event('192.0.2.3', { type: 'blocked', count: 50 }), event('192.0.2.1'), event('2001:db8::1')
    ])
    t.same(await events.suspects(10), [{ ip: '192.0.2.2', count: 7 }, { ip: '192.0.2.1', count: 2 }, { ip: '2001:db8::1', count: 1 }], 'the first event had to go')
    t.same(await events.suspects(1), [{ ip: '192.0.2.2', count: 7 }])
  })

  t.test('forgets old events, and the suspects in them', async t => {
    const { events, now } = await make(t)
    const nowMs = await now()
    const old = Array.from({ length: 1200 }, (_, i) => event(`192.0.2.${i % 3}`, { atMs: nowMs - 60_000 }))
    await events.logEvents(old)
    await events.logEvents([event('192.0.2.1', { atMs: nowMs }), event('198.51.100.1', { atMs: nowMs })])
    t.equal(await events.clearEvents(3_600_000), 0)
    t.equal(await events.clearEvents(30_000), 1200)
    t.same(await events.suspects(10), [{ ip: '198.51.100.1', count: 1 }, { ip: '192.0.2.1', count: 1 }])
    t.equal((await events.events(100)).length, 2)
    await events.logEvents([event('192.0.2.1', { atMs: nowMs + 60_000 })])
    t.equal(await events.clearEvents(0), 3, 'all, also those that another clock has dated later')
    t.same(await events.suspects(10), [])
  })

  const block = (ip: string, durationMs: number, reason = '') => ({ ip, durationMs, reason, origin: 'test' })

  t.test('blocks an address until its time is over, or it is lifted', async t => {
    const { blocks, wait, now } = await make(t)
    t.equal(await blocks.isBlocked('192.0.2.1'), false)
    const before = await now()
    const placed = await blocks.block(block('192.0.2.1', 80_000, 'a "reason"\nin /two/ lines \u{1F980}'))
    t.match(placed, { ip: '192.0.2.1', reason: 'a "reason"\nin /two/ lines \u{1F980}', origin: 'test', expiresAtMs: placed.blockedAtMs + 80_000 })
    t.ok(placed.blockedAtMs >= before && placed.blockedAtMs <= await now())
    t.same(await blocks.blocks(), [placed])
    t.equal(await blocks.isBlocked('192.0.2.1'), true)
    t.equal(await blocks.isBlocked('192.0.2.2'), false)
    await wait(100_000)
    t.equal(await blocks.isBlocked('192.0.2.1'), false)
    t.same(await blocks.blocks(), [])
    t.equal(await blocks.unblock('192.0.2.1'), false, 'it had run out')

    await blocks.block(block('192.0.2.1', 60_000))
    t.equal(await blocks.unblock('192.0.2.1'), true)
    t.equal(await blocks.unblock('192.0.2.1'), false)
    t.equal(await blocks.isBlocked('192.0.2.1'), false)
  })

  t.test('a block never shortens another: the one that ends last stands, with its reason', async t => {
    const { blocks, wait } = await make(t)
    t.equal((await blocks.block(block('192.0.2.1', 50))).expiresAtMs < Infinity, true)
    t.match(await blocks.block(block('192.0.2.1', Infinity, 'second')), { reason: 'second', expiresAtMs: Infinity })
    const third = await blocks.block(block('192.0.2.1', 50_000, 'third'))
    t.match(third, { reason: 'second', expiresAtMs: Infinity }, 'the answer is the block that stands')
    t.match(await blocks.block(block('192.0.2.1', Infinity, 'fourth')), { reason: 'second' }, 'no longer one')
    await blocks.block(block('192.0.2.0/24', 50_000, 'a range is another entry'))
    await wait(60_000)
    t.equal(await blocks.isBlocked('192.0.2.1'), true)
    t.same(await blocks.blocks(), [third])
    t.equal(await blocks.unblock('192.0.2.1'), true)
    t.same(await blocks.blocks(), [], 'an unblock leaves nothing of those before it')
  })

  t.test('a block with `replace` stands, however long the one before it', async t => {
    const { blocks, wait } = await make(t)
    await blocks.block(block('192.0.2.1', Infinity, 'first'))
    t.match(await blocks.block({ ...block('192.0.2.1', 50_000, 'second'), replace: true }), { reason: 'second' })
    t.match(await blocks.blocks(), [{ reason: 'second' }])
    await wait(60_000)
    t.same(await blocks.blocks(), [])
    t.match(await blocks.block(block('192.0.2.1', 50_000, 'third')), { reason: 'third' }, 'one that has run out is none')
  })

  t.test('blocks ranges of both families', async t => {
    const { blocks } = await make(t)
    await blocks.block(block('198.51.100.0/24', 60_000))
    await blocks.block(block('2001:db8::/32', 60_000))
    t.equal(await blocks.isBlocked('198.51.100.255'), true)
    t.equal(await blocks.isBlocked('198.51.101.0'), false)
    t.equal(await blocks.isBlocked('2001:db8:ffff::1'), true)
    t.equal(await blocks.isBlocked('2001:db9::1'), false)
    t.equal(await blocks.unblock('198.51.100.1'), false, 'an address is no range')
    t.equal(await blocks.unblock('198.51.100.0/24'), true)
    t.equal(await blocks.isBlocked('198.51.100.255'), false)
    t.same((await blocks.blocks()).map(({ ip }) => ip), ['2001:db8::/32'])
  })

  t.test('lists 1,500 blocks once each, in order', async t => {
    const { blocks } = await make(t)
    const addresses = Array.from({ length: 1500 }, (_, i) => `192.0.${i >> 8}.${i & 255}`)
    await Promise.all(addresses.map(async ip => await blocks.block(block(ip, 60_000))))
    t.same((await blocks.blocks()).map(({ ip }) => ip), addresses.sort())
  })
}
