/** The log of an outage says why Redis is away, also where the reason shows only after it began. */
import t from 'tap'
import { StoreUnavailableError } from '../../lib/errors.js'
import { OutageLog } from '../../lib/observers/outage-log.js'
import type { StoreStatus } from '../../lib/outage/availability.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'
import { guardedApp, logTo } from '../support/app.js'

const away: StoreStatus = { store: 'memory', breaker: 'open', reason: 'the connection was closed', since: new Date() }
const back: StoreStatus = { store: 'redis', breaker: 'closed', reason: undefined, since: new Date() }
const failure = (message: string) => new StoreUnavailableError('connection', message)

function logged (): { readonly log: OutageLog, readonly reasons: string[] } {
  const reasons: string[] = []
  const write = ({ reason }: { reason: string }) => { reasons.push(reason) }
  const log = new OutageLog({ warn: write, error: write, info () {}, debug () {} } as never)
  return { log, reasons }
}

t.test('each new reason of an outage is logged once', t => {
  const { log, reasons } = logged()
  log.switched(away)
  for (const message of ['the connection was closed', 'refused', 'refused', 'wrong password', 'refused']) {
    log.stillAway(failure(message))
  }
  t.same(reasons, ['the connection was closed', 'refused', 'wrong password'])
  t.end()
})

t.test('an outage logs five reasons at most, and the next outage begins again', t => {
  const { log, reasons } = logged()
  log.startedWithoutRedis('not connected yet')
  for (let i = 0; i < 10; i++) log.stillAway(failure(`reason ${i}`))
  t.equal(reasons.length, 5)
  log.switched(back)
  log.switched(away)
  log.stillAway(failure('reason 0'))
  t.same(reasons.slice(5), ['the connection was closed', 'reason 0'])
  t.end()
})

t.test('a failure before an outage has begun is no line', t => {
  const { log, reasons } = logged()
  log.stillAway(failure('refused'))
  log.switched(away)
  log.switched(back)
  log.stillAway(failure('late'))
  t.same(reasons, ['the connection was closed'])
  t.end()
})

t.test('when Redis is stopped, the log says that connections are refused, and nothing of the block list', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, { redis: server.url, syncInterval: 10, commandTimeout: 10_000 }, logTo(lines))
  await app.ready()
  await until(() => app.redisGuard.status.store === 'redis')
  await server.stop()
  await until(() => lines.some(({ reason }) => String(reason).includes('ECONNREFUSED')))
  t.equal(lines.filter(({ msg }) => String(msg).startsWith('Redis is away, memory answers')).length, 1)
  t.same(lines.filter(({ msg }) => String(msg).includes('could not be read')), [])
})
