/** The table of counters in memory: it never exceeds its capacity, and no flood frees a limited client. */
import fc from 'fast-check'
import t from 'tap'
import { windowOf } from '../../../lib/rules/fixed-window.js'
import { defineLimit } from '../../../lib/rules/rate-limit.js'
import type { LimitState } from '../../../lib/rules/rule.js'
import type { Entry } from '../../../lib/store/memory/counter-entry.js'
import type { CounterPlace } from '../../../lib/store/keys.js'
import { CounterTable } from '../../../lib/store/memory/counter-table.js'
import { bucketsOfAddress, mostSharedByAddresses, overflowBuckets } from '../../../lib/store/memory/shared-counters.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)
import { numbersOf } from '../../support/states.js'

interface How {
  limit?: string
  /** the address that sends the hit, if the key is something else */
  from?: string | undefined
  /** the hit is refused until then */
  limitedUntilMs?: number
  expiresAtMs?: number
}

const newTable = (capacity: number) => new CounterTable(capacity, [seed, 1])
const hundred = defineLimit('fixed-window', 100, 1000)

/** The places of each table's counters. They are kept, as a returning client keeps them, also beyond an eviction. */
const placesOf = new WeakMap<CounterTable, Map<string, CounterPlace>>()

function placeOf (table: CounterTable, key: string): CounterPlace {
  const places = placesOf.get(table) ?? new Map<string, CounterPlace>()
  placesOf.set(table, places)
  const place = places.get(key) ?? { key, entry: undefined }
  places.set(key, place)
  return place
}

/** Counts one hit as the memory store does, and returns the count. */
function hit (table: CounterTable, key: string, nowMs: number, how: How = {}): number {
  return hitAll(table, [key], nowMs, how)[0]!
}

/** Counts one hit with several limits: all counters are looked up before any is stored. */
function hitAll (table: CounterTable, keys: readonly string[], nowMs: number, how: How = {}): number[] {
  const { limit: name = 'login', from, limitedUntilMs = 0, expiresAtMs = nowMs + 60_000 } = how
  const entries = keys.map(key => table.find(placeOf(table, key), { name, limit: hundred }, from, nowMs))
  return entries.map((entry, i) => {
    const used = usedOf(entry?.state) + 1
    const state = windowOf(used, 0, nowMs)
    const quotaUsed = Math.min(1, used / 100)
    const update = { name, fromAddress: from, limit: hundred, state, expiresAtMs, limitedUntilMs, quotaUsed }
    table.keep(entry, keys[i]!, update, nowMs)
    return used
  })
}

/** The count of a key that has its own counter; undefined: it has none. */
function own (table: CounterTable, key: string, nowMs: number): number | undefined {
  const state = table.peek(key, nowMs)
  return state && usedOf(state)
}

function usedOf (state: LimitState | undefined): number {
  return state === undefined ? 0 : numbersOf(hundred, state)[0]
}

function full (capacity: number, limitedUntilMs: number): CounterTable {
  const table = newTable(capacity)
  for (let i = 0; i < capacity; i++) hit(table, `held ${i}`, 0, { limitedUntilMs })
  return table
}

t.test('counts the hits of a key until its counter expires', async t => {
  const table = newTable(10)
  t.same([0, 1, 2, 99].map(nowMs => hit(table, 'a', nowMs, { expiresAtMs: 100 })), [1, 2, 3, 4])
  t.equal(hit(table, 'a', 100), 1)
  t.equal(table.size, 1)
})

const names = fc.integer({ min: 0, max: 30 }).map(i => `key ${i}`)
const steps = fc.array(fc.record({
  keys: fc.uniqueArray(names, { minLength: 1, maxLength: 4 }),
  limit: fc.constantFrom('login', 'search'),
  from: fc.constantFrom(undefined, 'host 1', 'host 2'),
  waitMs: fc.constantFrom(0, 0, 1, 10, 50),
  heldForMs: fc.constantFrom(0, 0, 5, 100),
  lastsMs: fc.integer({ min: 1, max: 200 }),
  sweep: fc.boolean()
}), { maxLength: 80 })

