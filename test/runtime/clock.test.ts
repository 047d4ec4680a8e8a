/** The clock that measures durations. */
import { performance } from 'node:perf_hooks'
import { mock } from 'node:test'
import t from 'tap'
import { steadyClock } from '../../lib/runtime/clock.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import { guardedApp } from '../support/app.js'

const hourMs = 3_600_000

/** A wall clock that the test sets, and a monotonic clock. */
function setUp () {
  const clock = { wallMs: 1_700_000_000_000, monotonicMs: 5000.25, isReal: true }
  const wall = { now: () => clock.wallMs }
  const pass = (ms: number) => {
    clock.wallMs += ms
    clock.monotonicMs += ms
  }
  const now = steadyClock({ date: () => wall, monotonicMs: () => clock.monotonicMs, isReal: () => clock.isReal })
  return { clock, wall, pass, now }
}

t.test('starts at the wall clock, follows the monotonic clock, and returns whole ms', async t => {
  const { pass, now } = setUp()
  t.equal(now(), 1_700_000_000_000)
  for (const ms of [0.5, 0.5, 1, 1000]) pass(ms)
  t.equal(now(), 1_700_000_001_002)
})

t.test('does not step with the wall clock', async t => {
  const { clock, pass, now } = setUp()
  const startMs = now()
  for (const stepMs of [2 * hourMs, -2 * hourMs, -10 * hourMs]) {
    clock.wallMs += stepMs
    pass(1)
  }
  t.equal(now(), startMs + 3)
})

t.test('follows a replaced Date.now, and continues from the real one when that is back', async t => {
  const { clock, wall, pass, now } = setUp()
  now()
  const real = wall.now
  clock.isReal = false
  wall.now = () => 42
  t.equal(now(), 42)
  clock.isReal = true
  wall.now = real
  clock.wallMs += hourMs
  t.equal(now(), clock.wallMs)
  pass(7)
  t.equal(now(), clock.wallMs)
})

t.test('follows fake timers that start before or after it is made', async t => {
  for (const fakesComeFirst of [true, false]) {
    const fake = () => mock.timers.enable({ apis: ['Date'], now: 1000 })
    if (fakesComeFirst) fake()
    const now = steadyClock()
    if (!fakesComeFirst) {
      const realMs = now()
      t.ok(Math.abs(realMs - Date.now()) < 60_000)
      fake()
    }
    t.equal(now(), 1000)
    mock.timers.tick(hourMs)
    t.equal(now(), 1000 + hourMs)
    mock.timers.reset()
    t.ok(Math.abs(now() - Date.now()) < 60_000)
  }
  const now = steadyClock()
  mock.method(Date, 'now', () => 5)
  t.equal(now(), 5)
  mock.restoreAll()
  const RealDate = Date
  t.intercept(globalThis, 'Date', { value: class extends RealDate { static override now () { return 6 } } })
  t.equal(now(), 6)
})

t.test('a wall clock that steps two hours ahead and back ends no block, limit or value in memory', async t => {
  const { clock, wall, now } = setUp()
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 10, maxEvents: 10, now, wall: () => wall.now() })
  const block = memory.blocks.block({ ip: '192.0.2.1', durationMs: hourMs, reason: '', origin: '' })
  memory.values.set('key', 'value', hourMs)
  memory.events.logEvents([{ type: 'limited', ip: '192.0.2.2', count: 1, atMs: clock.wallMs }])
  clock.wallMs += 2 * hourMs
  memory.sweep()
  t.equal(memory.blocks.isBlocked('192.0.2.1'), true)
  t.equal(memory.values.get('key'), 'value')
  const [shown] = memory.blocks.blocks()
  t.equal(shown?.blockedAtMs, clock.wallMs, 'as the wall clock shows it now')
  t.equal(shown?.expiresAtMs, clock.wallMs + hourMs)
  t.equal(memory.events.clearEvents(hourMs), 1, 'an event has the time of the wall clock')
  clock.wallMs -= 2 * hourMs
  memory.sweep()
  t.same(memory.blocks.blocks(), [block])
})

t.test('limits and blocks of an application last as long as the monotonic clock says', async t => {
  const app = await guardedApp(t, { max: 1, timeWindow: '1 hour' })
  app.get('/', async () => 'ok')
  const status = async (remoteAddress: string) => (await app.inject({ url: '/', remoteAddress })).statusCode
  await app.redisGuard.blockIP('192.0.2.1', 7200)
  t.same([await status('192.0.2.1'), await status('192.0.2.2'), await status('192.0.2.2')], [403, 200, 429])
  const nowMs = performance.now.bind(performance)
  let aheadMs = hourMs
  t.intercept(performance, 'now', { value: () => nowMs() + aheadMs })
  t.same([await status('192.0.2.1'), await status('192.0.2.2')], [403, 200])
  const [block] = await app.redisGuard.getBlockedIPs()
  t.ok(Math.abs(block!.expiresAtMs - Date.now() - hourMs) < 60_000, 'an hour is left')
  aheadMs += hourMs
  t.equal(await status('192.0.2.1'), 200)
})
