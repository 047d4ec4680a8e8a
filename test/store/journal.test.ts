import t from 'tap'
import { defineLimit } from '../../lib/rules/rate-limit.js'
import { type Carried, type HitHere, Journal, type Piece } from '../../lib/store/journal.js'

const limit = defineLimit('fixed-window', 100, 60_000)
const nowMs = 1_700_000_000_000
const windowEndsAtMs = nowMs + 60_000

function setUp (capacity = 1000, maxEvents = 1000) {
  const dropped: [Carried, number][] = []
  return { journal: new Journal({ capacity, maxEvents, onDrop: (kind, count) => dropped.push([kind, count]) }), dropped }
}

function hit (key: string, outcome: HitHere['outcome'] = 'accepted'): HitHere {
  return { key, limit, cost: 1, nowMs, outcome }
}

function drain (journal: Journal): Piece[] {
  const pieces = [...journal.pieces()]
  for (const piece of pieces) journal.done(piece)
  return pieces
}

function countersOf (pieces: readonly Piece[]): Record<string, number> {
  return Object.fromEntries(pieces.flatMap(piece => piece.kind === 'counters' ? piece.counters.map(({ key, counted }) => [key, counted.used + counted.previous]) : []))
}

t.test('hits at one counter are one entry, on top of what was known', async t => {
  const { journal } = setUp()
  const known = { used: 5, previous: 0, atMs: windowEndsAtMs }
  for (let i = 0; i < 3; i++) journal.addHit(hit('a'), i === 0 ? known : { ...known, used: 99 }, undefined)
  journal.addHit(hit('b'), undefined, undefined)
  t.equal(journal.size, 2)
  t.equal(journal.has('a'), true)
  const pieces = drain(journal)
  t.match(pieces, [{ kind: 'counters', counters: [{ key: 'a', known, counted: { used: 8 } }, { key: 'b', known: undefined, counted: { used: 1 } }] }])
  t.same([journal.size, journal.isEmpty, journal.has('a')], [0, true, false])
})

t.test('of the hits that were never answered, those count that did not run', async t => {
  const { journal } = setUp()
  for (const batch of [5, 6, 7]) journal.addHit(hit('a'), { used: 10, previous: 0, atMs: windowEndsAtMs }, batch)
  journal.addHit(hit('sent'), undefined, 5)
  t.equal(journal.isEmpty, false)
  journal.settle({ last: 5, next: 2 ** 32 })
  // What was known before any of them is where counting goes on; what only might have run has left no trace.
  t.same(countersOf(drain(journal)), { a: 12 })
  t.equal(journal.isEmpty, true)
})

t.test('a piece stays the next one until it is done, and what comes meanwhile waits', async t => {
  const { journal } = setUp()
  for (let i = 0; i < 250; i++) journal.addHit(hit(`key${i}`), undefined, undefined)
  const [first, second] = journal.pieces()
  journal.addHit(hit('key0'), undefined, undefined)
  t.same([journal.pieces()[0] === first, journal.pieces()[1] === second], [true, true])
  t.equal(journal.size, 251)
  journal.done(second!)
  t.equal(journal.pieces()[0], first, 'also where one behind it is done sooner')
  const pieces = drain(journal)
  t.same(pieces.map(piece => piece.kind === 'counters' ? [piece.id, piece.counters.length] : piece), [[1, 100], [3, 50], [4, 1]])
})

t.test('blocks are told in the order of their last changes', async t => {
  const { journal } = setUp()
  const block = (ip: string) => ({ atMs: nowMs, block: { ip, durationMs: 1000, reason: '', origin: '' } })
  journal.addBlock(block('192.0.2.1'))
  journal.addBlock(block('192.0.2.2'))
  journal.addBlock({ atMs: nowMs + 1, unblock: '192.0.2.1' })
  t.same(drain(journal), [{ kind: 'blocks', operations: [block('192.0.2.2'), { atMs: nowMs + 1, unblock: '192.0.2.1' }] }])
})

t.test('refusals are added where their window is the one that is known', async t => {
  const { journal } = setUp()
  const known = { used: 100, previous: 0, atMs: windowEndsAtMs }
  journal.addRefusals('a', limit, windowEndsAtMs + 2, 7, known, undefined)
  journal.addRefusals('a', limit, windowEndsAtMs, 3, known, undefined)
  journal.addRefusals('b', limit, windowEndsAtMs - 60_000, 7, known, undefined)
  journal.addRefusals('c', limit, windowEndsAtMs, 7, undefined, undefined)
  // Redis never answered these, and has run the first.
  journal.addRefusals('a', limit, windowEndsAtMs, 20, known, 5)
  journal.addRefusals('a', limit, windowEndsAtMs, 40, known, 6)
  journal.settle({ last: 5, next: 100 })
  t.same(countersOf(drain(journal)), { a: 150 })
})

t.test('a refusal counts also where hits before it may have run in Redis', async t => {
  const { journal } = setUp()
  for (let i = 0; i < 60; i++) journal.addHit(hit('a'), undefined, 5)
  for (let i = 0; i < 40; i++) journal.addHit(hit('a'), undefined, undefined)
  for (let i = 0; i < 7; i++) journal.addHit(hit('a', 'noted'), undefined, undefined)
  journal.settle({ last: 5, next: 100 })
  t.same(countersOf(drain(journal)), { a: 47 })
})

