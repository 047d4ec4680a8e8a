/** Queues for thousands of calls: a bounded number is under way, and the others wait in order. */
import { AsyncLocalStorage } from 'node:async_hooks'
import t from 'tap'
import { CallQueue, SingleCallQueue } from '../../lib/outage/call-queue.js'

const turn = async () => await new Promise(resolve => setImmediate(resolve))

/** A queue whose calls end when the test ends them. */
function setUp (inCall: number, atOnce: number) {
  const calls: {
    readonly items: readonly number[],
    readonly resolve: (answers: readonly string[]) => void,
    readonly reject: (error: Error) => void
  }[] = []
  const send = async (items: readonly number[]) =>
    await new Promise<readonly string[]>((resolve, reject) => calls.push({ items, resolve, reject }))
  const queue = new CallQueue({ send, inCall, atOnce })
  const end = async (i: number) => {
    calls[i]!.resolve(calls[i]!.items.map(item => `answer ${item}`))
    await turn()
  }
  return { queue, calls, end, sent: () => calls.map(({ items }) => items) }
}

t.test('sends the items of one turn after it, and waiting items share calls', async t => {
  const { queue, end, sent } = setUp(3, 2)
  const answers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(async item => await queue.ask(item))
  t.same(sent(), [])
  await turn()
  t.same(sent(), [[1, 2, 3], [4, 5, 6]])
  const later = queue.ask(11)
  await turn()
  t.equal(sent().length, 2, 'at most two calls under way')
  await end(1)
  t.same(sent().at(-1), [7, 8, 9])
  await end(0)
  t.same(sent().at(-1), [10, 11])
  for (const i of [2, 3]) await end(i)
  t.same(await Promise.all(answers), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(item => `answer ${item}`))
  t.equal(await later, 'answer 11')
  const last = queue.ask(12)
  await turn()
  await end(4)
  t.equal(await last, 'answer 12')
})

t.test('a call that fails fails the items in it, and no others', async t => {
  const { queue, calls, end } = setUp(2, 1)
  const results = Promise.allSettled([1, 2, 3, 4, 5].map(async item => await queue.ask(item)))
  await turn()
  await end(0)
  calls[1]!.reject(new Error('not today'))
  await turn()
  await end(2)
  const failed = { reason: { message: 'not today' } }
  t.match(await results, [{ value: 'answer 1' }, { value: 'answer 2' }, failed, failed, { value: 'answer 5' }])
})

t.test('emptying a queue fails the waiting items, and it accepts new ones', async t => {
  const { queue, end, sent } = setUp(1, 1)
  const first = queue.ask(1)
  await turn()
  const results = Promise.allSettled([2, 3].map(async item => await queue.ask(item)))
  queue.empty(new Error('gone'))
  const later = queue.ask(4)
  await end(0)
  await end(1)
  t.match(await results, [{ reason: { message: 'gone' } }, { reason: { message: 'gone' } }])
  t.same([await first, await later, sent()], ['answer 1', 'answer 4', [[1], [4]]])
})

t.test('callers and their calls keep their own asynchronous context', async t => {
  const storage = new AsyncLocalStorage<number>()
  const contexts: unknown[] = []
  const queue = new SingleCallQueue(1)
  const seen = await Promise.all([1, 2, 3].map(async item => await storage.run(item, async () => {
    await queue.ask(async () => { contexts.push(storage.getStore()) })
    return storage.getStore()
  })))
  t.same([seen, contexts], [[1, 2, 3], [1, 2, 3]])
  queue.empty(new Error('nobody waits'))
})
