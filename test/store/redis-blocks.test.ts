/** A block list that came back older than it was is found out, however much has changed since: on a real Redis. */
import t, { type Test } from 'tap'
import { GuardedRedis } from '../../lib/redis/breaker.js'
import { Connection } from '../../lib/redis/connection.js'
import { Keys } from '../../lib/store/keys.js'
import { RedisStore } from '../../lib/store/redis.js'
import { RedisServer } from '../support/redis-server.js'

const server = await RedisServer.start()
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await server.stop()
})

async function storeOf (t: Test, instance: string): Promise<RedisStore> {
  const times = { connectTimeout: 2000, commandTimeout: 5000, resetTimeout: 500 }
  const keys = new Keys('guard:')
  const guarded = new GuardedRedis(new Connection({ kind: 'server', options: { port: server.port } }, times), { ...times, probeKey: keys.probe })
  t.teardown(() => guarded.close())
  await guarded.connect(2000)
  return new RedisStore(guarded, { keys, maxEvents: 10, instance })
}

const blockOf = (ip: string) => ({ ip, durationMs: 60_000, reason: '', origin: '' })
const reload = async () => await observer.call('DEBUG', 'RELOAD', 'NOSAVE')

t.beforeEach(async () => { await observer.flushall() })

t.test('a list that lacks changes is behind, also when others have changed it as often since', async t => {
  const [one, other] = [await storeOf(t, 'one'), await storeOf(t, 'other')]
  t.equal(await one.blockList.isBehind(), false, 'nothing is known yet')
  await one.block(blockOf('192.0.2.1'))
  const { cursor } = await one.blockList.changes()
  await observer.save()
  await one.block(blockOf('192.0.2.2'))
  const followed = await one.blockList.changes(cursor)
  t.same([followed.isBehind, followed.changes.map(({ ip }) => ip)], [false, ['192.0.2.2']])
  t.equal(await one.blockList.isBehind(), false)

  await reload()
  t.equal(await one.blockList.isBehind(), true, 'fewer changes')
  t.match(await one.blockList.changes(followed.cursor), { missed: true, isBehind: true })
  for (const ip of ['192.0.2.3', '192.0.2.4', '192.0.2.5']) {
    await other.block(blockOf(ip))
    t.equal(await one.blockList.isBehind(), true, 'other changes with the same numbers')
    t.match(await one.blockList.changes(followed.cursor), { missed: true, isBehind: true })
  }
  // From a list that is loaded anew it goes on.
  t.match(await one.blockList.changes(), { missed: true, isBehind: false })
  t.equal(await one.blockList.isBehind(), false)
})

t.test('a list that lacks only what was changed from here, since it was looked at last, is behind', async t => {
  const store = await storeOf(t, 'one')
  await store.block(blockOf('192.0.2.1'))
  await store.blockList.changes()
  await observer.save()
  t.equal(await store.unblock('192.0.2.1'), true)
  t.equal(await store.unblock('192.0.2.9'), false)
  t.equal(await store.blockList.isBehind(), false)
  await reload()
  t.equal(await store.blockList.isBehind(), true)
})

t.test('a list whose changes are gone is not behind', async t => {
  const store = await storeOf(t, 'one')
  await store.block(blockOf('192.0.2.1'))
  const { cursor } = await store.blockList.changes()
  for (const ip of ['192.0.2.2', '192.0.2.3']) await store.block(blockOf(ip))
  await observer.xtrim('guard:{blocks}:changes', 'MAXLEN', 1)
  t.equal(await store.blockList.isBehind(), false)
  t.match(await store.blockList.changes(cursor), { missed: true, isBehind: false })
})
