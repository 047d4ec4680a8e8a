/** How much memory an outage takes, on a clock that the test sets. */
import { EventEmitter } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { StoreUnavailableError } from '../../lib/errors.js'
import type { GuardedRedis } from '../../lib/redis/breaker.js'
import { defineLimit } from '../../lib/rules/rate-limit.js'
import { Journal } from '../../lib/outage/journal.js'
import { outageStores } from '../../lib/outage/stores.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryLimits } from '../../lib/store/memory/limits.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import type { RedisStore } from '../../lib/store/redis/redis-store.js'
import { Shares } from '../../lib/outage/shares.js'
import { size } from '../support/size.js'
import { hitOf } from '../support/take.js'

t.setTimeout(600_000)

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

const clients = size(300_000, 1_000_000)

/** A Redis that is away from the start. */
const away = Object.assign(new EventEmitter(), {
  usable: false,
  state: 'open',
  failure: new StoreUnavailableError('connection', 'gone')
})

for (const fallback of ['memory', 'share'] as const) {
  const [minutes, rate] = fallback === 'memory' ? [10, size(500, 10_000)] : [1, size(1500, 10_000)]
  t.test(`onOutage ${fallback}: ${minutes} minutes at ${rate} hits/s of ${clients} clients stay in bounds`, async t => {
    let nowMs = 1_700_000_000_000
    const now = () => nowMs
    const keys = new Keys('guard:')
    const [cache, capacity] = [5000, 10_000]
    const memory = new MemoryStore({ keys, capacity: cache, maxEvents: 1000, now })
    const counters = new MemoryLimits({ keys, capacity: 2 * cache, now })
    const dropped = { counters: 0, blocks: 0, events: 0, values: 0 }
    const journal = new Journal({ capacity, maxEvents: 1000, onDrop: (kind, count) => { dropped[kind] += count } })
    const redis = {
      guarded: away as unknown as GuardedRedis,
      store: undefined as unknown as RedisStore,
      journal,
      shares: new Shares(counters, now)
    }
    const stores = outageStores({ memory, redis, keys, now })
    const checks = [{ name: 'global', limit: defineLimit('fixed-window', 100, 60_000), cost: 1 }]
    collectGarbage()
    const before = process.memoryUsage().heapUsed
    let [sent, answered] = [0, 0]
    for (let second = 0; second < minutes * 60; second++, nowMs += 1000) {
      for (let i = 0; i < rate; i++) {
        const hit = hitOf({ clientKey: `192.0.2.${sent++ * 7919 % clients}`, checks, onOutage: fallback })
        if (stores.limits.take(hit)?.kind === 'taken') answered++
      }
      await stores.events.logEvents([{ type: 'limited', ip: '192.0.2.1', count: 1, atMs: nowMs }])
      for (let i = 0; i < 100; i++) await stores.values.incr(`key-${second}-${i}`)
    }
    t.equal(answered, sent)
    t.same([memory.limits.size, counters.size], [cache, fallback === 'share' ? 2 * cache : 0])
    t.ok(journal.size <= capacity, `${journal.size} entries in the journal`)
    t.ok(dropped.counters > sent / 2, `${dropped.counters} of ${sent} counters found no room, and were counted`)
    collectGarbage()
    const grownBy = process.memoryUsage().heapUsed - before
    t.comment(`the heap has grown by ${(grownBy / 1e6).toFixed(1)} MB`)
    t.ok(grownBy < 25_000_000, `the heap has grown by ${Math.round(grownBy / 1e6)} MB`)
  })
}
