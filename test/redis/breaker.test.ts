/** The circuit breaker before Redis: when it opens, what tries Redis again, and that nothing is sent twice. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import t, { type Test } from 'tap'
import { GuardedRedis } from '../../lib/redis/breaker.js'
import { Connection } from '../../lib/redis/connection.js'
import { OutOfStepError } from '../../lib/redis/failure.js'
import { mockMachinery } from '../support/fake-timers.js'
import { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'
import { scripts } from '../../lib/store/redis/lua/scripts.js'

const server = await RedisServer.start()
const observer = server.client()
t.teardown(async () => {
  observer.disconnect()
  await server.stop()
})

interface SetUp {
  readonly port?: number
  /** ms; so long that no command is late on a busy machine, unless a test wants it to be */
  readonly commandTimeout?: number
}

function setUp (t: Test, { port = server.port, commandTimeout = 60_000 }: SetUp = {}) {
  const times = { connectTimeout: 60_000, commandTimeout, resetTimeout: 100 }
  const connection = new Connection({ kind: 'server', options: { port } }, times)
  const guarded = new GuardedRedis(connection, { ...times, probeKey: 'probe' })
  t.teardown(() => guarded.close())
  return { connection, guarded }
}

async function commandsOf (name: string): Promise<number> {
  return Number(new RegExp(`cmdstat_${name}:calls=(\\d+)`).exec(await observer.info('commandstats'))?.[1] ?? 0)
}

t.test('several reasons to try Redis make one probe', async t => {
  const before = await commandsOf('set')
  const { connection, guarded } = setUp(t)
  connection.open()
  await once(connection, 'ready')
  connection.emit('ready')
  connection.emit('ready')
  await once(guarded, 'up')
  connection.emit('ready')
  await guarded.run(async client => await client.get('x'))
  t.equal(await commandsOf('set'), before + 1)
})

t.test('no command is sent again: one that was given up may have run, and runs once', async t => {
  const { guarded } = setUp(t)
  await guarded.connect(60_000)
  await observer.del('counter')
  const clock = mockMachinery(t, 'setTimeout')
  const increment = async () => await guarded.run(async client => await client.incr('counter'))
  server.signal('SIGSTOP')
  t.teardown(() => server.signal('SIGCONT'))
  const given = Array.from({ length: 5 }, async () =>
    await increment().then(() => 'done', ({ kind }: { kind: string }) => kind))
  clock.tick(60_000)
  t.same(await Promise.all(given), Array(5).fill('timeout'))
  t.equal(guarded.usable, false)
  t.match(guarded.failure, { kind: 'timeout' })
  await t.rejects(increment(), { code: 'GUARD_ERR_STORE_UNAVAILABLE' }, 'while the breaker is open nothing is sent')
  server.signal('SIGCONT')
  await until(async () => await observer.get('counter') === '5')
  clock.tick(100)
  await until(() => guarded.usable)
  // What were sent again would come before it.
  t.equal(await increment(), 6)
  t.equal(await observer.get('counter'), '6')
})

t.test('half-open never sticks: a probe that gets no answer opens the breaker again, time after time', async t => {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const { guarded } = setUp(t, { port: proxy.port, commandTimeout: 200 })
  await guarded.connect(60_000)
  await until(() => guarded.usable)
  const states: string[] = []
  guarded.on('state', state => { states.push(state) })
  proxy.blackhole = true
  await guarded.run(async client => await client.get('x')).catch(() => {})
  await until(() => states.length >= 5)
  t.same(states.slice(0, 5), ['open', 'half-open', 'open', 'half-open', 'open'])
  proxy.blackhole = false
  await until(() => guarded.usable)
})

t.test('a script that Redis has forgotten is sent again as text', async t => {
  const { Script } = await import('../../lib/redis/script.js')
  const { guarded } = setUp(t)
  await guarded.connect(60_000)
  const script = new Script(scripts['block-changes'])
  const run = async () => await guarded.run(async client => await script.run(client, ['a', 'b', 'c'], ['0-0', 1]))
  t.match(await run(), [Number, 0, '0-0', [], ''])
  await observer.script('FLUSH')
  t.match(await run(), [Number, 0, '0-0', [], ''])
  await observer.set('a', 'not a stream')
  await t.rejects(run(), { code: 'GUARD_ERR_VALUE' })
  t.equal(guarded.usable, true)
  await observer.del('a')
})

t.test('closing while a probe is under way leaves no timer behind', async t => {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const held = () => process.getActiveResourcesInfo().filter(kind => kind === 'Timeout').length
  const before = held()
  const { connection, guarded } = setUp(t, { port: proxy.port })
  connection.open()
  await once(connection, 'ready')
  proxy.blackhole = true
  t.ok(held() > before)
  guarded.close()
  // One of them would be held as long as a command may take.
  await until(() => held() <= before)
  t.equal(guarded.usable, false)
})

