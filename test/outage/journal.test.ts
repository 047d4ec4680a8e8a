/** The journal of changes to replay: in order, within a bound, and nothing twice. */
import t from 'tap'
import { windowOf } from '../../lib/rules/fixed-window.js'
import { defineLimit } from '../../lib/rules/rate-limit.js'
import type { LimitState } from '../../lib/rules/rule.js'
import type { BeforeReset, CounterChunk, LocalHit, LocalRefusals } from '../../lib/outage/counter-journal.js'
import { type JournalKind, type Chunk, Journal, sizeOf } from '../../lib/outage/journal.js'
import type { BlockOperation } from '../../lib/store/block-store.js'
import type { RateLimitEvent } from '../../lib/store/event-store.js'
import { numbersOf, stateOf } from '../support/states.js'

const limit = defineLimit('fixed-window', 100, 60_000)
const nowMs = 1_700_000_000_000
const windowEndsAtMs = nowMs + 60_000

function setUp (capacity = 1000, maxEvents = 1000) {
  const dropped: [JournalKind, number][] = []
  return {
    journal: new Journal({ capacity, maxEvents, onDrop: (kind, count) => dropped.push([kind, count]) }),
    dropped
  }
}

function hit (key: string, left: LocalHit['left'] = 'hit'): LocalHit {
  return { key, limit, cost: 1, nowMs, left }
}

function refusals (key: string, count: number, endsAtMs = windowEndsAtMs): LocalRefusals {
  return { key, limit, window: windowOf(0, 0, endsAtMs), count }
}

function sentIn (batch: number, state: LimitState): BeforeReset {
  return { state, sentIn: batch }
}

/** All chunks of the journal; each is taken. */
function drain (journal: Journal): object[] {
  const chunks = journal.rest().map(contentsOf)
  for (const chunk of journal.rest()) journal.done(chunk)
  return chunks
}

/** A copy of a chunk as it is sent: it becomes empty when it is done. */
function contentsOf (chunk: Chunk): object {
  if (chunk.kind !== 'counters') return chunk
  const counters = [...chunk.counters].map(({ key, baseline, counted }) => ({ key, baseline, counted }))
  return { ...chunk, counters }
}

function countersOf (chunks: readonly object[]): Record<string, number> {
  type Counters = { readonly counters?: readonly { key: string, counted: LimitState }[] }
  const counters = chunks.flatMap(chunk => (chunk as Counters).counters ?? [])
  return Object.fromEntries(counters.map(({ key, counted }) => {
    const [used, refused] = numbersOf(limit, counted)
    return [key, used + refused]
  }))
}

function usedOf (state: LimitState): number {
  return numbersOf(limit, state)[0]
}

t.test('hits of one counter are one entry, on top of its baseline', async t => {
  const { journal } = setUp()
  const baseline = windowOf(5, 0, windowEndsAtMs)
  const changed = windowOf(99, 0, windowEndsAtMs)
  for (let i = 0; i < 3; i++) journal.addHit(hit('a'), i === 0 ? baseline : changed, undefined)
  journal.addHit(hit('b'), undefined, undefined)
  t.equal(journal.size, 2)
  t.equal(journal.has('a'), true)
  const chunks = drain(journal)
  const expected = [
    { key: 'a', baseline, counted: { used: 8 } },
    { key: 'b', baseline: undefined, counted: { used: 1 } }
  ]
  t.match(chunks, [{ kind: 'counters', counters: expected }])
  t.same([journal.size, journal.has('a')], [0, false])
})

t.test('a counter is replayed with the limit of its latest hit', async t => {
  const { journal } = setUp()
  const changed = defineLimit('fixed-window', 5, 3_600_000)
  journal.addHit(hit('a'), undefined, undefined)
  journal.addHit({ ...hit('a'), limit: changed, nowMs: windowEndsAtMs }, undefined, undefined)
  // A refund of a hit from before the change is not subtracted.
  journal.addRefund({ key: 'a', limit, cost: 1 }, windowOf(1, 0, windowEndsAtMs), undefined, undefined)
  journal.sweep(windowEndsAtMs + 60_000)
  const counted = windowOf(1, 0, windowEndsAtMs + 3_600_000)
  t.match(journal.rest(), [{ counters: new Set([{ key: 'a', limit: changed, counted }]) }])
})

