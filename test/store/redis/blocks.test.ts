/**
 * The block list on a real Redis: a late change from an instance that was away counts as of its own time, and a list
 * that Redis restored from an older state is detected.
 */
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { GuardedRedis } from '../../../lib/redis/breaker.js'
import { Connection } from '../../../lib/redis/connection.js'
import { Keys } from '../../../lib/store/keys.js'
import { Journal } from '../../../lib/outage/journal.js'
import { RedisStore } from '../../../lib/store/redis/redis-store.js'
import type { BlockOperation, BlockStore } from '../../../lib/store/block-store.js'
import type { RedisBlocks } from '../../../lib/store/redis/blocks.js'
import { contractsOf } from '../../support/redis-contracts.js'
import { RedisServer } from '../../../tools/redis-server.js'

const server = await RedisServer.start()
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await server.stop()
})

/** The block list by its contract, and as the outage layer uses it. */
async function storeOf (t: Test, instance: string): Promise<BlockStore & { readonly redis: RedisBlocks }> {
  const times = { connectTimeout: 30_000, commandTimeout: 30_000, resetTimeout: 500 }
  const keys = new Keys('guard:')
  const guarded = new GuardedRedis(new Connection({ kind: 'server', options: { port: server.port } }, times), {
    ...times,
    probeKey: keys.probe
  })
  t.teardown(() => guarded.close())
  await guarded.connect(times.connectTimeout)
  const store = new RedisStore(guarded, { keys, maxEvents: 10, instance })
  return { ...contractsOf(store).blocks, redis: store.blocks }
}

const blockOf = (ip: string) => ({ ip, durationMs: 60_000, reason: '', origin: '' })
const reload = async () => await observer.call('DEBUG', 'RELOAD', 'NOSAVE')

t.beforeEach(async () => { await observer.flushall() })

t.test('a list that lacks changes is behind, even after as many new changes by others', async t => {
  const [one, other] = [await storeOf(t, 'one'), await storeOf(t, 'other')]
  t.equal(await one.redis.isBehind(), false, 'nothing to compare with yet')
  await one.block(blockOf('192.0.2.1'))
  const { cursor } = await one.redis.changes()
  await observer.save()
  await one.block(blockOf('192.0.2.2'))
  const followed = await one.redis.changes(cursor)
  t.same([followed.isBehind, followed.changes.map(({ ip }) => ip)], [false, ['192.0.2.2']])
  t.equal(await one.redis.isBehind(), false)

  await reload()
  t.equal(await one.redis.isBehind(), true, 'fewer changes')
  t.match(await one.redis.changes(followed.cursor), { missed: true, isBehind: true })
  for (const ip of ['192.0.2.3', '192.0.2.4', '192.0.2.5']) {
    await other.block(blockOf(ip))
    t.equal(await one.redis.isBehind(), true, 'other changes with the same numbers')
    t.match(await one.redis.changes(followed.cursor), { missed: true, isBehind: true })
  }
  // Once the list is loaded again, it continues.
  t.match(await one.redis.changes(), { missed: true, isBehind: false })
  t.equal(await one.redis.isBehind(), false)
})

t.test('a list is behind if it lacks only changes of this instance since the last look', async t => {
  const store = await storeOf(t, 'one')
  await store.block(blockOf('192.0.2.1'))
  await store.redis.changes()
  await observer.save()
  t.equal(await store.unblock('192.0.2.1'), true)
  t.equal(await store.unblock('192.0.2.9'), false)
  t.equal(await store.redis.isBehind(), false)
  await reload()
  t.equal(await store.redis.isBehind(), true)
})

t.test('a list whose log of changes was trimmed is not behind', async t => {
  const store = await storeOf(t, 'one')
  await store.block(blockOf('192.0.2.1'))
  const { cursor } = await store.redis.changes()
  for (const ip of ['192.0.2.2', '192.0.2.3']) await store.block(blockOf(ip))
  await observer.xtrim('guard:{blocks}:changes', 'MAXLEN', 1)
  t.equal(await store.redis.isBehind(), false)
  t.match(await store.redis.changes(cursor), { missed: true, isBehind: false })
})

const ip = '192.0.2.1'
const minuteMs = 60_000
/** The clock of the operations below is 0 now. */
const aheadMs = -Date.now()

/** Operations on one address, a minute apart, the last one a minute ago. The reasons identify the blocks. */
function history (
  steps: readonly (readonly [kind: 'block' | 'replace' | 'unblock', minutes?: number])[]
): BlockOperation[] {
  return steps.map(([kind, minutes = Infinity], i) => {
    const atMs = (i - steps.length) * minuteMs
    if (kind === 'unblock') return { atMs, unblock: ip }
    return {
      atMs,
      block: { ip, durationMs: minutes * minuteMs, reason: `step ${i}`, origin: 'test', replace: kind === 'replace' }
    }
  })
}

