/** The contract of an event store, with the suspects in its events, which every implementation passes. */
import type { Test } from 'tap'
import type { RateLimitEvent } from '../../lib/store/event-store.js'
import type { Make } from './stores.js'

/** @param make  makes an empty store */
export function eventStoreContract (t: Test, make: Make): void {
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

  t.test('lists the addresses that were limited most in the stored events', async t => {
    const { events } = await make(t, { maxEvents: 5 })
    t.same(await events.suspects(10), [])
    await events.logEvents([event('192.0.2.9', { count: 100 })])
    await events.logEvents([
      event('192.0.2.1'), event('192.0.2.2', { count: 7 }), event('192.0.2.3', { type: 'blocked', count: 50 }),
      event('192.0.2.1'), event('2001:db8::1')
    ])
    const suspects = [{ ip: '192.0.2.2', count: 7 }, { ip: '192.0.2.1', count: 2 }, { ip: '2001:db8::1', count: 1 }]
    t.same(await events.suspects(10), suspects, 'the first event was dropped')
    t.same(await events.suspects(1), [{ ip: '192.0.2.2', count: 7 }])
  })

  t.test('clearEvents removes old events, and their suspects', async t => {
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
    t.equal(await events.clearEvents(0), 3, 'all, including one with a later time of another clock')
    t.same(await events.suspects(10), [])
  })
}