t.test('of the hits in doubt, those count that did not run', async t => {
  const { journal } = setUp()
  for (const batch of [5, 6, 7]) journal.addHit(hit('a'), windowOf(10, 0, windowEndsAtMs), batch)
  journal.addHit(hit('sent'), undefined, 5)
  t.equal(journal.size, 6, 'two counters, and four hits in doubt')
  journal.settle({ last: 5, next: 2 ** 32 })
  // The baseline is the state before all of them; a hit that only might have run leaves no trace in it.
  t.same(countersOf(drain(journal)), { a: 12 })
  t.equal(journal.size, 0)
})

t.test('a chunk stays the next one until it is done, and later entries wait', async t => {
  const { journal } = setUp()
  for (let i = 0; i < 250; i++) journal.addHit(hit(`key${i}`), undefined, undefined)
  const [first, second] = journal.rest()
  journal.addHit(hit('key0'), undefined, undefined)
  t.same([journal.next(1)[0] === first, journal.rest()[1] === second], [true, true])
  t.equal(journal.size, 251)
  journal.done(second!)
  t.equal(journal.next(1)[0], first, 'even if a later chunk is done sooner')
  t.match(drain(journal), [{ id: 1 }, { id: 3 }, { id: 4, counters: [{ key: 'key0', counted: { used: 1 } }] }])
})

t.test('the baseline of a counter is the one below all of its changes, those that were sent included', async t => {
  const { journal } = setUp()
  const [known, later] = [stateOf(limit, 3, 0, windowEndsAtMs), stateOf(limit, 4, 0, windowEndsAtMs)]
  journal.addHit(hit('sent'), known, undefined)
  const [chunk] = journal.next(1)
  journal.addHit(hit('sent'), later, undefined)
  journal.addHit(hit('waits'), later, undefined)
  journal.addHit(hit('new'), undefined, undefined)
  t.same(journal.baselines(), [{ key: 'sent', limit, baseline: known }, { key: 'waits', limit, baseline: later }])
  journal.done(chunk!)
  t.same(journal.baselines(), ['sent', 'waits'].map(key => ({ key, limit, baseline: later })))
})

t.test('as long as Redis has not taken a chunk, no other is made', async t => {
  const { journal } = setUp()
  for (let round = 0; round < 10; round++) {
    for (let i = 0; i < 100; i++) journal.addHit(hit(`key-${round}-${i}`), undefined, undefined)
    for (let i = 0; i < 10; i++) adding.values(journal, 10 * round + i)
    const chunk = journal.next(1)[0]!
    t.same([chunk.kind, sizeOf(chunk)], ['counters', 100])
    t.equal(chunk, journal.next(1)[0])
  }
  t.ok(journal.size <= 1000, `${journal.size} entries`)
})

t.test('blocks are replayed in the order of their last changes', async t => {
  const { journal } = setUp()
  const block = (ip: string) => ({ atMs: nowMs, block: { ip, durationMs: 1000, reason: '', origin: '' } })
  journal.addBlock(block('192.0.2.1'))
  journal.addBlock(block('192.0.2.2'))
  journal.addBlock({ atMs: nowMs + 1, unblock: '192.0.2.1' })
  t.same(drain(journal), [{
    kind: 'blocks',
    operations: [block('192.0.2.2'), { atMs: nowMs + 1, unblock: '192.0.2.1' }]
  }])
})

t.test('of the blocks of an address, those stay that may stand in the end', async t => {
  const ip = '192.0.2.1'
  const block = (seconds: number, durationMs: number, replace = false): BlockOperation =>
    ({ atMs: nowMs + seconds, block: { ip, durationMs, reason: '', origin: '', replace } })
  const lift = (seconds: number): BlockOperation => ({ atMs: nowMs + seconds, unblock: ip })
  const cases: readonly (readonly [added: readonly BlockOperation[], left: readonly number[]])[] = [
    [[block(0, 1000), block(1, Infinity)], [1]],
    [[block(0, Infinity), block(1, 1000)], [0, 1]],
    [[block(0, Infinity), block(1, Infinity), block(2, Infinity)], [0, 2]],
    [[block(0, Infinity), lift(2), block(3, 1000)], [1, 2]],
    [[block(0, Infinity), lift(2)], [1]],
    [[block(0, Infinity), block(1, 1000, true)], [1]],
    [[block(0, 1000, true), block(1, Infinity)], [0, 1]],
    [[lift(2), block(3, 1000), block(4, Infinity), lift(5)], [3]]
  ]
  for (const [added, left] of cases) {
    const { journal } = setUp()
    for (const operation of added) journal.addBlock(operation)
    t.equal(journal.size, left.length)
    t.same(drain(journal), [{ kind: 'blocks', operations: left.map(i => added[i]) }])
    t.equal(journal.size, 0)
  }
})

