/**
 * Several limits on one counter: routes of one group with a different `max` each, or a computed `max`. The hits that a
 * client made before must mean the same to each of these limits.
 */
import fc from 'fast-check'
import t from 'tap'
import { algorithms, ruleOf, type Algorithm } from '../../lib/rules/algorithms.js'
import { defineLimit, excesses, isChanged, type Limit } from '../../lib/rules/rate-limit.js'
import type { LimitState } from '../../lib/rules/rule.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

/** An accepted hit that was not refunded. */
interface Passed {
  readonly limit: Limit
  readonly cost: number
  readonly atMs: number
}

/** A counter as a store keeps it: its state is gone when it expires. */
class Counter {
  state: LimitState | undefined
  nowMs = 1_000_000
  #expiresAtMs = 0

  wait (ms: number): void {
    this.nowMs += ms
    if (this.nowMs >= this.#expiresAtMs) this.state = undefined
  }

  /** @returns the state after the hit; undefined: the hit was refused */
  hit (limit: Limit, cost = 1): LimitState | undefined {
    const outcome = ruleOf(limit).take(this.state, this.nowMs, limit, cost)
    if (isChanged(outcome)) this.#keep(outcome.state, limit)
    return outcome.fits ? outcome.state : undefined
  }

  refund (limit: Limit, cost: number, counted: LimitState): void {
    if (this.state !== undefined) this.#keep(ruleOf(limit).refund(this.state, limit, cost, counted), limit)
  }

  passed (limit: Limit, hits: number): number {
    return Array.from({ length: hits }, () => this.hit(limit)).filter(counted => counted !== undefined).length
  }

  #keep (state: LimitState, limit: Limit): void {
    this.state = state
    this.#expiresAtMs = ruleOf(limit).expiresAtMs(state, limit)
  }
}

/** Limits of one group: they have the same algorithm and window. */
function groups (algorithm: Algorithm): fc.Arbitrary<readonly Limit[]> {
  const window = fc.record({ windowMs: fc.integer({ min: 2, max: 2000 }), excess: fc.constantFrom(...excesses) })
  const limit = fc.record({ max: fc.integer({ min: 0, max: 40 }), burst: fc.double({ min: 0.1, max: 1, noNaN: true }) })
  const limits = fc.array(limit, { minLength: 2, maxLength: 4 })
  return fc.tuple(window, limits).map(([{ windowMs, excess }, list]) => list.map(({ max, burst }) =>
    defineLimit(algorithm, max, windowMs, { burst: algorithm === 'gcra' ? Math.ceil(max * burst) : max, excess })))
}

const steps = fc.array(fc.record({
  /** in windows */
  wait: fc.constantFrom(0, 0, 0.01, 0.02, 0.05, 0.1, 0.4, 1.1),
  route: fc.nat(),
  cost: fc.constantFrom(1, 1, 1, 2, 4),
  hits: fc.integer({ min: 1, max: 20 }),
  isHeld: fc.boolean(),
  givesBack: fc.boolean()
}), { minLength: 20, maxLength: 100 })

/** The largest total cost that passed in any window. */
function mostPerWindow (passed: readonly Passed[], windowMs: number): number {
  const costs = passed.map((first, i) => {
    const within = passed.slice(i).filter(({ atMs }) => atMs < first.atMs + windowMs)
    return within.reduce((sum, { cost }) => sum + cost, 0)
  })
  return Math.max(0, ...costs)
}

