/** The rules of each algorithm alone, on a clock that the test sets. */
import fc from 'fast-check'
import t from 'tap'
import { windowOf } from '../../lib/rules/fixed-window.js'
import { algorithms, ruleOf, type Algorithm } from '../../lib/rules/algorithms.js'
import { defineLimit, excesses, isChanged, longestWindowMs, takeAll, type Limit } from '../../lib/rules/rate-limit.js'
import type { Encoded, LimitState } from '../../lib/rules/rule.js'
import { randomFrom } from '../support/random.js'
import { numbersOf, stateOf } from '../support/states.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

const limits = (algorithm: Algorithm) => fc.record({
  max: fc.integer({ min: 1, max: 50 }),
  windowMs: fc.integer({ min: 1, max: 5000 }),
  burst: fc.integer({ min: 1, max: 60 })
}).map(({ max, windowMs, burst }) => {
  return defineLimit(algorithm, max, windowMs, { burst: algorithm === 'gcra' ? burst : max })
})

const steps = fc.array(fc.record({
  waitMs: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 6000 })),
  cost: fc.integer({ min: 1, max: 4 })
}), { maxLength: 60 })

const most = (limit: Limit) => limit.algorithm === 'gcra' ? limit.burst : limit.max

/** Applies the hits as a store would: the state is gone at `expiresAtMs`. */
function walk (limit: Limit, walked: readonly { waitMs: number, cost: number }[]) {
  let nowMs = 1_000_000
  let state: LimitState | undefined
  for (const { waitMs, cost } of walked) {
    nowMs += waitMs
    if (state !== undefined && nowMs >= ruleOf(limit).expiresAtMs(state, limit)) state = undefined
    const outcome = ruleOf(limit).take(state, nowMs, limit, Math.min(cost, most(limit)))
    if (isChanged(outcome)) state = outcome.state
  }
  return { state, nowMs }
}