t.test('never keeps more than its capacity, and forgets everything once it has expired', async t => {
  fc.assert(fc.property(fc.integer({ min: 0, max: 40 }), steps, (capacity, walked) => {
    const table = newTable(capacity)
    let nowMs = 0
    const isBounded = walked.every(({ keys, limit, from, waitMs, heldForMs, lastsMs, sweep }) => {
      nowMs += waitMs
      const ofLimit = keys.map(key => `${limit} ${key}`)
      const limitedUntilMs = nowMs + Math.min(heldForMs, lastsMs)
      hitAll(table, ofLimit, nowMs, { limit, from, limitedUntilMs, expiresAtMs: nowMs + lastsMs })
      if (sweep) table.sweep(nowMs)
      return table.size <= capacity
    })
    table.sweep(nowMs + 200)
    return isBounded && table.size === 0
  }), { seed, numRuns: 2000 })
})

t.test('a limited key keeps its counter until it may pass again, whatever other keys its limit counts', async t => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 40 }), steps, (capacity, walked) => {
    const table = newTable(capacity)
    const held = new Map<string, { untilMs: number, entry: Entry }>()
    let nowMs = 0
    return walked.every(({ keys: [key], from, waitMs, heldForMs, lastsMs, sweep }) => {
      nowMs += waitMs
      const untilMs = nowMs + Math.min(heldForMs, lastsMs)
      hit(table, key!, nowMs, { from, limitedUntilMs: untilMs, expiresAtMs: nowMs + lastsMs })
      if (sweep) table.sweep(nowMs)
      const entry = table.find(placeOf(table, key!), { name: 'login', limit: hundred }, from, nowMs)
      if (entry !== undefined && !entry.isShared) held.set(key!, { untilMs, entry })
      return [...held].every(([key, { untilMs, entry }]) => {
        if (untilMs <= nowMs) return true
        return table.find(placeOf(table, key), { name: 'login', limit: hundred }, undefined, nowMs) === entry
      })
    })
  }), { seed, numRuns: 2000 })
})

t.test('a flood of 1,000,000 fresh keys neither grows the table nor frees a limited key', async t => {
  const table = newTable(1000)
  for (let i = 0; i < 5; i++) hit(table, 'limited', 0, { limitedUntilMs: 60_000 })
  for (let i = 0; i < 1_000_000; i++) hit(table, `fresh ${i}`, 1)
  t.equal(own(table, 'limited', 2), 5)
  t.equal(table.size, 1000)
})

t.test('a flood of fresh keys that are limited at once neither grows the table nor frees a limited key', async t => {
  const table = newTable(1000)
  for (let i = 0; i < 5; i++) hit(table, 'limited', 0, { limitedUntilMs: 60_000 })
  for (let i = 0; i < 100_000; i++) hit(table, `fresh ${i}`, 1, { limitedUntilMs: 60_000 })
  t.equal(own(table, 'limited', 2), 5)
  t.equal(table.size, 1000)
})

t.test('keys seen twice outlive keys seen once', async t => {
  const table = newTable(80)
  const regulars = Array.from({ length: 60 }, (_, i) => `regular ${i}`)
  for (const key of [...regulars, ...regulars]) hit(table, key, 0)
  for (let i = 0; i < 10_000; i++) hit(table, `fresh ${i}`, 1)
  t.same(regulars.map(key => own(table, key, 2)), regulars.map(() => 2))
})

t.test('of the keys seen once, the one not seen for longest goes first', async t => {
  const table = newTable(3)
  for (const key of ['a', 'b', 'c', 'd']) hit(table, key, 0)
  t.same(['b', 'c', 'd'].map(key => own(table, key, 0)), [1, 1, 1])
  t.equal(own(table, 'a', 0), undefined)
})

t.test('regulars leave newcomers enough room to become regulars', async t => {
  const table = newTable(80)
  for (let i = 0; i < 200; i++) hit(table, `regular ${i % 80}`, 0)
  const counts: number[] = []
  for (let i = 0; i < 5; i++) {
    counts.push(hit(table, 'newcomer', 1))
    hit(table, `other ${i}`, 1)
  }
  t.same(counts, [1, 2, 3, 4, 5])
})

