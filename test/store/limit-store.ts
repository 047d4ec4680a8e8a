/** The contract of a limit store, which every implementation passes. */
import { AsyncLocalStorage } from 'node:async_hooks'
import type { Test } from 'tap'
import { algorithms, ruleOf } from '../../lib/rules/algorithms.js'
import { defineLimit, type Limit } from '../../lib/rules/rate-limit.js'
import type { LimitStore } from '../../lib/store/limit-store.js'
import { type Asked, hitOf, takeAllOf, takeOf } from '../support/take.js'
import { until } from '../../tools/until.js'
import type { Make } from './stores.js'

/** @param make  makes an empty store */
export function limitStoreContract (t: Test, make: Make): void {
  const hit = (clientKey: string, name: string, limit: Limit, cost = 1): Asked =>
    ({ clientKey, checks: [{ name, limit, cost }] })
  const fixed = (max: number, windowMs: number) => defineLimit('fixed-window', max, windowMs)
  /** Takes the hits, and says which were accepted. */
  const passed = async (limits: LimitStore, ...hits: readonly Asked[]) =>
    (await takeAllOf(limits, hits)).map(({ accepted }) => accepted)

  for (const algorithm of algorithms) {
    t.test(`${algorithm}: accepts max hits per window`, async t => {
      const { limits, wait } = await make(t)
      const one = hit('client', 'limit', defineLimit(algorithm, 3, 60_000))
      t.same(await passed(limits, one, one), [true, true])
      t.same(await passed(limits, one, one, one), [true, false, false])
      await wait(2 * 60_000 + 5)
      t.same(await passed(limits, one, one, one, one), [true, true, true, false])
    })
  }

  t.test('keeps clients, limits and algorithms apart, even if their names contain separators', async t => {
    const { limits } = await make(t)
    const pairs = [
      ['a', 'b'], ['a:b', 'c'], ['a', 'b:c'], ['a}', 'b'], ['a', '}b'], ['', 'a'], ['a', ''], ['a\nb', 'c'],
      ['a b', 'c'], ['a%0020b', 'c'], ['x'.repeat(300), 'c'], ['x'.repeat(301), 'c'], ['%empty', 'a']
    ] as const
    const hits = pairs.map(([key, name]) => hit(key, name, fixed(1, 10_000)))
    for (const one of hits) t.same(await passed(limits, one), [true], JSON.stringify(one.clientKey))
    for (const one of hits) t.same(await passed(limits, one), [false], JSON.stringify(one.clientKey))
    t.same(await passed(limits, hit('a', 'b', defineLimit('gcra', 1, 10_000))), [true])
  })

  t.test('counts a hit in all of its limits or in none', async t => {
    const { limits } = await make(t)
    const burst = { name: 'burst', limit: defineLimit('sliding-window', 2, 10_000), cost: 1 }
    const daily = { name: 'daily', limit: defineLimit('gcra', 5, 60_000), cost: 1 }
    const both = { clientKey: 'client', checks: [burst, daily] }
    const taken = await takeAllOf(limits, [both, both, both])
    t.same(taken.map(({ accepted }) => accepted), [true, true, false])
    t.same(taken[2]?.outcomes.map(({ fits }) => fits), [false, true])
    // The third hit is not counted in `daily`.
    const ofDaily = { clientKey: 'client', checks: [daily] }
    t.same(await passed(limits, ofDaily, ofDaily, ofDaily, ofDaily), [true, true, true, false])
  })

  t.test('answers a hit once: by the return value, or later by callback in the context of its call', async t => {
    const { limits } = await make(t)
    const requests = new AsyncLocalStorage<number>()
    const answers: (readonly [hit: number, context: number | undefined])[] = []
    const returned = Array.from({ length: 40 }, (_, i) => requests.run(i, () => {
      let isReturned = false
      const answer = limits.take(hitOf(hit(`client${i}`, 'limit', fixed(3, 60_000)), () => {
        t.equal(isReturned, true, 'never before `take` has returned')
        answers.push([i, requests.getStore()])
      }))
      isReturned = true
      return answer
    }))
    const isLater = returned.every(answer => answer === undefined)
    if (isLater) await until(() => answers.length === returned.length)
    else t.ok(returned.every(answer => answer?.kind === 'taken'))
    // A hit sent later is answered after all hits before it.
    await passed(limits, hit('last', 'limit', fixed(3, 60_000)))
    t.same(answers, isLater ? returned.map((_, i) => [i, i]) : [])
  })

  t.test('accepts or refuses a cost as a whole', async t => {
    const { limits } = await make(t)
    const costs = [4, 7, 6, 1]
    const hits = costs.map(cost => hit('client', 'limit', fixed(10, 10_000), cost))
    t.same(await passed(limits, ...hits), [true, false, true, false])
  })

  t.test('accepts a cost of 0, and leaves no trace of it', async t => {
    const { limits } = await make(t)
    for (const algorithm of algorithms) {
      const of = (cost: number) => hit('client', 'limit', defineLimit(algorithm, 3, 10_000), cost)
      t.same(await passed(limits, of(0), of(3), of(1), of(0), of(0)), [true, true, false, true, true], algorithm)
      await takeOf(limits, { ...of(0), clientKey: 'other' })
      const untouched = [{ fits: true, explanation: { remaining: 3, resetMs: 0 } }]
      t.match(await limits.peek('other', of(1).checks), untouched, algorithm)
      t.equal(await limits.forget('other', of(0).checks), false, algorithm)
    }
  })

  t.test('says when it decided, on its own clock', async t => {
    const { limits, now } = await make(t)
    const before = await now()
    const limit = fixed(1, 1000)
    const { nowMs, outcomes: [outcome] } = await takeOf(limits, hit('client', 'limit', limit))
    t.ok(nowMs >= before && nowMs <= await now(), `${before} <= ${nowMs}`)
    t.match(outcome, { fits: true, explanation: { remaining: 0, resetMs: 1000, retryAfterMs: 1000, refusals: 0 } })
    t.equal(ruleOf(limit).explain(outcome?.state, nowMs, limit, 1).resetMs, 1000)
  })

  t.test('peek shows the counters of a client; forget removes those of the named limits', async t => {
    const { limits } = await make(t)
    for (const algorithm of algorithms) {
      const limit = defineLimit(algorithm, 3, 60_000)
      const [one, other] = [hit('client', 'one', limit, 2), hit('client', 'other', limit)]
      t.same(await passed(limits, one, other), [true, true])
      const left = async () => {
        const peeked = await limits.peek('client', [...one.checks, ...other.checks])
        return peeked.map(({ explanation }) => explanation.remaining)
      }
      t.same([await left(), await left()], [[1, 2], [1, 2]], `${algorithm}: peek counts nothing`)
      t.equal(await limits.forget('client', one.checks), true)
      t.equal(await limits.forget('client', one.checks), false)
      t.same(await left(), [3, 2], algorithm)
      t.equal(await limits.forget('client', other.checks), true)
    }
  })
}
