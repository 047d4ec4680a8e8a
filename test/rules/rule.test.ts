/** Properties of the rule of each algorithm, after any sequence of hits. */
import fc from 'fast-check'
import t from 'tap'
import { algorithms, algorithmsWith, ruleOf, type Algorithm } from '../../lib/rules/algorithms.js'
import { defineLimit, excesses, isChanged, takeAll, type Limit } from '../../lib/rules/rate-limit.js'
import { sameMomentMs, type Encoded, type LimitState } from '../../lib/rules/rule.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

const startMs = 1_700_000_000_000

/** A limit, and its state after some hits. */
interface Walked {
  readonly limit: Limit
  readonly state: LimitState
  readonly nowMs: number
}

function limitsOf (algorithm: Algorithm): fc.Arbitrary<Limit> {
  return fc.record({
    max: fc.integer({ min: 1, max: 50 }),
    windowMs: fc.integer({ min: 10, max: 5000 }),
    burst: fc.integer({ min: 1, max: 60 }),
    excess: fc.constantFrom(...excesses)
  }).map(({ max, windowMs, burst, excess }) => defineLimit(algorithm, max, windowMs, { burst, excess }))
}

const steps =
  fc.array(fc.record({ waitMs: fc.nat({ max: 3000 }), cost: fc.integer({ min: 1, max: 4 }) }), { maxLength: 30 })

function walksOf (algorithm: Algorithm): fc.Arbitrary<Walked> {
  return fc.tuple(limitsOf(algorithm), steps).map(([limit, steps]) => {
    let nowMs = startMs
    let { state } = ruleOf(limit).take(undefined, nowMs, limit, 1)
    for (const { waitMs, cost } of steps) {
      nowMs += waitMs
      state = ruleOf(limit).take(state, nowMs, limit, cost).state
    }
    return { limit, state, nowMs }
  })
}