for (const algorithm of algorithms) {
  t.test(algorithm, async t => {
    t.test('refuses at every moment before retry-after, and accepts at retry-after', async t => {
      fc.assert(fc.property(limits(algorithm), steps, fc.integer({ min: 1, max: 4 }), (limit, walked, wanted) => {
        const { state, nowMs } = walk(limit, walked)
        const cost = Math.min(wanted, most(limit))
        const { retryAfterMs } = ruleOf(limit).explain(state, nowMs, limit, cost)
        for (let waitedMs = 0; waitedMs < retryAfterMs; waitedMs += Math.max(1, Math.floor(retryAfterMs / 200))) {
          if (ruleOf(limit).take(state, nowMs + waitedMs, limit, cost).fits) return false
        }
        if (retryAfterMs > 0 && ruleOf(limit).take(state, nowMs + retryAfterMs - 1, limit, cost).fits) return false
        return ruleOf(limit).take(state, nowMs + retryAfterMs, limit, cost).fits
      }), { seed, numRuns: 3000 })
    })

    t.test('accepts exactly `remaining` more hits at once', async t => {
      fc.assert(fc.property(limits(algorithm), steps, (limit, walked) => {
        const { state: before, nowMs } = walk(limit, walked)
        const { remaining } = ruleOf(limit).explain(before, nowMs, limit)
        let state = before
        for (let i = 0; i < remaining; i++) {
          const outcome = ruleOf(limit).take(state, nowMs, limit, 1)
          if (!outcome.fits) return false
          state = outcome.state
        }
        return !ruleOf(limit).take(state, nowMs, limit, 1).fits
      }), { seed })
    })

    t.test('has its whole quota again at reset', async t => {
      fc.assert(fc.property(limits(algorithm), steps, (limit, walked) => {
        const { state, nowMs } = walk(limit, walked)
        const { resetMs } = ruleOf(limit).explain(state, nowMs, limit)
        return ruleOf(limit).explain(state, nowMs + resetMs, limit).remaining === most(limit)
      }), { seed })
    })

    t.test('explains an expired state like no state', async t => {
      fc.assert(fc.property(limits(algorithm), steps, (limit, walked) => {
        const { state, nowMs } = walk(limit, walked)
        if (state === undefined) return true
        const later = Math.max(nowMs, ruleOf(limit).expiresAtMs(state, limit))
        t.same(ruleOf(limit).explain(state, later, limit), ruleOf(limit).explain(undefined, later, limit))
        return true
      }), { seed, numRuns: 300 })
    })

    t.test('a clock that steps back locks a client out no longer than a quota used up at that moment', async t => {
      const backwards = fc.integer({ min: 1, max: 10_000_000 })
      fc.assert(fc.property(limits(algorithm), steps, backwards, (limit, walked, backMs) => {
        const { state: before, nowMs } = walk(limit, walked)
        const steppedTo = nowMs - backMs
        const outcome = ruleOf(limit).take(before, steppedTo, limit, 1)
        if (outcome.fits) return true
        const state = isChanged(outcome) ? outcome.state : before
        const full = ruleOf(limit).take(undefined, steppedTo, limit, most(limit)).state
        const { retryAfterMs } = ruleOf(limit).explain(state, steppedTo, limit)
        return retryAfterMs <= ruleOf(limit).explain(full, steppedTo, limit).retryAfterMs &&
          ruleOf(limit).take(state, steppedTo + retryAfterMs, limit, 1).fits
      }), { seed, numRuns: 2000 })
    })

    t.test('a refusal after the clock stepped back is stored, so the wait does not start again', async t => {
      const limit = defineLimit(algorithm, 1, 1000)
      const full = ruleOf(limit).take(undefined, 1_000_000, limit, 1).state
      const refused = ruleOf(limit).take(full, 500_000, limit, 1)
      t.same({ fits: refused.fits, changed: isChanged(refused) }, { fits: false, changed: true })
      const waitMs = ruleOf(limit).explain(refused.state, 500_000, limit).retryAfterMs
      t.notOk(ruleOf(limit).take(refused.state, 500_000 + waitMs - 1, limit, 1).fits)
      t.ok(ruleOf(limit).take(refused.state, 500_000 + waitMs, limit, 1).fits)
    })

    t.test('max 0 refuses every hit, and retry-after is at least the window', async t => {
      const limit = defineLimit(algorithm, 0, 1000)
      const { fits, state } = ruleOf(limit).take(undefined, 5000, limit, 1)
      t.notOk(fits)
      t.match(ruleOf(limit).explain(state, 5000, limit), { remaining: 0 })
      t.ok(ruleOf(limit).explain(state, 5000, limit).retryAfterMs >= 1000)
    })

    t.test('accepts a cheaper hit after refusing a more expensive one', async t => {
      const limit = defineLimit(algorithm, 10, 1000)
      const { state } = ruleOf(limit).take(undefined, 5000, limit, 8)
      const refused = ruleOf(limit).take(state, 5000, limit, 3)
      t.notOk(refused.fits)
      t.ok(ruleOf(limit).take(refused.state, 5000, limit, 2).fits)
    })
  })
}