t.test('a block that fails late comes before an unblock that began after it', async t => {
  const { journal } = setUp()
  const [first, second] = [journal.nextBlockOrder(), journal.nextBlockOrder()]
  journal.addBlock({ atMs: nowMs, unblock: '192.0.2.1' }, second)
  journal.addBlock({ atMs: nowMs, block: { ip: '192.0.2.1', durationMs: 1000, reason: '', origin: '' } }, first)
  t.same(drain(journal), [{ kind: 'blocks', operations: [{ atMs: nowMs + 1, unblock: '192.0.2.1' }] }])
})

t.test('refusals are added if their window is that of the baseline', async t => {
  const { journal } = setUp()
  const baseline = windowOf(100, 0, windowEndsAtMs)
  journal.addRefusals(refusals('a', 7, windowEndsAtMs + 2), baseline, undefined)
  journal.addRefusals(refusals('a', 3), baseline, undefined)
  journal.addRefusals(refusals('b', 7, windowEndsAtMs - 60_000), baseline, undefined)
  journal.addRefusals(refusals('c', 7), undefined, undefined)
  // Redis never answered these, and ran the first.
  journal.addRefusals(refusals('a', 20), baseline, 5)
  journal.addRefusals(refusals('a', 40), baseline, 6)
  journal.settle({ last: 5, next: 100 })
  t.same(countersOf(drain(journal)), { a: 150 })
})

t.test('a refusal counts even if earlier hits may have run in Redis', async t => {
  const { journal } = setUp()
  for (let i = 0; i < 60; i++) journal.addHit(hit('a'), undefined, 5)
  for (let i = 0; i < 40; i++) journal.addHit(hit('a'), undefined, undefined)
  for (let i = 0; i < 7; i++) journal.addHit(hit('a', 'refusal'), undefined, undefined)
  journal.settle({ last: 5, next: 100 })
  t.same(countersOf(drain(journal)), { a: 47 })
})

function events (count: number, key?: string): RateLimitEvent[] {
  return Array.from({ length: count }, () => ({ type: 'limited', key, count: 1, atMs: nowMs }))
}

const unblock = (ip: string): BlockOperation => ({ atMs: nowMs, unblock: ip })

/** Adds one entry of a kind; the number makes it different from others. */
const adding: Record<JournalKind, (journal: Journal, i: number) => void> = {
  counters: (journal, i) => journal.addHit(hit(`key${i}`), undefined, undefined),
  blocks: (journal, i) => journal.addBlock(unblock(`192.0.${i >> 8}.${i & 255}`)),
  events: (journal, i) => journal.addEvents(events(1, `key${i}`), undefined),
  values: (journal, i) =>
    journal.addValue({ kind: 'del', key: `key${i}`, atMs: nowMs }, journal.nextValueOrder(), undefined)
}

for (const [kind, add] of Object.entries(adding)) {
  t.test(`${kind} never exceed the capacity, sent or not, and each dropped entry is counted`, async t => {
    const { journal, dropped } = setUp(640, 1000)
    for (let i = 0; i < 2000; i++) {
      add(journal, i)
      if (journal.size > 640) t.fail(`${journal.size} entries`)
      // A failed attempt; a later one sends everything, and fails too.
      if (i % 100 === 0) journal.next(1)
      if (i === 1000) journal.rest()
    }
    t.equal(dropped.reduce((sum, [, count]) => sum + count, journal.size), 2000)
    t.same(new Set(dropped.map(([kind]) => kind)), new Set([kind]))
    drain(journal)
    t.equal(journal.size, 0)
  })
}

t.test('a flood of one kind leaves an eighth of the room to each of the others', async t => {
  for (const [flooding, add] of Object.entries(adding)) {
    const { journal, dropped } = setUp(800, 800)
    for (const addOther of Object.values(adding)) for (let i = 0; i < 100; i++) addOther(journal, i)
    for (let i = 100; i < 1000; i++) add(journal, i)
    t.same(new Set(dropped.map(([kind]) => kind)), new Set([flooding]))
  }
})

t.test('events are dropped first, and blocks last', async t => {
  const { journal, dropped } = setUp(800, 800)
  const inOrder = ['events', 'counters', 'values', 'blocks'] as const
  for (const kind of inOrder) for (let i = 0; i < 900; i++) adding[kind](journal, i)
  t.same([...new Set(dropped.map(([kind]) => kind))], inOrder)
})