/** The reason of the block that stands after the operations ran in order; undefined: none. */
function standingAfter (operations: readonly BlockOperation[]): string | undefined {
  let standing: { readonly reason: string, readonly endMs: number } | undefined
  for (const operation of operations) {
    if ('unblock' in operation) standing = undefined
    else {
      const { block: { reason, durationMs, replace }, atMs } = operation
      const endMs = atMs + durationMs
      if (replace === true || standing === undefined || endMs > standing.endMs) standing = { reason, endMs }
    }
  }
  return standing !== undefined && standing.endMs > 0 ? standing.reason : undefined
}

const lateOperations: Readonly<Record<string, Parameters<typeof history>[0]>> = {
  'a longer block, then a shorter one': [['block'], ['block', 60]],
  'a shorter block, then a longer one': [['block', 60], ['block']],
  'a lifted block': [['block'], ['unblock']],
  'a lifted block, then a shorter one': [['block'], ['unblock'], ['block', 60]],
  'a block replaced by a shorter one': [['block'], ['replace', 60]],
  'a block replaced by a shorter one, then a longer one': [['block', 60], ['replace', 30], ['block', 90]],
  'an expired block': [['block', 1]],
  'a longer block, then an expired one': [['block', 60], ['block', 1]]
}

for (const [name, steps] of Object.entries(lateOperations)) {
  t.test(`${name}: the order of arrival makes no difference`, async t => {
    const store = await storeOf(t, 'one')
    const operations = history(steps)
    for (const arriving of [operations, operations.toReversed()]) {
      await observer.flushall()
      for (const operation of arriving) await store.redis.apply([operation], aheadMs)
      const reasons = (await store.blocks()).map(({ reason }) => reason)
      t.same(reasons, [standingAfter(operations) ?? []].flat())
    }
  })
}

t.test('changes that several instances made in an outage end as if all had been made in order', async t => {
  const store = await storeOf(t, 'one')
  const step = fc.oneof(
    fc.constantFrom<readonly ['block' | 'replace', number]>(
      ['block', 2], ['block', 30], ['block', 60], ['replace', 40]
    ),
    fc.constant(['unblock'] as const)
  )
  const steps = fc.tuple(fc.array(step, { maxLength: 6 }), fc.nat(6), fc.boolean()).map(([steps, at, isForGood]) =>
    isForGood ? steps.toSpliced(at, 0, ['block', Infinity]) : steps)
  const instances = fc.array(fc.nat(2), { minLength: 7, maxLength: 7 })
  await fc.assert(fc.asyncProperty(steps, instances, fc.boolean(), async (steps, instances, isReversed) => {
    await observer.flushall()
    const operations = history(steps)
    const journals = [0, 1, 2].map(() => new Journal({ capacity: 100, maxEvents: 1, onDrop: () => {} }))
    operations.forEach((operation, i) => journals[instances[i]!]!.addBlock(operation))
    for (const journal of isReversed ? journals.reverse() : journals) {
      for (const chunk of journal.rest()) {
        if (chunk.kind === 'blocks') await store.redis.apply(chunk.operations, aheadMs)
      }
    }
    const [standing] = await store.blocks()
    const expected = standingAfter(operations)
    if (standing?.reason !== expected) throw new Error(`${standing?.reason} stands, and not ${expected}`)
    if (await store.isBlocked(ip) !== (expected !== undefined)) throw new Error('isBlocked says otherwise')
  }), { numRuns: 300 })
  t.pass()
})

t.test('an older unblock that arrives after a newer one does not replace it', async t => {
  const store = await storeOf(t, 'one')
  const [block, unblock, older] = [...history([['block'], ['unblock']]), { atMs: -3 * minuteMs, unblock: ip }]
  for (const operation of [unblock, older, block]) await store.redis.apply([operation!], aheadMs)
  t.same(await store.blocks(), [])
})

t.test('shorter and shorter blocks of one address take bounded room', async t => {
  const store = await storeOf(t, 'one')
  for (let i = 0; i < 100; i++) {
    await store.block({ ...blockOf(ip), durationMs: (200 - i) * minuteMs, reason: 'x'.repeat(1000) })
  }
  t.ok(await observer.hstrlen('guard:{blocks}', ip) < 5000)
  t.match(await store.blocks(), [{ ip }])
})

t.test('a block that changes nothing is not announced', async t => {
  const store = await storeOf(t, 'one')
  const one = await store.block({ ...blockOf(ip), durationMs: Infinity })
  t.same(await store.block(blockOf(ip)), one)
  t.equal(await observer.xlen('guard:{blocks}:changes'), 1)
})

t.test('a foreign value in place of a block counts as no block', async t => {
  const store = await storeOf(t, 'one')
  const foreign = [
    '', 'no JSON', '5', '[]', '{}', '['.repeat(10_000),
    '{"blockedAtMs":"1","reason":"","origin":""}',
    '{"blockedAtMs":1.5,"reason":"","origin":""}',
    '{"blockedAtMs":1,"reason":"","origin":"","expiresAtMs":null}'
  ]
  for (const value of foreign) {
    await observer.hset('guard:{blocks}', ip, value)
    t.equal(await store.unblock(ip), false, value.slice(0, 100))
    await observer.hset('guard:{blocks}', ip, value)
    t.match(await store.block(blockOf(ip)), { ip, reason: '' })
  }
})
