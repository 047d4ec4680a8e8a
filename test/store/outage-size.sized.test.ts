/** How much memory an outage takes, on a clock of the test's own. */
import { EventEmitter } from 'node:events'
import t from 'tap'
import { StoreUnavailableError } from '../../lib/errors.js'
import type { GuardedRedis } from '../../lib/redis/breaker.js'
import { defineLimit } from '../../lib/rules/rate-limit.js'
import { FailoverStore } from '../../lib/store/failover.js'
import { Journal } from '../../lib/store/journal.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryStore } from '../../lib/store/memory.js'
import type { RedisStore } from '../../lib/store/redis.js'
import { Shares } from '../../lib/store/shares.js'

/** A Redis that is away from the first moment. */
const away = Object.assign(new EventEmitter(), { usable: false, state: 'open', failure: new StoreUnavailableError('connection', 'gone') })

for (const fallback of ['memory', 'share'] as const) {
  const minutes = fallback === 'memory' ? 10 : 1
  t.test(`onOutage ${fallback}: an outage of ${minutes} minutes at 10,000 hits/s over a million clients stays inside the bounds`, async t => {
    let nowMs = 1_700_000_000_000
    const now = () => nowMs
    const keys = new Keys('guard:')
    const [cache, capacity] = [5000, 10_000]
    const memory = new MemoryStore({ keys, capacity: cache, maxEvents: 1000, now })
    const counters = new MemoryStore({ keys, capacity: 2 * cache, maxEvents: 1, now })
    const dropped = { counters: 0, blocks: 0, events: 0, values: 0 }
    const journal = new Journal({ capacity, maxEvents: 1000, onDrop: (kind, count) => { dropped[kind] += count } })
    const redis = { guarded: away as unknown as GuardedRedis, store: undefined as unknown as RedisStore, journal, shares: new Shares(counters, now) }
    const store = new FailoverStore({ memory, redis, keys, now })
    const checks = [{ name: 'global', limit: defineLimit('fixed-window', 100, 60_000), cost: 1 }]
    const before = process.memoryUsage().heapUsed
    let [sent, answered] = [0, 0]
    for (let second = 0; second < minutes * 60; second++, nowMs += 1000) {
      for (let i = 0; i < 10_000; i++) store.takeOne({ key: `192.0.2.${sent++ * 7919 % 1_000_000}`, checks }, fallback, () => { answered++ })
      await store.logEvents([{ type: 'limited', ip: '192.0.2.1', count: 1, atMs: nowMs }])
      for (let i = 0; i < 100; i++) await store.incr(`key-${second}-${i}`)
    }
    t.equal(answered, sent)
    t.same([memory.size, counters.size], [cache, fallback === 'share' ? 2 * cache : 0])
    t.ok(journal.size <= capacity, `${journal.size} entries in the journal`)
    t.ok(dropped.counters > sent / 2, `${dropped.counters} of ${sent} counters found no room, and were counted`)
    const grownBy = process.memoryUsage().heapUsed - before
    t.ok(grownBy < 250_000_000, `the heap has grown by ${Math.round(grownBy / 1e6)} MB`)
  })
}