for (const algorithm of algorithms) {
  const walks = walksOf(algorithm)
  const rule = ruleOf({ algorithm })
  const holds = (says: (walked: Walked) => boolean) => fc.assert(fc.property(walks, says), { seed, numRuns: 500 })

  t.test(`${algorithm} (SEED=${seed})`, async t => {
    t.test('encoding and decoding on another clock preserves the state', async () => {
      holds(({ limit, state, nowMs }) => {
        const numbers = rule.encode(state, nowMs)
        const decoded = rule.decode(numbers, nowMs + 7)
        return numbers.every(Number.isSafeInteger) && numbers.slice(0, 2).every(number => number >= 0) &&
          same(rule.decode(numbers, nowMs), state) && same(decoded, rule.shift(state, 7)) &&
          same(rule.explain(decoded, nowMs + 7, limit), rule.explain(state, nowMs, limit))
      })
    })

    t.test('accept and refuse count a hit that was decided remotely like take does', async () => {
      holds(({ limit, state, nowMs }) => {
        const judged = rule.take(state, nowMs, limit, 1)
        const counted = judged.fits ? rule.accept(state, nowMs, limit, 1) : rule.refuse(state, nowMs, limit)
        return same(counted, judged.state)
      })
    })

    t.test('`left` says what a hit changed: the hit count, the refusals, or nothing', async () => {
      holds(({ limit, state, nowMs }) => {
        const free = rule.take(state, nowMs, limit, 0)
        const hit = rule.take(state, nowMs, limit, 1)
        const left = hit.fits ? 'hit' : rule.notesRefusals ? 'refusal' : 'nothing'
        return free.fits && free.left === 'nothing' && same(free.state, free.before) && same(free.before, hit.before) &&
          hit.left === left && same(hit.state, hit.before) === (left === 'nothing') && !hit.repaired
      })
    })

    t.test('counts refusals only if the algorithm notes them, and added refusals like its own', async () => {
      holds(({ limit, state, nowMs }) => {
        const added = rule.addRefusals(state, 3)
        const before = rule.explain(state, nowMs, limit).refusals
        const isOver = nowMs >= rule.expiresAtMs(state, limit)
        const expected = rule.notesRefusals && !isOver ? before + 3 : before
        return rule.isSameWindow(added, state, 0) && rule.explain(added, nowMs, limit).refusals === expected &&
          rule.explain(undefined, nowMs, limit).refusals === 0
      })
    })

    t.test('an emptied window stays the same window, and explains itself like that of a new client', async () => {
      holds(({ limit, state, nowMs }) => {
        const emptied = rule.emptied(state)
        return rule.isEmpty(emptied) && !rule.isEmpty(rule.take(emptied, nowMs, limit, 1).state) &&
          rule.isSameWindow(emptied, state, 0) &&
          same(rule.explain(emptied, nowMs, limit), rule.explain(undefined, nowMs, limit))
      })
    })

    t.test('a refund at once restores the state before the hit, unless refusals lock the window', async () => {
      holds(({ limit, state, nowMs }) => {
        const { fits, before, state: counted } = rule.take(state, nowMs, limit, 1)
        if (!fits) return true
        const isLocked = limit.excess !== 'none' && rule.explain(counted, nowMs, limit).refusals > 0
        const expected = isLocked ? counted : before
        const elsewhere = rule.shift(counted, sameMomentMs(limit))
        return same(rule.refund(counted, limit, 1, counted), expected) &&
          same(rule.refundAt(counted, limit, 1, nowMs), expected) &&
          same(rule.isSameWindow(counted, elsewhere, sameMomentMs(limit)), true)
      })
    })

    t.test('does not refund a hit whose window is long over', async () => {
      holds(({ limit, state, nowMs }) => {
        const { fits, state: counted } = rule.take(state, nowMs, limit, 1)
        if (!fits) return true
        const laterMs = rule.expiresAtMs(counted, limit) + limit.longestMs
        const later = rule.take(undefined, laterMs, limit, 1).state
        return same(rule.refund(later, limit, 1, counted), later) && same(rule.refundAt(later, limit, 1, nowMs), later)
      })
    })

    t.test('merge returns the baseline and the counted state in the current window', async () => {
      const [counts, waits] = [fc.integer({ min: 1, max: 5 }), fc.nat({ max: 6000 })]
      fc.assert(fc.property(walks, counts, waits, ({ limit, state, nowMs }, hits, waitMs) => {
        let counted = state
        for (let i = 0; i < hits; i++) counted = rule.accept(counted, nowMs, limit, 1)
        const thenMs = nowMs + waitMs
        const merge = rule.merge(state, counted, thenMs, limit)
        if (merge === undefined) return rule.isEmpty(rule.take(counted, thenMs, limit, 0).state)
        const [first, second] = rule.encode(merge.baseline, thenMs)
        const [countedFirst, countedSecond] = rule.encode(merge.counted, thenMs)
        return same(merge.counted, rule.take(counted, thenMs, limit, 0).state) &&
          rule.isSameWindow(merge.baseline, merge.counted, 0) &&
          countedFirst >= first && countedSecond >= second
      }), { seed, numRuns: 500 })
    })

    t.test('merge without a baseline starts from empty counters, and skips an expired state', async () => {
      holds(({ limit, state, nowMs }) => {
        const merge = rule.merge(undefined, state, nowMs, limit)
        const endMs = rule.expiresAtMs(state, limit)
        return (merge === undefined || rule.isEmpty(merge.baseline)) &&
          rule.merge(state, state, endMs, limit) === undefined
      })
    })

    t.test('a limit has only the options that its algorithm uses', async () => {
      fc.assert(fc.property(limitsOf(algorithm), ({ max, windowMs, burst, excess, longestMs }) =>
        (rule.hasBurst || burst === max) && (rule.notesRefusals || excess === 'none') &&
        (excess === 'backoff' || longestMs === windowMs)), { seed })
    })

    t.test('a hit that another limit refuses is not counted; a refusal by this limit is', async () => {
      const never = { limit: defineLimit(algorithm, 0, 1000), cost: 1 }
      holds(({ limit, state, nowMs }) => {
        const alone = rule.take(state, nowMs, limit, 1)
        const counters = [{ check: { limit, cost: 1 }, state }, { check: never, state: undefined }]
        const { accepted, judged: [first] } = takeAll(counters, nowMs)
        const together = first?.outcome
        return !accepted && together!.fits === alone.fits &&
          same(together!.state, alone.fits ? alone.before : alone.state) &&
          isChanged(together!) === (alone.left === 'refusal')
      })
    })
  })
}

