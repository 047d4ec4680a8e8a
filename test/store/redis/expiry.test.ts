/** The expiry of counters, values and blocks in Redis, and foreign values in place of counters. */
import t from 'tap'
import { defineLimit } from '../../../lib/rules/rate-limit.js'
import { until } from '../../../tools/until.js'
import { keys, StoreMaker } from '../stores.js'
import { takeAllOf, takeOf } from '../../support/take.js'

const maker = await StoreMaker.start(t)

t.test('a key that lost its expiry gets one, and lets its client in again', async t => {
  const { limits, wait } = await maker.redis(t)
  for (const algorithm of ['fixed-window', 'sliding-window', 'gcra'] as const) {
    const hit = { clientKey: 'client', checks: [{ name: 'limit', limit: defineLimit(algorithm, 1, 100_000), cost: 1 }] }
    const key = keys.newCounter(algorithm, 'limit', 'client')
    const accepted = async () => (await takeOf(limits, hit)).accepted
    t.equal(await accepted(), true)
    await maker.observer.persist(key)
    t.equal(await accepted(), false)
    const ttl = await maker.observer.pttl(key)
    t.ok(ttl > 0 && ttl <= 200_000, `${algorithm}: ${ttl}`)
    await wait(210_000)
    t.equal(await accepted(), true)
  }
})

t.test('a foreign value in place of a counter counts as an empty counter', async t => {
  const { limits } = await maker.redis(t)
  await maker.observer.set(keys.newCounter('fixed-window', 'limit', 'client'), 'not a number')
  await maker.observer.hset(keys.newCounter('gcra', 'limit', 'client'), { level: 'x', max: '1', atMs: '0' })
  for (const algorithm of ['fixed-window', 'gcra'] as const) {
    const hit = { clientKey: 'client', checks: [{ name: 'limit', limit: defineLimit(algorithm, 1, 100_000), cost: 1 }] }
    t.same((await takeAllOf(limits, [hit, hit])).map(({ accepted }) => accepted), [true, false])
  }
})

t.test('every counter in Redis expires', async t => {
  const { limits } = await maker.redis(t)
  for (const algorithm of ['fixed-window', 'sliding-window', 'gcra'] as const) {
    const check = { name: 'limit', limit: defineLimit(algorithm, 3, 9000), cost: 2 }
    await takeOf(limits, { clientKey: 'client', checks: [check] })
    const ttl = await maker.observer.pttl(keys.newCounter(algorithm, 'limit', 'client'))
    t.ok(ttl > 0 && ttl <= 18_000, `${algorithm}: ${ttl}`)
  }
})

t.test('counters, values and blocks expire on the real clock', async t => {
  const { limits, values, blocks } = await maker.redis(t)
  const check = { name: 'limit', limit: defineLimit('fixed-window', 1, 20), cost: 1 }
  await takeOf(limits, { clientKey: 'client', checks: [check] })
  await values.set('key', 'value', 20)
  await blocks.block({ ip: '192.0.2.1', durationMs: 20, reason: '', origin: 'test' })
  await until(async () => (await limits.peek('client', [check]))[0]!.explanation.resetMs === 0)
  await until(async () => await values.get('key') === null)
  await until(async () => !await blocks.isBlocked('192.0.2.1'))
  t.same(await blocks.blocks(), [])
  t.equal((await takeOf(limits, { clientKey: 'client', checks: [check] })).accepted, true)
})

t.test('expired blocks leave Redis when others are placed', async t => {
  const { blocks, wait } = await maker.redis(t)
  for (let i = 0; i < 20; i++) {
    await blocks.block({ ip: `192.0.2.${i}`, durationMs: 10_000, reason: '', origin: 'test' })
  }
  await wait(20_000)
  await blocks.block({ ip: '198.51.100.1', durationMs: 60_000, reason: '', origin: 'test' })
  t.same(await maker.observer.hkeys(keys.blocks), ['198.51.100.1'])
  t.same(await maker.observer.zrange(keys.blockExpiry, '0', '-1'), ['198.51.100.1'])
})