t.test('when all keys are limited', async t => {
  t.test('newcomers are counted, several of them in one shared counter', async t => {
    const table = full(10, 60_000)
    const used = Array.from({ length: 10_000 }, (_, i) => hit(table, `newcomer ${i}`, 1))
    // Each hit adds 1 to one counter, so a count of 1 means a new counter.
    t.equal(used.filter(count => count === 1).length, overflowBuckets)
    const shared = new Map<Entry, number>()
    for (let i = 0; i < 10_000; i++) {
      const entry = table.find(placeOf(table, `newcomer ${i}`), { name: 'login', limit: hundred }, undefined, 1)!
      shared.set(entry, usedOf(entry.state))
    }
    t.equal(shared.size, overflowBuckets)
    t.equal([...shared.values()].reduce((a, b) => a + b), 10_000)
    t.equal(table.size, 10)
  })

  t.test('a newcomer is counted from hit to hit', async t => {
    const table = full(10, 60_000)
    t.same([1, 2, 3].map(nowMs => hit(table, 'newcomer', nowMs)), [1, 2, 3])
  })

  t.test('newcomers of one limit do not count against another', async t => {
    const table = full(10, 60_000)
    hit(table, 'newcomer', 1, { limit: 'login' })
    t.equal(hit(table, 'newcomer', 1, { limit: 'search' }), 1)
  })

  t.test('an expired shared counter starts again', async t => {
    const table = full(10, 60_000)
    for (const nowMs of [1, 2]) hit(table, 'newcomer', nowMs, { expiresAtMs: 100 })
    t.equal(hit(table, 'newcomer', 99, { expiresAtMs: 100 }), 3)
    t.equal(hit(table, 'newcomer', 100, { expiresAtMs: 200 }), 1)
  })

  t.test('limited keys still count their hits', async t => {
    const table = full(10, 50_000)
    t.equal(hit(table, 'held 3', 1, { limitedUntilMs: 50_000 }), 2)
  })

  t.test('a key that may pass again makes room for a newcomer', async t => {
    const table = full(10, 1000)
    hit(table, 'newcomer', 999)
    t.equal(own(table, 'newcomer', 999), undefined)
    hit(table, 'newcomer', 1000)
    t.equal(own(table, 'newcomer', 1000), 1)
    t.equal(table.size, 10)
  })

  t.test('a key that may pass again is found behind any number of keys that may not', async t => {
    const table = full(100, 50_000)
    hit(table, 'held 70', 1, { limitedUntilMs: 1000 })
    for (let i = 0; i < 20; i++) hit(table, 'newcomer', 2000)
    t.ok(own(table, 'newcomer', 2000)! > 0)
    t.equal(own(table, 'held 0', 2000), 1)
  })

  t.test('a hit that takes the last room for one of its limits leaves the shared counters of others alone', async t => {
    const table = newTable(2)
    hit(table, 'held', 0, { limitedUntilMs: 50_000 })
    hit(table, 'going', 0, { limitedUntilMs: 50_000, expiresAtMs: 100 })
    for (let i = 0; i < 7; i++) hit(table, 'second limit', 1)
    table.sweep(100)
    hitAll(table, ['first limit', 'second limit'], 100, { limitedUntilMs: 50_000 })
    t.equal(own(table, 'first limit', 100), 1)
    const place = placeOf(table, 'second limit')
    t.equal(usedOf(table.find(place, { name: 'login', limit: hundred }, undefined, 100)?.state), 7)
  })
})

t.test('a key that is evicted for another limit of the same hit keeps its count', async t => {
  const table = newTable(2)
  for (const key of ['a', 'a', 'b', 'b']) hit(table, key, 0)
  // Making room for `new` drops `a`, which is stored again all the same.
  t.same(hitAll(table, ['a', 'new'], 1), [3, 1])
  t.equal(table.size, 2)
})

t.test('a table without room counts only in shared counters', async t => {
  const table = newTable(0)
  t.same([hit(table, 'a', 0), hit(table, 'a', 1)], [1, 2])
  t.equal(table.size, 0)
})

t.test('a sweep removes only what has expired', async t => {
  const table = full(3, 50)
  hit(table, 'shared', 1, { expiresAtMs: 500 })
  hit(table, 'shared briefly', 1, { expiresAtMs: 100, limit: 'search' })
  hit(table, 'held 0', 2, { limitedUntilMs: 50, expiresAtMs: 100 })
  hit(table, 'held 1', 2, { limitedUntilMs: 200, expiresAtMs: 200 })
  table.sweep(99)
  t.equal(table.size, 3)
  table.sweep(100)
  t.equal(table.size, 2)
  t.equal(own(table, 'held 1', 100), 2)
  hit(table, 'one more', 100, { limitedUntilMs: 50_000 })
  hit(table, 'held 2', 100, { limitedUntilMs: 50_000 })
  t.equal(hit(table, 'shared', 100), 2)
  t.equal(hit(table, 'shared briefly', 100, { limit: 'search' }), 1)
})