t.test('what finds no room pushes out the oldest, and is counted', async t => {
  const { journal, dropped } = setUp(2, 5)
  for (const key of ['a', 'b', 'c']) journal.addHit(hit(key), undefined, undefined)
  for (const ip of ['192.0.2.1', '192.0.2.2', '192.0.2.3']) journal.addBlock({ atMs: nowMs, unblock: ip })
  const events = (count: number) => Array.from({ length: count }, () => ({ type: 'limited' as const, count: 1, atMs: nowMs }))
  for (let i = 0; i < 3; i++) journal.addEvents(events(2), journal.nextEventBatch())
  for (const key of ['a', 'b', 'c']) journal.values.add({ kind: 'del', key, atMs: nowMs }, journal.values.nextOrder(), undefined)
  t.same(dropped, [['counters', 1], ['blocks', 1], ['events', 2], ['values', 1]])
  t.equal(journal.size, 2 + 2 + 4 + 2)
  t.match(drain(journal), [{ kind: 'blocks' }, { kind: 'counters', counters: [{ key: 'b' }, { key: 'c' }] }, { batch: { number: 2 } }, { batch: { number: 3 } }, { kind: 'values', changes: [{ key: 'b' }, { key: 'c' }] }])
})

t.test('a hit that fails when Redis has been asked what it ran already is settled at once', async t => {
  const { journal } = setUp()
  journal.settle({ last: 5, next: 100 })
  journal.addHit(hit('ran'), undefined, 5)
  journal.addHit(hit('never ran'), undefined, 6)
  journal.addHit(hit('unsure'), undefined, 101)
  const known = { used: 100, previous: 0, atMs: windowEndsAtMs }
  for (const [key, batch] of [['refused and ran', 5], ['refused', 6], ['unsure, too', 101]] as const) journal.addRefusals(key, limit, windowEndsAtMs, 3, known, batch)
  t.same(countersOf(drain(journal)), { 'never ran': 1, refused: 103 })
})

t.test('until Redis is up to date, what follows a piece says that Redis knows the counter', async t => {
  const { journal } = setUp()
  const isRestored = () => drain(journal).flatMap(piece => piece.kind === 'counters' ? piece.counters.map(counter => counter.isRestored) : [])
  const known = { used: 5, previous: 0, atMs: windowEndsAtMs }
  journal.addHit(hit('a'), known, undefined)
  journal.settle({ last: 5, next: 100 })
  const [piece] = journal.pieces()
  journal.addHit(hit('a'), known, undefined)
  journal.done(piece!)
  t.same(isRestored(), [true])
  journal.addHit(hit('a'), known, undefined)
  journal.addHit(hit('b'), known, undefined)
  t.same(isRestored(), [true, false])
  journal.recovered()
  journal.addHit(hit('a'), known, undefined)
  t.same(isRestored(), [false])
})

t.test('refusals do not count a hit before them, which Redis may not have run, a second time', async t => {
  for (const last of [5, 6]) {
    const { journal } = setUp()
    const known = (used: number) => ({ used, previous: 0, atMs: windowEndsAtMs })
    journal.addHit(hit('a', 'noted'), known(140), 6)
    journal.addRefusals('a', limit, windowEndsAtMs, 2, known(141), undefined)
    journal.settle({ last, next: 100 })
    t.same(countersOf(drain(journal)), { a: last === 5 ? 143 : 142 })
    journal.settle({ last: 100, next: 200 })
    journal.addHit(hit('b'), undefined, 206)
    journal.addRefusals('b', limit, windowEndsAtMs, 2, known(101), undefined)
    journal.settle({ last: last + 200, next: 300 })
    t.match(drain(journal), [{ counters: [{ known: undefined, counted: { used: last === 5 ? 1 : 0, previous: 2 } }] }])
  }
})

t.test('a hit that is given back is taken from what it was counted in, once', async t => {
  const { journal } = setUp()
  const known = { used: 10, previous: 0, atMs: windowEndsAtMs }
  const over = { ...known, atMs: windowEndsAtMs + 60_000 }
  journal.addRefund(hit('a'), known, known, undefined)
  journal.addRefund(hit('a'), over, known, undefined)
  journal.addRefund(hit('unknown'), known, undefined, undefined)
  for (const batch of [5, 6]) journal.addRefund(hit('sent'), known, known, batch)
  journal.settle({ last: 5, next: 2 ** 32 })
  t.same(countersOf(drain(journal)), { a: 9, sent: 9 })
  journal.addRefund(hit('late'), known, known, 4)
  t.equal(journal.isEmpty, true)
})

t.test('a counter that is reset forgets what only might have run', async t => {
  const { journal } = setUp()
  const known = { used: 10, previous: 0, atMs: windowEndsAtMs }
  journal.addHit(hit('a'), known, 6)
  journal.addReset('a', limit, { ...known, used: 11 })
  journal.addHit(hit('fresh'), undefined, undefined)
  journal.addReset('fresh', limit, { ...known, used: 1 })
  journal.addReset('unknown', limit, undefined)
  journal.settle({ last: 5, next: 2 ** 32 })
  t.same(countersOf(drain(journal)), { a: 0 })
})
