import fc from 'fast-check'
import t from 'tap'
import { type Entry, LimitTable, overflowBuckets } from '../../lib/store/limit-table.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

interface How {
  limit?: string
  /** refused until then */
  heldUntilMs?: number
  expiresAtMs?: number
}

/** Counts one hit, as the memory store does, and tells the count. */
function hit (table: LimitTable, key: string, nowMs: number, how: How = {}): number {
  return hitAll(table, [key], nowMs, how)[0]!
}

/** One hit that is subject to several limits: all are looked up before any is kept. */
function hitAll (table: LimitTable, keys: readonly string[], nowMs: number, { limit = 'login', heldUntilMs = 0, expiresAtMs = nowMs + 60_000 }: How = {}): number[] {
  const entries = keys.map(key => table.find(key, limit, nowMs))
  return entries.map((entry, i) => {
    const used = (entry?.state.used ?? 0) + 1
    table.keep(entry, keys[i]!, limit, { limit: { algorithm: 'fixed-window', max: 100, windowMs: 1000, burst: 100, excess: 'none' as const }, state: { used, previous: 0, atMs: nowMs }, expiresAtMs, heldUntilMs, share: Math.min(1, used / 100) }, nowMs)
    return used
  })
}

/** The count of a key that has counters of its own; undefined: it has none. Looks without making room. */
function own (table: LimitTable, key: string, nowMs: number): number | undefined {
  const entry = table.find(key, 'login', nowMs)
  return entry === undefined || entry.shared ? undefined : entry.state.used
}

function full (capacity: number, heldUntilMs: number): LimitTable {
  const table = new LimitTable(capacity)
  for (let i = 0; i < capacity; i++) hit(table, `held ${i}`, 0, { heldUntilMs })
  return table
}

t.test('counts the hits of a key until its counters expire', async t => {
  const table = new LimitTable(10)
  t.same([0, 1, 2, 99].map(nowMs => hit(table, 'a', nowMs, { expiresAtMs: 100 })), [1, 2, 3, 4])
  t.equal(hit(table, 'a', 100), 1)
  t.equal(table.size, 1)
})

const names = fc.integer({ min: 0, max: 30 }).map(i => `key ${i}`)
const steps = fc.array(fc.record({
  keys: fc.uniqueArray(names, { minLength: 1, maxLength: 4 }),
  limit: fc.constantFrom('login', 'search'),
  waitMs: fc.constantFrom(0, 0, 1, 10, 50),
  heldForMs: fc.constantFrom(0, 0, 5, 100),
  lastsMs: fc.integer({ min: 1, max: 200 }),
  sweep: fc.boolean()
}), { maxLength: 80 })

t.test('never keeps more than its capacity, whatever comes', async t => {
  fc.assert(fc.property(fc.integer({ min: 0, max: 12 }), steps, (capacity, walked) => {
    const table = new LimitTable(capacity)
    let nowMs = 0
    return walked.every(({ keys, limit, waitMs, heldForMs, lastsMs, sweep }) => {
      nowMs += waitMs
      hitAll(table, keys, nowMs, { limit, heldUntilMs: nowMs + heldForMs, expiresAtMs: nowMs + lastsMs })
      if (sweep) table.sweep(nowMs)
      return table.size <= capacity
    })
  }), { seed, numRuns: 2000 })
})

t.test('a key that is limited keeps its counters until it may pass again, whatever comes', async t => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 12 }), steps, (capacity, walked) => {
    const table = new LimitTable(capacity)
    const heldUntil = new Map<string, { untilMs: number, entry: Entry }>()
    let nowMs = 0
    return walked.every(({ keys: [key], waitMs, heldForMs, lastsMs, sweep }) => {
      nowMs += waitMs
      const untilMs = nowMs + Math.min(heldForMs, lastsMs)
      hit(table, key!, nowMs, { heldUntilMs: untilMs, expiresAtMs: nowMs + lastsMs })
      if (sweep) table.sweep(nowMs)
      const entry = table.find(key!, 'login', nowMs)
      if (entry !== undefined && !entry.shared) heldUntil.set(key!, { untilMs, entry })
      return [...heldUntil].every(([key, { untilMs, entry }]) => untilMs <= nowMs || table.find(key, 'login', nowMs) === entry)
    })
  }), { seed, numRuns: 2000 })
})

t.test('a flood of 1,000,000 fresh keys neither grows the table nor frees a limited key', async t => {
  const table = new LimitTable(1000)
  for (let i = 0; i < 5; i++) hit(table, 'limited', 0, { heldUntilMs: 60_000 })
  for (let i = 0; i < 1_000_000; i++) hit(table, `fresh ${i}`, 1)
  t.equal(own(table, 'limited', 2), 5)
  t.equal(table.size, 1000)
})

t.test('a flood of fresh keys that are limited at once does not either', async t => {
  const table = new LimitTable(1000)
  for (let i = 0; i < 5; i++) hit(table, 'limited', 0, { heldUntilMs: 60_000 })
  for (let i = 0; i < 100_000; i++) hit(table, `fresh ${i}`, 1, { heldUntilMs: 60_000 })
  t.equal(own(table, 'limited', 2), 5)
  t.equal(table.size, 1000)
})