t.test('the keys that one address chooses', async t => {
  const part = 10
  const capacity = 16 * part
  /** Counts `count` different keys of one address, once each. */
  const flood = (table: CounterTable, from: string, count: number, how: How = {}) => {
    for (let i = 0; i < count; i++) hit(table, `${from} ${i}`, 1, { from, ...how })
  }
  /** The shared counters of these keys. */
  const sharedBy = (table: CounterTable, from: string, count: number, name = 'login') => {
    const entries = Array.from({ length: count }, (_, i) =>
      table.find(placeOf(table, `${from} ${i}`), { name, limit: hundred }, from, 1))
    return [...new Set(entries)].filter(entry => entry?.isShared === true)
  }

  t.test('take at most their own part plus half of the table while that is free, limited or not', async t => {
    for (const limitedUntilMs of [0, 50_000]) {
      const table = newTable(capacity)
      flood(table, 'host', 20_000, { limitedUntilMs })
      t.equal(table.size, part + capacity / 2)
      t.equal(sharedBy(table, 'host', 20_000).length, bucketsOfAddress)
    }
  })

  t.test('leave room for others, and evict none of their counters', async t => {
    const table = newTable(capacity)
    const others = Array.from({ length: capacity / 4 }, (_, i) => `other ${i}`)
    for (const key of others) hit(table, key, 0)
    for (const from of ['host 1', 'host 2', 'host 3', 'host 4']) flood(table, from, 1000, { limitedUntilMs: 50_000 })
    t.same(others.map(key => own(table, key, 1)), others.map(() => 1))
    for (let i = 0; i < capacity / 4 - 4 * part; i++) t.equal(hit(table, `newcomer ${i}`, 2), 1)
    t.same(others.map(key => own(table, key, 2)), others.map(() => 1))
  })

  t.test('are not evicted by more keys of the same address, so each counts up to its limit', async t => {
    const table = newTable(capacity)
    const used: number[] = []
    for (let round = 0; round < 20; round++) {
      used.push(hit(table, 'guessed at', 1, { from: 'host' }))
      flood(table, 'host', 1000)
    }
    t.same(used, Array.from({ length: 20 }, (_, i) => i + 1))
  })

  t.test('are counted in counters that no other address shares, once there is no room', async t => {
    const table = newTable(capacity)
    flood(table, 'host', 10_000)
    const usedByHost = hit(table, 'name', 1, { from: 'host' })
    t.ok(usedByHost > 1, 'counted together with other names')
    t.equal(hit(table, 'name', 1, { from: 'other host' }), 1)
  })

  t.test('stay in a shared counter until it expires, even if there is room again', async t => {
    const table = newTable(capacity)
    flood(table, 'host', part + capacity / 2, { expiresAtMs: 100 })
    t.same([1, 2].map(nowMs => hit(table, 'name', nowMs, { from: 'host', expiresAtMs: 500 })), [1, 2])
    table.sweep(100)
    t.equal(table.size, 0)
    t.equal(hit(table, 'name', 100, { from: 'host', expiresAtMs: 500 }), 3)
    t.equal(hit(table, 'name', 500, { from: 'host', expiresAtMs: 600 }), 1)
    t.equal(own(table, 'name', 500), 1)
  })

  t.test('get room again when they have expired, swept or not', async t => {
    const table = newTable(capacity)
    flood(table, 'host', part + capacity / 2, { expiresAtMs: 100 })
    hit(table, 'name', 100, { from: 'host' })
    t.equal(own(table, 'name', 100), 1)
  })

  t.test('take no room in use by others beyond their part', async t => {
    const table = newTable(capacity)
    for (let i = 0; i < capacity; i++) hit(table, `other ${i}`, 0)
    flood(table, 'host', 1000)
    const others = Array.from({ length: capacity }, (_, i) => own(table, `other ${i}`, 1))
    t.equal(others.filter(used => used === 1).length, capacity - part)
  })

  t.test('share a bounded number of counters, and then the counters of their limit', async t => {
    const table = newTable(capacity)
    // The keys belong to many limits, so that a few addresses are enough.
    for (let i = 0; i < 10; i++) flood(table, 'host', 20_000, { limit: `limit ${i}` })
    flood(table, 'other host', 10_000, { limit: 'limit 0' })
    flood(table, 'third host', 20_000, { limit: 'limit 1' })
    const shared = Array.from({ length: 10 }, (_, i) => sharedBy(table, 'host', 20_000, `limit ${i}`)).flat()
    shared.push(
      ...sharedBy(table, 'other host', 10_000, 'limit 0'),
      ...sharedBy(table, 'third host', 20_000, 'limit 1')
    )
    t.equal(new Set(shared).size, shared.length, 'no two addresses share a counter')
    t.ok(shared.length > 10 * bucketsOfAddress && shared.length <= 12 * bucketsOfAddress)
    for (let i = 10; i < 20; i++) flood(table, 'host', 20_000, { limit: `limit ${i}` })
    for (let i = 10; i < 20; i++) shared.push(...sharedBy(table, 'host', 20_000, `limit ${i}`))
    t.ok(shared.length > mostSharedByAddresses && shared.length <= mostSharedByAddresses + 20 * overflowBuckets)
    table.sweep(60_001)
    flood(table, 'host', 20_000, { limit: 'limit 19' })
    t.equal(sharedBy(table, 'host', 20_000, 'limit 19').length, bucketsOfAddress, 'as at first, once all expired')
  })
})

