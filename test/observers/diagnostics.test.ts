/** The diagnostics channels publish each decision and each switch of stores. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import t, { type Test } from 'tap'
import { channelNames } from '../../lib/index.js'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

function listen (t: Test): [name: string, message: unknown][] {
  const heard: [string, unknown][] = []
  for (const [name, channel] of Object.entries(channelNames)) {
    const listener = (message: unknown) => { heard.push([name, message]) }
    subscribe(channel, listener)
    t.teardown(() => unsubscribe(channel, listener))
  }
  return heard
}

t.test('publishes decisions with client, limit and route', async t => {
  const app = await guardedApp(t, { max: 1, timeWindow: '1 hour' })
  app.get('/things/:id', async () => 'ok')
  app.get('/shadow', { config: { rateLimit: { max: 0, shadow: true } } }, async () => 'ok')
  await app.redisGuard.blockIP('192.0.2.0/24', 60)
  const heard = listen(t)
  const about = {
    ip: '127.0.0.1',
    key: '127.0.0.1',
    limit: 'global',
    source: 'memory',
    method: 'GET',
    route: '/things/:id',
    shadow: false
  }
  await app.inject('/things/1')
  await app.inject('/things/2')
  await app.inject({ url: '/things/1', remoteAddress: '192.0.2.7' })
  await app.inject('/shadow')
  t.same(heard, [
    ['allowed', about],
    ['limited', about],
    ['blocked', { ...about, ip: '192.0.2.7', key: '192.0.2.0/24', limit: undefined, source: 'local' }],
    ['limited', { ...about, limit: 'GET:/shadow', route: '/shadow', shadow: true }]
  ])
})

t.test('publishes a switch to another store', async t => {
  const server = await RedisServer.start()
  const heard = listen(t)
  const app = await guardedApp(t, { redis: server.url, resetTimeout: 100 })
  await app.ready()
  await until(() => app.redisGuard.status.store === 'redis')
  await server.stop()
  const away = () => heard.find(([, message]) => (message as { store: string }).store === 'memory')
  await until(() => away() !== undefined)
  t.match(away(), ['switch', { store: 'memory', breaker: 'open', since: Date }])
})

t.test('does not read the request if there is no subscriber', async t => {
  const { publishDecision } = await import('../../lib/observers/diagnostics.js')
  const decision = { kind: 'allowed', source: 'memory', key: '192.0.2.1', name: 'global' } as never
  const subject = { get client () { throw new Error('was read') } } as never
  publishDecision(decision, subject)
  listen(t)
  t.throws(() => publishDecision(decision, subject), /was read/)
})