t.test('of a large write, the last events are kept', async t => {
  const { journal, dropped } = setUp(1000, 5)
  journal.addEvents(events(2, 'first'), 1)
  journal.addEvents([...events(1, 'dropped'), ...events(5, 'last')], 2)
  t.same(dropped, [['events', 3]])
  journal.settle({ last: 0, next: 3 })
  t.match(drain(journal), [{ id: 2, events: events(5, 'last') }])
})

t.test('unsent events share chunks, up to the size of one call', async t => {
  const { journal } = setUp(10_000, 10_000)
  for (let i = 0; i < 250; i++) journal.addEvents(events(1), undefined)
  // In doubt, and so a chunk of its own.
  journal.addEvents(events(1), 7)
  for (let i = 0; i < 2; i++) journal.addEvents(events(1), undefined)
  const chunks = journal.next(16)
  t.same(chunks.map(sizeOf), [200, 50, 2])
  // A chunk that was sent does not grow.
  journal.addEvents(events(1), undefined)
  t.same(journal.next(3), chunks)
  t.equal(journal.size, 254)
  journal.settle({ last: 6, next: 100 })
  t.same(journal.rest().map(sizeOf), [200, 50, 1, 2, 1])
  drain(journal)
  t.equal(journal.size, 0)
})

t.test('after a chunk of events loses its oldest ones, later events get a new chunk', async t => {
  const { journal, dropped } = setUp(1000, 5)
  journal.addEvents(events(4, 'first'), undefined)
  journal.addEvents(events(2, 'second'), undefined)
  journal.addEvents(events(1, 'third'), undefined)
  t.same(dropped, [['events', 1], ['events', 1]])
  t.match(drain(journal), [{ events: [...events(2, 'first'), ...events(2, 'second')] }, { events: events(1, 'third') }])
})

t.test('of the writes of events in doubt, those that did not run are replayed', async t => {
  const { journal } = setUp()
  for (const batch of [5, 6]) journal.addEvents(events(1, `in ${batch}`), batch)
  t.equal(journal.size, 2)
  t.same(journal.next(16), [], 'not before they are settled')
  journal.settle({ last: 5, next: 100 })
  t.match(drain(journal), [{ events: events(1, 'in 6') }])
  // Writes that fail after the recovery are settled at once, as far as the fence knows them.
  for (const batch of [5, 6, 101]) journal.addEvents(events(1, `late in ${batch}`), batch)
  t.match(journal.rest(), [{ events: events(1, 'late in 6') }])
  t.equal(journal.size, 2)
})

t.test('several chunks of one kind may be sent at once', async t => {
  const most = { counters: 100, blocks: 100, events: 200, values: 100 }
  for (const [kind, add] of Object.entries(adding)) {
    const { journal } = setUp()
    for (let i = 0; i < 450; i++) add(journal, i)
    const chunks = journal.next(2)
    const inChunk = most[kind as JournalKind]
    t.same(chunks.map(sizeOf), [inChunk, inChunk], kind)
    t.same(journal.next(2), chunks)
    for (const chunk of chunks.toReversed()) journal.done(chunk)
    t.equal(journal.size, 450 - 2 * inChunk)
  }
})

t.test('a flood of fresh names drops no client that has used more of its quota', async t => {
  const quota = defineLimit('fixed-window', 5, 60_000)
  for (const isSent of [false, true]) {
    const { journal } = setUp(640)
    const hits = (key: string, times: number) => {
      for (let i = 0; i < times; i++) journal.addHit({ ...hit(key), limit: quota }, undefined, undefined)
    }
    hits('limited', 5)
    hits('nearly', 4)
    // It was sent with all others when Redis went away again: its use still counts until that is settled.
    if (isSent) {
      for (let i = 0; i < 638; i++) hits(`earlier${i}`, 1)
      journal.rest()
      hits('limited later', 5)
    }
    for (let i = 0; i < 10_000; i++) hits(`fresh${i}`, 1)
    t.match(countersOf(drain(journal)), { limited: 5, nearly: 4, ...isSent && { 'limited later': 5 } })
  }
})