t.test('fixed-window', async t => {
  t.test('counts refusals once the window is used up', async t => {
    const limit = defineLimit('fixed-window', 2, 1000)
    let state: LimitState | undefined
    for (let i = 0; i < 5; i++) state = ruleOf(limit).take(state, 1000 + i, limit, 1).state
    t.same(state, windowOf(2, 3, 2000))
  })

  t.test('a window that was shortened since ends no later than a new one', async t => {
    const [long, short] = [defineLimit('fixed-window', 1, 60_000), defineLimit('fixed-window', 1, 1000)]
    const { state } = ruleOf(long).take(undefined, 0, long, 1)
    t.equal(ruleOf(short).explain(state, 10, short).retryAfterMs, 1000)
  })

  t.test('a backoff doubles up to its cap', async t => {
    const limit = defineLimit('fixed-window', 1, 1000, { excess: 'backoff', maxBackoffMs: 10_000 })
    let state = ruleOf(limit).take(undefined, 0, limit, 1).state
    const lengths: number[] = []
    for (let i = 0; i < 200; i++) {
      state = ruleOf(limit).take(state, 100, limit, 1).state
      lengths.push(ruleOf(limit).expiresAtMs(state, limit) - 100)
    }
    t.same(lengths.slice(0, 6), [1000, 2000, 4000, 8000, 10_000, 10_000])
    t.ok(lengths.slice(4).every(length => length === 10_000))
    t.equal(ruleOf(limit).explain(state, 100, limit).retryAfterMs, 10_000)
    t.equal(ruleOf(limit).expiresAtMs(state, limit), 10_100)
  })

  t.test('a backoff is capped at a day by default, or at its window if that is longer', async t => {
    const lengthAfter = (limit: Limit) =>
      ruleOf(limit).expiresAtMs(ruleOf(limit).take(windowOf(1, 2000, 10), 0, limit, 1).state, limit)
    t.equal(lengthAfter(defineLimit('fixed-window', 1, 60_000, { excess: 'backoff' })), 86_400_000)
    t.equal(lengthAfter(defineLimit('fixed-window', 1, 90_000_000, { excess: 'backoff' })), 90_000_000)
    t.equal(lengthAfter(defineLimit('fixed-window', 1, 60_000, { excess: 'backoff', maxBackoffMs: 1000 })), 60_000)
    t.equal(lengthAfter(defineLimit('fixed-window', 1, 60_000, { excess: 'restart', maxBackoffMs: 90_000 })), 60_000)
  })

  t.test('a window that ends beyond the backoff cap is shortened to the cap, by accepted and refused hits', async t => {
    const limit = defineLimit('fixed-window', 2, 1000, { excess: 'backoff', maxBackoffMs: 10_000 })
    for (const used of [1, 2]) {
      const outcome = ruleOf(limit).take(windowOf(used, 40, 2 ** 40), 500, limit, 1)
      t.equal(outcome.fits, used === 1)
      t.ok(isChanged(outcome))
      t.equal(ruleOf(limit).expiresAtMs(outcome.state, limit), 10_500)
    }
    t.equal(ruleOf(limit).explain(windowOf(2, 40, 2 ** 40), 500, limit).retryAfterMs, 10_000)
  })
})

t.test('sliding-window allows no more than max in any window, apart from the error of fading', async t => {
  const limit = defineLimit('sliding-window', 10, 1000)
  let state: LimitState | undefined
  let passed = 0
  // All hits of one window come at its end, then as many as fit at the start of the next.
  for (const nowMs of [0, ...Array<number>(20).fill(999), ...Array<number>(20).fill(1001)]) {
    const outcome = ruleOf(limit).take(state, nowMs, limit, 1)
    if (isChanged(outcome)) state = outcome.state
    if (outcome.fits) passed++
  }
  t.equal(passed, 10)
})

t.test('gcra', async t => {
  t.test('paces a client that has used its burst', async t => {
    const limit = defineLimit('gcra', 10, 1000, { burst: 2 })
    let state: LimitState | undefined
    const passedAt: number[] = []
    for (let nowMs = 0; nowMs <= 500; nowMs += 10) {
      const outcome = ruleOf(limit).take(state, nowMs, limit, 1)
      if (!outcome.fits) continue
      state = outcome.state
      passedAt.push(nowMs)
    }
    t.same(passedAt, [0, 10, 100, 200, 300, 400, 500])
  })

  t.test('with max 0 nothing drains; the burst is free again a window after its last use', async t => {
    const limit = defineLimit('gcra', 0, 1000, { burst: 2 })
    const first = ruleOf(limit).take(undefined, 0, limit, 1)
    const second = ruleOf(limit).take(first.state, 600, limit, 1)
    t.same([first.fits, second.fits], [true, true])
    t.same(ruleOf(limit).explain(second.state, 700, limit), {
      remaining: 0,
      resetMs: 1000,
      retryAfterMs: 1000,
      refusals: 0
    })
    t.same([600, 1599, 1600].map(nowMs => ruleOf(limit).take(second.state, nowMs, limit, 1).fits), [false, false, true])
    t.equal(ruleOf(limit).expiresAtMs(second.state, limit), 1600)
  })

  t.test('a lowered limit locks a client out no longer than its own full bucket', async t => {
    const [high, low] = [defineLimit('gcra', 1000, 60_000), defineLimit('gcra', 10, 60_000)]
    const { state } = ruleOf(high).take(undefined, 0, high, 1000)
    t.ok(ruleOf(low).explain(state, 0, low).retryAfterMs <= 60_000)
  })
})

