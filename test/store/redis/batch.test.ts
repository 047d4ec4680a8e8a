/** Batches: the hits of one turn of the event loop share a call to Redis. */
import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import { Batch, mostChecks } from '../../../lib/store/redis/batch.js'
import { defineLimit } from '../../../lib/rules/rate-limit.js'
import type { Answer, Hit, Taken } from '../../../lib/store/limit-store.js'
import { hitOf } from '../../support/take.js'

const limit = defineLimit('fixed-window', 10, 1000)

function hit (key: string, checks = 1, answered?: (answer: Answer) => void): Hit {
  const all = Array.from({ length: checks }, (_, i) => ({ name: `limit${i}`, limit, cost: 1 }))
  return hitOf({ clientKey: key, checks: all }, answered)
}

/** Numbers the hits of a call: `nowMs` of the nth answer is n. */
async function inOrder (hits: readonly Hit[]): Promise<readonly Taken[]> {
  return hits.map((_, i) => ({ kind: 'taken', source: 'redis', accepted: true, nowMs: i, outcomes: [] }))
}

t.test('sends the hits of one turn as one call, and answers them in order', async t => {
  const calls: string[][] = []
  const batch = new Batch(async hits => {
    calls.push(hits.map(({ clientKey: key }) => key))
    return await inOrder(hits)
  })
  const answers: unknown[] = []
  for (const key of ['a', 'b', 'a']) {
    batch.add(hit(key, 1, answer => answers.push([key, 'nowMs' in answer && answer.nowMs])))
  }
  t.same(calls, [], 'nothing is sent before the turn is over')
  await setImmediate()
  batch.add(hit('c'))
  await setImmediate()
  t.same(calls, [['a', 'b', 'a'], ['c']])
  t.same(answers, [['a', 0], ['b', 1], ['a', 2]])
})

t.test('a call holds a bounded number of checks, and the next call does not wait for it', async t => {
  const sizes: number[] = []
  const batch = new Batch(async hits => {
    sizes.push(hits.reduce((sum, { checks }) => sum + checks.length, 0))
    return await new Promise(() => {})
  })
  for (let i = 0; i < mostChecks; i++) batch.add(hit('a', 3))
  batch.add(hit('b', mostChecks + 1))
  await setImmediate()
  const perCall = 3 * Math.floor(mostChecks / 3)
  t.same(sizes.slice(0, 3), [perCall, perCall, perCall])
  t.equal(sizes.at(-1), mostChecks + 1, 'a hit with more checks is sent alone')
  t.equal(sizes.reduce((sum, size) => sum + size), 4 * mostChecks + 1)
})

t.test('sends a full call during the turn, and the rest after it', async t => {
  const sizes: number[] = []
  const batch = new Batch(async hits => {
    sizes.push(hits.length)
    return await inOrder(hits)
  })
  for (let i = 0; i < mostChecks + 1; i++) batch.add(hit('a'))
  t.same(sizes, [mostChecks])
  await setImmediate()
  t.same(sizes, [mostChecks, 1])
})

t.test('a failed call fails each of its hits', async t => {
  const failed = { kind: 'unanswered', failure: new Error('gone'), sentIn: undefined } as const
  const batch = new Batch(async () => failed)
  const answers: unknown[] = []
  for (const key of ['a', 'b']) batch.add(hit(key, 1, answer => answers.push(answer)))
  await setImmediate()
  await setImmediate()
  t.same(answers, [failed, failed])
})

t.test('a callback that throws does not keep the others from their answers', async t => {
  const caught = new Promise(resolve => process.once('uncaughtException', resolve))
  const batch = new Batch(inOrder)
  const answered: string[] = []
  batch.add(hit('a', 1, () => { throw new Error('thrown by a callback') }))
  batch.add(hit('b', 1, () => answered.push('b')))
  t.match(await caught, { message: 'thrown by a callback' })
  t.same(answered, ['b'])
})