t.test('a client that is limited by hits in doubt is kept too', async t => {
  const quota = defineLimit('fixed-window', 5, 60_000)
  const { journal } = setUp(640)
  for (let i = 0; i < 5; i++) journal.addHit({ ...hit('limited'), limit: quota }, undefined, i + 1)
  journal.addHit({ ...hit('limited'), limit: quota }, undefined, undefined)
  for (let i = 0; i < 2000; i++) journal.addHit({ ...hit(`fresh${i}`), limit: quota }, undefined, 6)
  t.ok(journal.size <= 640, `${journal.size} entries`)
  journal.settle({ last: 3, next: 100 })
  t.match(countersOf(drain(journal)), { limited: 3 })
})

t.test('a flood of hits in doubt on one counter takes one entry per batch', async t => {
  const { journal } = setUp()
  for (let i = 0; i < 3200; i++) journal.addHit(hit('a'), undefined, 1 + Math.floor(i / 32))
  t.equal(journal.size, 101)
  journal.settle({ last: 50, next: 2 ** 32 })
  t.same(countersOf(drain(journal)), { a: 1600 })
})

t.test('counters of clients that have used most are sent first', async t => {
  const quota = defineLimit('fixed-window', 5, 60_000)
  const { journal } = setUp()
  for (let used = 1; used <= 5; used++) {
    for (let i = 0; i < used; i++) journal.addHit({ ...hit(`used${used}`), limit: quota }, undefined, undefined)
  }
  t.match(drain(journal), [{ counters: [5, 4, 3, 2, 1].map(used => ({ key: `used${used}` })) }])
})

t.test('an expired counter takes no room, and does not count as dropped', async t => {
  const { journal, dropped } = setUp()
  journal.addHit(hit('over'), undefined, undefined)
  journal.addHit({ ...hit('running'), nowMs: nowMs + 1000 }, undefined, undefined)
  journal.addHit(hit('in doubt'), undefined, 5)
  journal.sweep(windowEndsAtMs)
  t.equal(journal.size, 3)
  t.same(dropped, [])
  journal.settle({ last: 4, next: 100 })
  journal.sweep(windowEndsAtMs)
  t.same(countersOf(drain(journal)), { running: 1 })
})

t.test('a reset is kept like the use that it forgets', async t => {
  const quota = defineLimit('fixed-window', 5, 60_000)
  const { journal } = setUp(640)
  const baseline = windowOf(5, 0, windowEndsAtMs)
  journal.addReset('a', quota, { state: baseline })
  journal.addHit({ ...hit('a'), limit: quota }, windowOf(0, 0, windowEndsAtMs), undefined)
  for (let i = 0; i < 2000; i++) journal.addHit({ ...hit(`fresh${i}`), limit: quota }, undefined, undefined)
  t.match(countersOf(drain(journal)), { a: 1 })
})

t.test('a reset is kept until the state that it forgets has expired', async t => {
  const { journal } = setUp()
  const sliding = defineLimit('sliding-window', 5, 60_000)
  journal.addReset('a', sliding, { state: stateOf(sliding, 5, 0, nowMs) })
  journal.sweep(nowMs + 119_999)
  t.equal(journal.size, 1)
  journal.sweep(nowMs + 120_000)
  t.equal(journal.size, 0)
})

t.test('a block that changes while it is sent is sent again', async t => {
  const { journal } = setUp()
  journal.addBlock(unblock('192.0.2.1'))
  journal.addBlock(unblock('192.0.2.2'))
  const chunk = journal.next(1)[0]!
  const later = { atMs: nowMs + 1, unblock: '192.0.2.1' }
  journal.addBlock(later)
  journal.done(chunk)
  t.same(journal.next(1)[0], { kind: 'blocks', operations: [later] })
})

t.test('a chunk whose entries were dropped on the way can be done', async t => {
  for (const [kind, add] of Object.entries(adding)) {
    const { journal } = setUp(64, 64)
    for (let i = 0; i < 64; i++) add(journal, i)
    const chunks = journal.rest()
    for (let i = 100; i < 300; i++) add(journal, i)
    for (const chunk of chunks) journal.done(chunk)
    t.ok(journal.size > 0 && journal.size <= 64, `${kind}: ${journal.size}`)
    drain(journal)
    t.equal(journal.size, 0)
  }
})

t.test('a hit that fails after the fence is settled at once', async t => {
  const { journal } = setUp()
  journal.settle({ last: 5, next: 100 })
  journal.addHit(hit('ran'), undefined, 5)
  journal.addHit(hit('never ran'), undefined, 6)
  journal.addHit(hit('unsure'), undefined, 101)
  const baseline = windowOf(100, 0, windowEndsAtMs)
  for (const [key, batch] of [['refused and ran', 5], ['refused', 6], ['unsure, too', 101]] as const) {
    journal.addRefusals(refusals(key, 3), baseline, batch)
  }
  t.same(countersOf(drain(journal)), { 'never ran': 1, refused: 103 })
})