t.test('algorithmsWith lists the algorithms that use an option', async t => {
  t.same(algorithmsWith('notesRefusals'), ['fixed-window'])
  t.same(algorithmsWith('hasBurst'), ['gcra'])
})

t.test('merge keeps what still counts in the current window', async t => {
  const fixed = defineLimit('fixed-window', 10, 1000)
  const sliding = defineLimit('sliding-window', 10, 1000)
  const bucket = defineLimit('gcra', 10, 1000, { burst: 5 })
  const state = (limit: Limit, numbers: Encoded): LimitState => ruleOf(limit).decode(numbers, startMs)
  /** Times are in ms from the start. */
  type Case = [
    what: string, limit: Limit, afterMs: number, baseline: Encoded | undefined, counted: Encoded,
    merged: [number[], number[]] | undefined
  ]
  const cases: Case[] = [
    ['in one window', fixed, 500, [3, 0, 1000], [7, 0, 1000], [[3, 0, 500], [7, 0, 500]]],
    ['without a baseline', fixed, 500, undefined, [7, 0, 1000], [[0, 0, 500], [7, 0, 500]]],
    ['the window of the baseline is over', fixed, 500, [3, 0, 100], [7, 0, 1100], [[0, 0, 600], [7, 0, 600]]],
    ['both are over', fixed, 100, [3, 0, 100], [7, 0, 100], undefined],
    ['only the baseline', fixed, 500, [3, 0, 1000], [3, 0, 1000], [[3, 0, 500], [3, 0, 500]]],
    ['the fading window, too', sliding, 500, [3, 2, 0], [5, 4, 0], [[3, 2, -500], [5, 4, -500]]],
    ['a window further', sliding, 1500, [3, 0, 0], [5, 0, 0], [[0, 3, -500], [0, 5, -500]]],
    ['what has not drained', bucket, 100, [2000, 10, 0], [5000, 10, 0], [[1000, 10, 0], [4000, 10, 0]]],
    ['counted by another max', bucket, 100, [2000, 10, 0], [2500, 5, 0], [[1000, 10, 0], [4000, 10, 0]]],
    ['nothing is left', bucket, 2000, [2000, 10, 0], [2000, 10, 0], undefined]
  ]
  for (const [what, limit, afterMs, baseline, counted, merged] of cases) {
    const nowMs = startMs + afterMs
    const merge = ruleOf(limit).merge(baseline && state(limit, baseline), state(limit, counted), nowMs, limit)
    const numbers = merge && [merge.baseline, merge.counted].map(state => ruleOf(limit).encode(state, nowMs))
    t.same(numbers, merged, what)
  }
})

t.test('accept counts a hit that does not fit; refuse counts a refusal if the algorithm notes them', async t => {
  const cases: [limit: Limit, used: number, counted: 'accept' | 'refuse', cost: number, expected: number[]][] = [
    [defineLimit('fixed-window', 10, 1000), 10, 'accept', 3, [13, 0]],
    [defineLimit('fixed-window', 10, 1000), 10, 'refuse', 3, [10, 1]],
    [defineLimit('sliding-window', 10, 1000), 10, 'refuse', 1, [10, 0]],
    [defineLimit('gcra', 10, 1000, { burst: 5 }), 0, 'accept', 2, [2000, 10]]
  ]
  for (const [limit, used, counted, cost, expected] of cases) {
    const rule = ruleOf(limit)
    const stored = rule.accept(undefined, startMs, limit, used)
    const state = rule[counted](stored, startMs, limit, cost)
    t.same(rule.encode(state, startMs).slice(0, 2), expected, `${limit.algorithm}: ${counted}`)
  }
})

function same (one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}