t.test('a connection that broke before its probe was answered is not used until the next probe', async t => {
  const { connection, guarded } = setUp(t)
  connection.open()
  await once(connection, 'ready')
  // As when a Cluster finds a node to connect to meanwhile.
  Object.defineProperty(connection, 'ready', { get: () => false, configurable: true })
  const states: string[] = []
  guarded.on('state', state => states.push(state))
  await once(guarded, 'probed')
  t.equal(guarded.usable, false)
  t.notOk(states.includes('closed'))
  delete (connection as { ready?: boolean }).ready
  await until(() => guarded.usable)
})

t.test('closed while it is being tried, it stays closed for good', async t => {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const { connection, guarded } = setUp(t, { port: proxy.port })
  connection.open()
  await once(connection, 'ready')
  // The probe is on its way, and so is its answer: what is open is not looked at.
  Object.defineProperty(connection, 'close', { value: () => {}, configurable: true })
  guarded.close()
  await once(guarded, 'probed')
  t.equal(guarded.usable, false)
  t.equal(guarded.state, 'open')
  delete (connection as { close?: unknown }).close
  connection.close()
})

/** What a request would hold: nobody hears of Redis in it. */
const storage = new AsyncLocalStorage<string>()

t.test("a late answer closes no breaker, and listeners run in no request's asynchronous context", async t => {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const { guarded } = setUp(t, { port: proxy.port })
  await guarded.connect(60_000)
  const told: [string, string | undefined][] = []
  let answer = () => {}
  guarded.on('state', state => {
    told.push([state, storage.getStore()])
    if (state === 'half-open') answer()
  })
  guarded.on('up', () => told.push(['up', storage.getStore()]))
  guarded.on('down', () => told.push(['down', storage.getStore()]))
  // The probe is not answered, so that it is not what closes the breaker.
  proxy.blackhole = true
  const clock = mockMachinery(t, 'setTimeout')
  const unanswered = async () => await guarded.run(async () => await new Promise(() => {}))
  const first = storage.run('first', async () => await t.rejects(unanswered(), { code: 'GUARD_ERR_STORE_UNAVAILABLE' }))
  clock.tick(30_000)
  const late = async () => await new Promise<void>(resolve => { answer = resolve })
  const answeredLate = async () => await guarded.run(late)
  const second = storage.run('second', answeredLate)
  clock.tick(30_000)
  await first
  clock.tick(100)
  await second
  t.equal(guarded.usable, false)
  t.same(told.map(([event]) => event), ['open', 'down', 'half-open'])
  clock.tick(60_000)
  proxy.blackhole = false
  await until(() => {
    clock.tick(10)
    return guarded.usable
  })
  const events = told.map(([event]) => event)
  t.same(events.slice(-2), ['closed', 'up'])
  t.ok(told.every(([, context]) => context === undefined))
})

t.test('a connection that a request makes is tried in no request\'s asynchronous context', async t => {
  const client = server.client({ lazyConnect: true })
  t.teardown(() => client.disconnect())
  const times = { connectTimeout: 60_000, commandTimeout: 60_000, resetTimeout: 100 }
  const guarded = new GuardedRedis(new Connection({ kind: 'client', client }, times), { ...times, probeKey: 'probe' })
  t.teardown(() => guarded.close())
  const probes: (string | undefined)[] = []
  const send = client.sendCommand.bind(client)
  client.sendCommand = (command, ...rest) => {
    if (command.name === 'evalsha') probes.push(storage.getStore())
    return send(command, ...rest)
  }
  const up = once(guarded, 'up')
  await storage.run('request', async () => await client.connect())
  await up
  t.same(probes, [undefined])
})

t.test('an error that no failure of Redis explains counts as one, and its reason is kept', async t => {
  const { guarded } = setUp(t)
  await guarded.connect(60_000)
  const failures: unknown[] = []
  guarded.on('failure', failure => { failures.push(failure) })
  const failure = guarded.report(new TypeError('a mistake'))
  t.match(failure, { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'connection', cause: { message: 'a mistake' } })
  t.same(failures, [failure])
  t.equal(guarded.report(failure), failure)
  t.equal(failures.length, 1, 'one that was counted is not counted again')
})

t.test('a reply that belongs to another command ends the connection, and Redis is used by a new one', async t => {
  const { connection, guarded } = setUp(t)
  await guarded.connect(60_000)
  const lost = once(connection, 'lost')
  await t.rejects(guarded.run(async () => { throw new OutOfStepError() }), { message: /another command/ })
  t.equal(guarded.usable, false)
  await lost
  await until(() => guarded.usable)
  t.equal(guarded.state, 'closed')
})
