/** The latest events in memory, and the addresses that were limited most in them. */
import fc from 'fast-check'
import t from 'tap'
import { MemoryEvents } from '../../../lib/store/memory/events.js'
import type { RateLimitEvent } from '../../../lib/store/event-store.js'
import { medianMs } from '../../support/median.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

const nowMs = 1000
const newEvents = (capacity: number) => new MemoryEvents({ capacity, wall: () => nowMs })

const event = (given: Partial<RateLimitEvent> = {}): RateLimitEvent =>
  ({ type: 'limited', ip: '192.0.2.1', count: 1, atMs: 0, ...given })

const events = fc.record({
  type: fc.constantFrom('limited' as const, 'limited' as const, 'blocked' as const),
  ip: fc.constantFrom('192.0.2.1', '192.0.2.2', '2001:db8::/64', undefined),
  count: fc.integer({ min: 1, max: 5 }),
  atMs: fc.integer({ min: 0, max: 50 })
})
const steps = fc.array(
  fc.oneof({ weight: 9, arbitrary: events }, fc.integer({ min: 0, max: 60 }).map(beforeMs => ({ beforeMs }))),
  { maxLength: 80 }
)

/** Suspects by a scan of an array. */
function naiveSuspects (kept: readonly RateLimitEvent[]): object[] {
  const counts = new Map<string, number>()
  for (const { type, ip, count } of kept) {
    if (type === 'limited' && ip !== undefined) counts.set(ip, (counts.get(ip) ?? 0) + count)
  }
  return [...counts].sort(([a, x], [b, y]) => y - x || (a < b ? 1 : -1)).map(([ip, count]) => ({ ip, count }))
}

t.test('answers like an array of the latest events', async t => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 10 }), steps, fc.nat(12), (capacity, walked, limit) => {
    const log = newEvents(capacity)
    let kept: RateLimitEvent[] = []
    return walked.every(step => {
      if ('beforeMs' in step) {
        const rest = kept.filter(({ atMs }) => atMs >= step.beforeMs)
        if (log.clearEvents(nowMs - step.beforeMs) !== kept.length - rest.length) return false
        kept = rest
      } else {
        log.logEvents([step])
        kept = [...kept, step].slice(-capacity)
      }
      return JSON.stringify(log.events(limit)) === JSON.stringify(limit === 0 ? [] : kept.slice(-limit).reverse()) &&
        JSON.stringify(log.suspects(limit)) === JSON.stringify(naiveSuspects(kept).slice(0, limit))
    })
  }), { seed, numRuns: 2000 })
})

t.test('lists the latest events first, and no more than requested', async t => {
  const log = newEvents(3)
  for (const atMs of [1, 2, 3, 4]) log.logEvents([event({ atMs })])
  t.same(log.events(10).map(({ atMs }) => atMs), [4, 3, 2])
  t.same(log.events(1).map(({ atMs }) => atMs), [4])
  t.same(log.events(0), [])
})

t.test('suspects are the limited addresses, the most limited first', async t => {
  const log = newEvents(10)
  log.logEvents([event({ ip: '192.0.2.1', count: 2 })])
  log.logEvents([event({ ip: '192.0.2.2', count: 5 })])
  log.logEvents([event({ ip: '192.0.2.3', count: 2 })])
  log.logEvents([event({ type: 'blocked', ip: '192.0.2.9', count: 99 })])
  log.logEvents([event({ ip: undefined, key: 'user 7', count: 99 })])
  t.same(log.suspects(10), [
    { ip: '192.0.2.2', count: 5 },
    { ip: '192.0.2.3', count: 2 },
    { ip: '192.0.2.1', count: 2 }
  ])
})

t.test('an address without stored events is no suspect', async t => {
  const log = newEvents(2)
  log.logEvents([event({ ip: '192.0.2.1', count: 50, atMs: 1 })])
  log.logEvents([event({ ip: '192.0.2.2', atMs: 2 })])
  log.logEvents([event({ ip: '192.0.2.2', atMs: 3 })])
  t.same(log.suspects(10), [{ ip: '192.0.2.2', count: 2 }])
  t.equal(log.clearEvents(nowMs - 4), 2)
  t.same(log.suspects(10), [])
})

t.test('clearEvents keeps an event of exactly the given age', async t => {
  const log = newEvents(5)
  for (const atMs of [1, 2, 3]) log.logEvents([event({ atMs })])
  t.equal(log.clearEvents(nowMs - 2), 1)
  t.same(log.events(10).map(({ atMs }) => atMs), [3, 2])
})

t.test('a million events take no more room than the capacity, and adding one is as fast in a larger log', async t => {
  const msOf = (log: MemoryEvents, pieces: number) => medianMs(pieces, piece => {
    for (let i = 0; i < 100; i++) log.logEvents([event({ ip: `ip ${piece} ${i}`, atMs: piece })])
  })
  const log = newEvents(1000)
  const times = msOf(log, 10_000) / msOf(newEvents(10), 1000)
  t.ok(times < 20, `${times} times as long in one a hundred times as large`)
  t.equal(log.events(5000).length, 1000)
  t.equal(log.suspects(5000).length, 1000)
})
