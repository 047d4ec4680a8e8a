/** A command that fails because of a foreign value: the key is deleted, and the command runs once more. */
import t from 'tap'
import { StoreUnavailableError, ValueError } from '../../../lib/errors.js'
import type { GuardedRedis } from '../../../lib/redis/breaker.js'
import { type ForeignFate, RepairingRedis } from '../../../lib/store/redis/foreign-values.js'

const types = { 'guard:{events}': 'stream', 'guard:{events}:suspects': 'zset' } as const

/** Keys on a Redis that answers three times: to the command, to the deletion, and to the second run. */
function repairing (answers: readonly unknown[]): { redis: RepairingRedis, found: [string, ForeignFate][] } {
  const left = [...answers]
  const found: [string, ForeignFate][] = []
  const run = async () => {
    const answer = left.shift()
    if (answer instanceof Error) throw answer
    return answer
  }
  const guarded = { run } as unknown as GuardedRedis
  return { redis: new RepairingRedis(guarded, types, (key, fate) => found.push([key, fate])), found }
}

const foreign = new ValueError('WRONGTYPE Operation against a key holding the wrong kind of value')

t.test('runs a command again after deleting the foreign value', async t => {
  const { redis, found } = repairing([foreign, [false, true], 'done'])
  t.equal(await redis.run(async () => 'done'), 'done')
  t.same(found, [['guard:{events}:suspects', 'deleted']])
  t.equal(redis.deletions, 1)
})

t.test('a foreign value that another program writes again at once is a rejection by Redis', async t => {
  const { redis } = repairing([foreign, [true, false], foreign])
  const failure = await redis.run(async () => 'done').catch((error: unknown) => error)
  t.type(failure, StoreUnavailableError)
  t.match(failure, { kind: 'reply', message: /WRONGTYPE/, cause: foreign })
})

t.test('any other failure of the second run is thrown unchanged', async t => {
  const gone = new StoreUnavailableError('connection', 'Redis is gone')
  const { redis } = repairing([foreign, [true, false], gone])
  await t.rejects(redis.run(async () => 'done'), gone)
})

t.test('a command that fails for another reason is not run again, and deletes nothing', async t => {
  const gone = new StoreUnavailableError('connection', 'Redis is gone')
  const { redis, found } = repairing([gone])
  await t.rejects(redis.run(async () => 'done'), gone)
  t.same(found, [])
})