t.test('refusals do not count an earlier hit in doubt a second time', async t => {
  for (const last of [5, 6]) {
    const { journal } = setUp()
    const baseline = (used: number) => windowOf(used, 0, windowEndsAtMs)
    journal.addHit(hit('a', 'refusal'), baseline(140), 6)
    journal.addRefusals(refusals('a', 2), baseline(141), undefined)
    journal.settle({ last, next: 100 })
    t.same(countersOf(drain(journal)), { a: last === 5 ? 143 : 142 })
    journal.settle({ last: 100, next: 200 })
    journal.addHit(hit('b'), undefined, 206)
    journal.addRefusals(refusals('b', 2), baseline(101), undefined)
    journal.settle({ last: last + 200, next: 300 })
    t.match(
      drain(journal),
      [{ counters: [{ baseline: undefined, counted: { used: last === 5 ? 1 : 0, refused: 2 } }] }]
    )
  }
})

t.test('a refund is subtracted from the window that counted the hit, once', async t => {
  const { journal } = setUp()
  const baseline = windowOf(10, 0, windowEndsAtMs)
  const over = windowOf(10, 0, windowEndsAtMs + 60_000)
  journal.addRefund(hit('a'), baseline, baseline, undefined)
  journal.addRefund(hit('a'), over, baseline, undefined)
  journal.addRefund(hit('unknown'), baseline, undefined, undefined)
  for (const batch of [5, 6]) journal.addRefund(hit('sent'), baseline, baseline, batch)
  journal.settle({ last: 5, next: 2 ** 32 })
  t.same(countersOf(drain(journal)), { a: 9, sent: 9 })
  journal.addRefund(hit('late'), baseline, baseline, 4)
  t.equal(journal.size, 0)
})

t.test('a counter that is reset forgets hits in doubt', async t => {
  const { journal } = setUp()
  const baseline = windowOf(10, 0, windowEndsAtMs)
  journal.addHit(hit('a'), baseline, 6)
  journal.addReset('a', limit, { state: windowOf(11, 0, windowEndsAtMs) })
  journal.addHit(hit('fresh'), undefined, undefined)
  journal.addReset('fresh', limit, { state: windowOf(1, 0, windowEndsAtMs) })
  journal.addReset('unknown', limit, undefined)
  journal.settle({ last: 5, next: 2 ** 32 })
  t.same(countersOf(drain(journal)), { a: 0 })
})

t.test('a reset in doubt is sent if it did not run; later hits are kept either way', async t => {
  const baseline = windowOf(10, 0, windowEndsAtMs)
  for (const [last, expected] of [[4, { baseline: 10, counted: 1 }], [5, { baseline: 0, counted: 1 }]] as const) {
    const { journal } = setUp()
    journal.addHit(hit('a'), baseline, undefined)
    journal.addReset('a', limit, sentIn(5, windowOf(11, 0, windowEndsAtMs)))
    journal.addHit(hit('a'), undefined, undefined)
    journal.addReset('unknown', limit, undefined)
    t.equal(journal.size, 1)
    t.same(journal.next(1), [], 'not before it is settled')
    journal.settle({ last, next: 2 ** 32 })
    const [chunk] = journal.next(1) as readonly CounterChunk[]
    t.same(
      [...chunk!.counters].map(({ baseline, counted }) => ({ baseline: usedOf(baseline!), counted: usedOf(counted) })),
      [expected]
    )
    journal.done(chunk!)
    journal.addReset('a', limit, sentIn(4, baseline))
    t.equal(journal.size, 0, 'a reset that fails after the recovery has run')
  }
})

t.test('of several resets in doubt, the last one decides', async t => {
  const { journal } = setUp()
  const baseline = windowOf(10, 0, windowEndsAtMs)
  journal.addReset('a', limit, sentIn(5, baseline))
  journal.addReset('a', limit, sentIn(6, baseline))
  journal.settle({ last: 5, next: 2 ** 32 })
  const [chunk] = journal.next(1) as readonly CounterChunk[]
  t.same([...chunk!.counters].map(({ baseline, counted }) => [usedOf(baseline!), usedOf(counted)]), [[10, 0]])
})