t.test('several limits', async t => {
  const perSecond = { limit: defineLimit('sliding-window', 2, 1000), cost: 1 }
  const perHour = { limit: defineLimit('fixed-window', 3, 3_600_000), cost: 1 }

  t.test('count a hit only if it fits all of them', async t => {
    let states: (LimitState | undefined)[] = [undefined, undefined]
    const passed: boolean[] = []
    for (let i = 0; i < 4; i++) {
      const { accepted, judged } = takeAll([perSecond, perHour].map((check, i) => ({ check, state: states[i] })), 1000)
      passed.push(accepted)
      states = judged.map(({ outcome }) => outcome.state)
    }
    t.same(passed, [true, true, false, false])
    t.same(states, [stateOf(perSecond.limit, 2, 0, 1000), windowOf(2, 0, 3_601_000)])
  })

  t.test('only the limit that the hit does not fit counts a refusal', async t => {
    const full = windowOf(3, 0, 9999)
    const { judged } = takeAll([{ check: perSecond, state: undefined }, { check: perHour, state: full }], 1000)
    t.same(judged.map(({ outcome }) => ({ fits: outcome.fits, changed: isChanged(outcome) })), [
      { fits: true, changed: false },
      { fits: false, changed: true }
    ])
  })
})

t.test('defineLimit rejects values that cannot be counted exactly', async t => {
  const wrong: [Parameters<typeof defineLimit>, RegExp][] = [
    [['fixed-window', -1, 1000], /max must be a whole number >= 0, or Infinity, got -1/],
    [['fixed-window', NaN, 1000], /max .* got NaN/],
    [['fixed-window', 1.5, 1000], /max .* got 1.5/],
    [['fixed-window', '5' as unknown as number, 1000], /max .* got "5"/],
    [['gcra', 1, 1000, { burst: -1 }], /burst must be/],
    [['gcra', 1, 1000, { burst: Infinity }], /burst must be/],
    [['gcra', -Infinity, 1000], /max must be/],
    [['gcra', Infinity, Infinity], /timeWindow must be/],
    [['fixed-window', 1, 0], /timeWindow must be/],
    [['fixed-window', 1, 0.5], /timeWindow must be/],
    [['fixed-window', 1, longestWindowMs + 1], /timeWindow must be/],
    [['sliding-window', 1e9, 86_400_000], /below 2\^51/],
    [['gcra', 1, 86_400_000, { burst: 1e9 }], /below 2\^51/]
  ]
  for (const [args, message] of wrong) t.throws(() => defineLimit(...args), { code: 'GUARD_ERR_LIMIT', message })
  t.equal(defineLimit('fixed-window', 1e9, 86_400_000).burst, 1e9)
})

