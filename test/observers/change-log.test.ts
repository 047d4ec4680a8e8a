/** Log lines about changes that a caller makes: one line each, or counts for many. */
import t from 'tap'
import { ChangeLog, mostLines } from '../../lib/observers/change-log.js'
import { guardedApp, logTo } from '../support/app.js'
import { mockMachinery } from '../support/fake-timers.js'
import { RedisServer } from '../../tools/redis-server.js'

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

t.test('logs each change in a line, and counts further changes of a busy second in one line', async t => {
  const clock = mockMachinery(t, 'setTimeout')
  const lines: [object, string][] = []
  const log = new ChangeLog((details, message) => lines.push([details, message]))
  for (let i = 0; i < 1000; i++) log.note('blocked', { ip: `192.0.2.${i}` })
  log.note('unblocked', { ip: '192.0.2.1' })
  t.equal(lines.length, mostLines)
  t.same(lines[0], [{ change: { ip: '192.0.2.0' } }, 'blocked'])
  clock.tick(999)
  t.equal(lines.length, mostLines)
  clock.tick(1)
  t.same(lines.slice(mostLines), [[
    { changes: { blocked: 1000 - mostLines, unblocked: 1 } },
    'more changes in one second'
  ]])
  log.note('limit set', { limit: 'global', reason: 'x'.repeat(1_000_000) })
  log.flush()
  t.same(lines.slice(mostLines + 1), [[{ change: { limit: 'global', reason: `${'x'.repeat(200)}...` } }, 'limit set']])
})

t.test('logs blocks and unblocks with address, origin and reason', async t => {
  const lines: Record<string, unknown>[] = []
  const { redisGuard } = await guardedApp(t, { redis: server.url, commandTimeout: 30_000 }, logTo(lines, 'info'))
  const changes = () => lines.flatMap(({ change, msg }) => change === undefined ? [] : [{ msg, ...change as object }])
  const block = await redisGuard.blockIP('::ffff:192.0.2.1', 60, { reason: 'too many logins', origin: 'auto' })
  await redisGuard.blockIP('198.51.100.0/24', Infinity)
  await redisGuard.blockIP('198.51.100.0/24', 60, { origin: 'auto' })
  await redisGuard.unblockIP('192.0.2.1', { reason: 'a mistake', origin: 'an operator' })
  await redisGuard.unblockIP('192.0.2.1')
  t.same(changes(), [
    {
      msg: 'blocked',
      ip: '192.0.2.1',
      until: new Date(block.expiresAtMs).toISOString(),
      reason: 'too many logins',
      origin: 'auto'
    },
    { msg: 'blocked', ip: '198.51.100.0/24', until: 'for good', reason: '', origin: 'api' },
    {
      msg: 'blocked',
      ip: '198.51.100.0/24',
      until: 'for good',
      reason: '',
      origin: 'auto',
      stands: {
        reason: '',
        origin: 'api'
      }
    },
    { msg: 'unblocked', ip: '192.0.2.1', wasBlocked: true, reason: 'a mistake', origin: 'an operator' },
    { msg: 'unblocked', ip: '192.0.2.1', wasBlocked: false, reason: '', origin: 'api' }
  ])
})

t.test('logs changed limits and reset counters, and does not show a hashed key', async t => {
  const lines: Record<string, unknown>[] = []
  const options = { timeWindow: '1 hour', hashKeys: true, keyGenerator: () => 'an API key' }
  const app = await guardedApp(t, options, logTo(lines, 'info'))
  app.get('/', async () => 'ok')
  await app.inject('/')
  const { limits } = app.redisGuard
  await limits.set('global', { max: 5, timeWindow: '1 minute' }, { reason: 'a flood', origin: 'an operator' })
  await limits.reset('global', { origin: 'an operator' })
  await limits.set('global', { max: Infinity, timeWindow: '1 minute' })
  await limits.reset({ key: 'an API key' })
  await limits.reset({ key: '192.0.2.1' })
  const changes = lines.flatMap(({ change, msg }) => change === undefined ? [] : [{ msg, ...change as object }])
  const by = { reason: '', origin: 'api' }
  t.match(changes, [
    { msg: 'limit set', limit: 'global', max: 5, timeWindow: 60_000, reason: 'a flood', origin: 'an operator' },
    { msg: 'limit reset', limit: 'global', wasChanged: true, reason: '', origin: 'an operator' },
    { msg: 'limit set', limit: 'global', max: 'Infinity', timeWindow: 60_000, ...by },
    { msg: 'counters reset', key: /^[\w-]{20,}|^\w+:/, wasCounted: true, ...by },
    { msg: 'counters reset', key: '192.0.2.1', wasCounted: false, ...by }
  ])
  t.notMatch(JSON.stringify(lines), /an API key/)
})

t.test('the line of a decision has the id of its request, and no long text', async t => {
  for (const requestIdLogLabel of ['reqId', 'trace']) {
    const lines: Record<string, unknown>[] = []
    const log = { ...logTo(lines, 'debug'), requestIdLogLabel, genReqId: () => 'the id' }
    const app = await guardedApp(t, { max: 1, timeWindow: '1 hour', keyGenerator: () => 'x'.repeat(100_000) }, log)
    app.get('/', async () => 'ok')
    for (let i = 0; i < 2; i++) await app.inject('/')
    await app.redisGuard.blockIP('127.0.0.1', 60)
    await app.inject('/')
    const decisions = lines.filter(({ decision }) => decision !== undefined)
    t.same(decisions.map(({ msg }) => msg), ['allowed', 'limited', 'blocked'])
    t.ok(decisions.every(line => line[requestIdLogLabel] === 'the id'))
    t.ok(JSON.stringify(decisions).length < 3000)
  }
})

t.test('a plugin that refuses nothing says so once, at its start', async t => {
  const said = async (options: object) => {
    const lines: Record<string, unknown>[] = []
    await guardedApp(t, options, logTo(lines, 'info'))
    return lines.filter(({ msg }) => /in shadow/.test(String(msg))).length
  }
  t.same([
    await said({ shadow: true }), await said({ enforce: 0 }), await said({ enforce: 0.5 }), await said({})
  ], [1, 1, 0, 0])
})