t.test('gcra: hits counted by one limit weigh no fraction more for another limit (SEED=12)', async t => {
  const [full, asking] = [defineLimit('gcra', 14, 1600, { burst: 9 }), defineLimit('gcra', 7, 1600, { burst: 2 })]
  const counter = new Counter()
  counter.passed(full, 9)
  const { retryAfterMs } = ruleOf(asking).explain(counter.state, counter.nowMs, asking)
  t.equal(retryAfterMs, 800)
  t.same([799, 800].map(ms => ruleOf(asking).take(counter.state, counter.nowMs + ms, asking, 1).fits), [false, true])
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: a limit of a group allows no more than alone, the group no more than its largest`, async t => {
    fc.assert(fc.property(groups(algorithm), steps, (limits, walked) => {
      const counter = new Counter()
      const passed: Passed[] = []
      let held: { readonly limit: Limit, readonly cost: number, readonly counted: LimitState }[] = []
      for (const { wait, route, cost, hits, isHeld, givesBack } of walked) {
        counter.wait(Math.ceil(wait * limits[0]!.windowMs))
        const limit = limits[route % limits.length]!
        for (let i = 0; i < hits; i++) {
          const counted = counter.hit(limit, cost)
          if (counted === undefined) continue
          if (isHeld && i % 3 === 0) held.push({ limit, cost, counted })
          else passed.push({ limit, cost, atMs: counter.nowMs })
        }
        if (!givesBack) continue
        for (const { limit, cost, counted } of held) counter.refund(limit, cost, counted)
        held = []
      }
      const { windowMs } = limits[0]!
      // Up to twice max passes around the end of a fixed window, while a sliding window fades, and above a full bucket.
      for (const limit of limits) {
        const ofLimit = passed.filter(other => other.limit === limit)
        if (mostPerWindow(ofLimit, windowMs) > 2 * limit.max) return false
      }
      return mostPerWindow(passed, windowMs) <= 2 * Math.max(...limits.map(({ max }) => max))
    }), { seed, numRuns: 1000 })
  })

  t.test(`${algorithm}: retry-after is exact whichever limit counted before`, async t => {
    fc.assert(fc.property(groups(algorithm), steps, fc.nat(), (limits, walked, asking) => {
      const counter = new Counter()
      for (const { wait, route, cost, hits } of walked) {
        counter.wait(Math.ceil(wait * limits[0]!.windowMs))
        for (let i = 0; i < hits; i++) counter.hit(limits[route % limits.length]!, cost)
      }
      const limit = limits[asking % limits.length]!
      if (limit.burst < 1 || limit.max < 1) return true
      const { retryAfterMs } = ruleOf(limit).explain(counter.state, counter.nowMs, limit)
      const fitsAfter = (ms: number) => ruleOf(limit).take(counter.state, counter.nowMs + ms, limit, 1).fits
      return fitsAfter(retryAfterMs) && (retryAfterMs === 0 || !fitsAfter(retryAfterMs - 1))
    }), { seed, numRuns: 1000 })
  })

  t.test(`${algorithm}: two limits with the same max count like one limit`, async t => {
    const limit = defineLimit(algorithm, 7, 1000)
    const twin = defineLimit(algorithm, 7, 1000)
    fc.assert(fc.property(steps, walked => {
      const [one, two] = [new Counter(), new Counter()]
      for (const { wait, route, cost, hits } of walked) {
        for (const counter of [one, two]) counter.wait(Math.ceil(wait * limit.windowMs))
        for (let i = 0; i < hits; i++) {
          one.hit(limit, cost)
          two.hit(route % 2 === 0 ? limit : twin, cost)
        }
      }
      return JSON.stringify(one.state) === JSON.stringify(two.state)
    }), { seed, numRuns: 200 })
  })
}

t.test('gcra: a route with a large max does not drain the bucket of one with a small max', async t => {
  const login = defineLimit('gcra', 5, 60_000)
  const search = defineLimit('gcra', 1000, 60_000)
  const counter = new Counter()
  let logins = 0
  for (let i = 0; i < 80; i++) {
    logins += counter.passed(login, 1)
    counter.hit(search)
    counter.wait(100)
  }
  t.ok(logins <= 5, `${logins} logins in 8 s at 5 a minute`)
})

t.test('gcra: a request fills the bucket by the share that its own limit gives it', async t => {
  const login = defineLimit('gcra', 5, 60_000)
  const search = defineLimit('gcra', 1000, 60_000)
  const counter = new Counter()
  t.equal(counter.passed(search, 200), 200)
  // A fifth of the bucket is used.
  t.equal(counter.passed(login, 10), 4)
  t.equal(counter.passed(search, 10), 0)
  counter.wait(60)
  t.equal(counter.passed(search, 10), 1, 'one of 1000 a minute has drained')
  counter.wait(12_000)
  t.equal(counter.passed(login, 10), 1, 'and one of 5 a minute')
})

t.test('gcra: a raised or lowered limit keeps the fill level of the bucket and the time it is empty', async t => {
  const small = defineLimit('gcra', 10, 60_000)
  const large = defineLimit('gcra', 1000, 60_000)
  for (const [before, after] of [[small, large], [large, small]] as const) {
    const counter = new Counter()
    counter.passed(before, before.max)
    const { remaining, resetMs, retryAfterMs } = ruleOf(after).explain(counter.state, counter.nowMs, after)
    t.same({ remaining, resetMs, retryAfterMs }, { remaining: 0, resetMs: 60_000, retryAfterMs: 60_000 / after.max })
    counter.wait(30_000)
    t.equal(counter.passed(after, 2000), after.max / 2)
  }
})

t.test('gcra: limits that are far apart still give whole numbers that Redis can store', async t => {
  const slow = defineLimit('gcra', 1, 86_400_000 * 365, { burst: 50_000 })
  const fast = defineLimit('gcra', 2e6, 1000)
  const counter = new Counter()
  counter.passed(slow, 50_000)
  t.equal(counter.passed(fast, 1), 0)
  const { retryAfterMs, resetMs, remaining } = ruleOf(fast).explain(counter.state, counter.nowMs, fast)
  for (const number of [retryAfterMs, resetMs, remaining]) {
    t.ok(Number.isSafeInteger(number) && number >= 0, String(number))
  }
})

t.test('gcra: a limit of max 0 in the group neither drains nor fills the bucket', async t => {
  const none = defineLimit('gcra', 0, 1000, { burst: 0 })
  const some = defineLimit('gcra', 4, 1000)
  const counter = new Counter()
  counter.passed(some, 4)
  t.equal(counter.passed(none, 10), 0)
  t.equal(counter.passed(some, 1), 0)
  counter.wait(250)
  t.equal(counter.passed(none, 10), 0)
  t.equal(counter.passed(some, 4), 1)
})

t.test('fixed-window: hits above a smaller max are no refusals of it, and a refund returns none of them', async t => {
  const small = defineLimit('fixed-window', 100, 600_000)
  const large = defineLimit('fixed-window', 500, 600_000)
  const counter = new Counter()
  const counted = counter.hit(small)!
  t.equal(counter.passed(large, 299), 299)
  t.equal(ruleOf(small).explain(counter.state, counter.nowMs, small).refusals, 0, 'nothing was refused')
  counter.refund(small, 1, counted)
  t.equal(counter.passed(small, 100), 0)
  t.equal(ruleOf(small).explain(counter.state, counter.nowMs, small).refusals, 100)
  t.equal(counter.passed(large, 500), 201)
})

t.test('fixed-window: a raised limit frees a client that kept asking; a lowered limit refuses at once', async t => {
  const small = defineLimit('fixed-window', 3, 60_000)
  const counter = new Counter()
  t.equal(counter.passed(small, 33), 3)
  t.equal(counter.passed(defineLimit('fixed-window', 20, 60_000), 33), 17)
  t.equal(counter.passed(defineLimit('fixed-window', 10, 60_000), 1), 0)
  t.equal(ruleOf(small).explain(counter.state, counter.nowMs, small).refusals, 30 + 16 + 1)
})