t.test('keys that one limit has limited', async t => {
  const capacity = 100
  const fill = (table: CounterTable, limit: string) => {
    for (let i = 0; i < 10 * capacity; i++) hit(table, `${limit} ${i}`, 0, { limit, limitedUntilMs: 50_000 })
  }

  t.test('make room for newcomers of other limits, even if they filled the table while it was free', async t => {
    const table = newTable(capacity)
    fill(table, 'login')
    t.equal(table.size, capacity)
    const newcomers = Array.from({ length: 25 }, (_, i) => `search ${i}`)
    for (const key of newcomers) hit(table, key, 1, { limit: 'search' })
    t.same(newcomers.map(key => own(table, key, 1)), newcomers.map(() => 1))
  })

  t.test('make room even if all of them were stored before they were limited', async t => {
    const table = newTable(capacity)
    for (const limitedUntilMs of [0, 50_000]) {
      for (let i = 0; i < capacity; i++) hit(table, `login ${i}`, 0, { limitedUntilMs })
    }
    for (let i = 0; i < 25; i++) hit(table, `search ${i}`, 1, { limit: 'search' })
    t.equal(own(table, 'search 0', 1), 1)
  })

  t.test('stay limited when they are evicted for keys of other limits', async t => {
    const table = newTable(capacity)
    fill(table, 'login')
    for (let i = 0; i < 25; i++) hit(table, `search ${i}`, 1, { limit: 'search' })
    const keys = Array.from({ length: capacity }, (_, i) => `login ${i}`)
    const gone = keys.filter(key => own(table, key, 1) === undefined)
    t.equal(gone.length, 25)
    const limitedUntilMs = (key: string) =>
      table.find(placeOf(table, key), { name: 'login', limit: hundred }, undefined, 1)?.limitedUntilMs ?? 0
    t.same(gone.filter(key => limitedUntilMs(key) < 50_000), [])
  })

  t.test('leave less room the more limits are flooded, but always some', async t => {
    const table = newTable(capacity)
    for (const limit of ['a', 'b', 'c']) fill(table, limit)
    hit(table, 'newcomer', 1, { limit: 'd' })
    t.equal(own(table, 'newcomer', 1), 1)
  })

  t.test('give way to newcomers of their own limit only if they may pass again', async t => {
    const table = newTable(capacity)
    for (let i = 0; i < capacity; i++) hit(table, `login ${i}`, 0, { limitedUntilMs: i < 50 ? 100 : 50_000 })
    for (let i = 0; i < 20; i++) hit(table, `newcomer ${i}`, 200)
    t.equal(own(table, 'login 99', 200), 1, 'the limited key is still there')
    t.ok(own(table, 'newcomer 19', 200) === 1)
  })
})

t.test('an attacker cannot choose which key shares a counter with the victim', async t => {
  // Under FNV-1a these keys fell into one bucket of 256, whatever the seed.
  const chosen = ['victim', ...Array.from({ length: 15 }, (_, i) => `victim${'ao'.repeat(16 * (i + 1))}`)]
  let together = 0
  for (let i = 0; i < 100; i++) {
    const table = new CounterTable(0, [seed, i])
    for (const key of chosen) hit(table, key, 0)
    together += hit(table, 'victim', 0) - 2
  }
  t.ok(together < 50, `${together} of 1,500 were counted with the victim, seed ${seed}`)
})