t.test('a refund applies to the window that counted the hit, and to no later one', async t => {
  const fixed = defineLimit('fixed-window', 5, 1000)
  const restarted = defineLimit('fixed-window', 5, 1000, { excess: 'restart' })
  const doubled = defineLimit('fixed-window', 5, 1000, { excess: 'backoff' })
  const sliding = defineLimit('sliding-window', 5, 1000)
  const bucket = defineLimit('gcra', 5, 1000)
  /** @param expected  undefined: the stored state stays */
  type Row = [
    what: string, limit: Limit, stored: Encoded, cost: number, counted: Encoded, expected: Encoded | undefined
  ]
  const rows: Row[] = [
    ['on another clock', fixed, [3, 0, 5000], 2, [3, 0, 5001], [1, 0, 5000]],
    ['never below 0', fixed, [3, 0, 5000], 9, [3, 0, 5000], [0, 0, 5000]],
    ['of a window that is over', fixed, [3, 0, 5000], 2, [3, 0, 4000], undefined],
    ['refusals stay, and take nothing', fixed, [5, 4, 5000], 2, [3, 0, 5000], [3, 4, 5000]],
    ...[restarted, doubled].flatMap((limit): Row[] => [
      [`${limit.excess}: nothing was refused`, limit, [3, 0, 5000], 2, [3, 0, 5000], [1, 0, 5000]],
      [`${limit.excess}: of a window that is over`, limit, [3, 0, 5000], 2, [3, 0, 4000], undefined],
      [`${limit.excess}: refusals lock the window`, limit, [5, 1, 5000], 2, [3, 0, 5000], undefined]
    ]),
    ['of the window that fades', sliding, [3, 4, 5000], 1, [3, 0, 4000], [3, 3, 5000]],
    ['of the current window', sliding, [3, 4, 5000], 1, [3, 0, 5000], [2, 4, 5000]],
    ['of a window before both', sliding, [3, 0, 5000], 1, [3, 0, 3000], undefined],
    ['nothing has drained', bucket, [2500, 5, 5000], 1, [2500, 5, 5000], [1500, 5, 5000]],
    ['of 1200, 500 have drained', bucket, [2500, 5, 5000], 1, [1200, 5, 4900], [1800, 5, 5000]],
    ['all has drained', bucket, [2500, 5, 5000], 1, [1000, 5, 4700], [2500, 5, 5000]],
    ['never below an empty bucket', bucket, [500, 5, 5000], 1, [1000, 5, 9000], [0, 5, 5000]],
    ['the limit is 10 per window since', bucket, [2500, 10, 5000], 1, [1250, 5, 5000], [500, 10, 5000]]
  ]
  for (const [what, limit, numbers, cost, counted, expected] of rows) {
    const stored = stateOf(limit, ...numbers)
    const state = ruleOf(limit).refund(stored, limit, cost, stateOf(limit, ...counted))
    const name = `${limit.algorithm}: ${what}`
    if (expected === undefined) t.equal(state, stored, name)
    else t.same(numbersOf(limit, state), expected, name)
  }
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: late refunds let at most twice max pass in a window (SEED=${seed})`, async t => {
    const random = randomFrom(seed)
    for (const excess of algorithm === 'fixed-window' ? excesses : ['none'] as const) {
      for (const windowMs of [2, 50, 1000, 10_000]) {
        const limit = defineLimit(algorithm, 10, windowMs, { excess })
        let state: LimitState | undefined
        let open: { readonly counted: LimitState }[] = []
        const passed: number[] = []
        for (let nowMs = 1e6; nowMs < 1e6 + 20 * windowMs; nowMs += random.whole(0, Math.ceil(windowMs / 10))) {
          const isOpen = random.chance(0.4)
          const outcome = ruleOf(limit).take(state, nowMs, limit, 1)
          state = outcome.state
          if (outcome.fits && isOpen) open.push({ counted: outcome.state })
          else if (outcome.fits) passed.push(nowMs)
          if (random.chance(0.1)) {
            for (const { counted } of open) {
              if (ruleOf(limit).expiresAtMs(state, limit) > nowMs) {
                state = ruleOf(limit).refund(state, limit, 1, counted)
              }
            }
            open = []
          }
        }
        const most = Math.max(...passed.map((from, i) => passed.slice(i).filter(at => at < from + windowMs).length))
        t.ok(most <= 20, `${most} per ${windowMs} ms`)
        // The other two lock out a client that keeps sending hits.
        t.ok(passed.length > (excess === 'none' ? 10 : 0))
      }
    }
  })
}