t.test('keys seen twice outlive keys seen once', async t => {
  const table = new LimitTable(80)
  const regulars = Array.from({ length: 60 }, (_, i) => `regular ${i}`)
  for (const key of [...regulars, ...regulars]) hit(table, key, 0)
  for (let i = 0; i < 10_000; i++) hit(table, `fresh ${i}`, 1)
  t.same(regulars.map(key => own(table, key, 2)), regulars.map(() => 2))
})

t.test('among keys seen once the one not seen for longest goes first', async t => {
  const table = new LimitTable(3)
  for (const key of ['a', 'b', 'c', 'd']) hit(table, key, 0)
  t.same(['b', 'c', 'd'].map(key => own(table, key, 0)), [1, 1, 1])
  t.equal(own(table, 'a', 0), undefined)
})

t.test('regulars leave newcomers enough room to become regulars', async t => {
  const table = new LimitTable(80)
  for (let i = 0; i < 200; i++) hit(table, `regular ${i % 80}`, 0)
  const counts: number[] = []
  for (let i = 0; i < 5; i++) {
    counts.push(hit(table, 'newcomer', 1))
    hit(table, `other ${i}`, 1)
  }
  t.same(counts, [1, 2, 3, 4, 5])
})

t.test('when all keys are held', async t => {
  t.test('newcomers are counted, a few of them together', async t => {
    const table = full(10, 60_000)
    const used = Array.from({ length: 10_000 }, (_, i) => hit(table, `newcomer ${i}`, 1))
    // Each hit adds one to one of the counters: those that started at 1 are as many as there are counters.
    t.equal(used.filter(count => count === 1).length, overflowBuckets)
    const shared = new Map<Entry, number>()
    for (let i = 0; i < 10_000; i++) {
      const entry = table.find(`newcomer ${i}`, 'login', 1)!
      shared.set(entry, entry.state.used)
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

  t.test('shared counters begin anew when they expire', async t => {
    const table = full(10, 60_000)
    for (const nowMs of [1, 2]) hit(table, 'newcomer', nowMs, { expiresAtMs: 100 })
    t.equal(hit(table, 'newcomer', 99, { expiresAtMs: 100 }), 3)
    t.equal(hit(table, 'newcomer', 100, { expiresAtMs: 200 }), 1)
  })

  t.test('those that are held are counted on', async t => {
    const table = full(10, 50_000)
    t.equal(hit(table, 'held 3', 1, { heldUntilMs: 50_000 }), 2)
  })

  t.test('one that may pass again makes room for a newcomer', async t => {
    const table = full(10, 1000)
    hit(table, 'newcomer', 999)
    t.equal(own(table, 'newcomer', 999), undefined)
    hit(table, 'newcomer', 1000)
    t.equal(own(table, 'newcomer', 1000), 1)
    t.equal(table.size, 10)
  })

  t.test('one that may pass again is found behind any number of those that may not', async t => {
    const table = full(100, 50_000)
    hit(table, 'held 99', 1, { heldUntilMs: 1000 })
    for (let i = 0; i < 20; i++) hit(table, 'newcomer', 2000)
    t.ok(own(table, 'newcomer', 2000)! > 0)
    t.equal(own(table, 'held 0', 2000), 1)
  })

  t.test('a hit of several limits that gets the last room for one of them leaves the counters that others share', async t => {
    const table = new LimitTable(2)
    hit(table, 'held', 0, { heldUntilMs: 50_000 })
    hit(table, 'going', 0, { heldUntilMs: 50_000, expiresAtMs: 100 })
    for (let i = 0; i < 7; i++) hit(table, 'second limit', 1)
    table.sweep(100)
    hitAll(table, ['first limit', 'second limit'], 100, { heldUntilMs: 50_000 })
    t.equal(own(table, 'first limit', 100), 1)
    t.equal(table.find('second limit', 'login', 100)?.state.used, 7)
  })
})

t.test('a key that is evicted for another limit of the same hit keeps its count', async t => {
  const table = new LimitTable(2)
  for (const key of ['a', 'a', 'b', 'b']) hit(table, key, 0)
  // Looking for room for `new` drops `a`, which is then kept all the same.
  t.same(hitAll(table, ['a', 'new'], 1), [3, 1])
  t.equal(table.size, 2)
})

t.test('a table without room counts in shared counters alone', async t => {
  const table = new LimitTable(0)
  t.same([hit(table, 'a', 0), hit(table, 'a', 1)], [1, 2])
  t.equal(table.size, 0)
})

t.test('a sweep forgets what has expired, and nothing else', async t => {
  const table = full(3, 50)
  hit(table, 'shared', 1, { expiresAtMs: 500 })
  hit(table, 'shared briefly', 1, { expiresAtMs: 100, limit: 'search' })
  hit(table, 'held 0', 2, { heldUntilMs: 50, expiresAtMs: 100 })
  hit(table, 'held 1', 2, { heldUntilMs: 200, expiresAtMs: 200 })
  table.sweep(99)
  t.equal(table.size, 3)
  table.sweep(100)
  t.equal(table.size, 2)
  t.equal(own(table, 'held 1', 100), 2)
  hit(table, 'one more', 100, { heldUntilMs: 50_000 })
  hit(table, 'held 2', 100, { heldUntilMs: 50_000 })
  t.equal(hit(table, 'shared', 100), 2)
  t.equal(hit(table, 'shared briefly', 100, { limit: 'search' }), 1)
})
