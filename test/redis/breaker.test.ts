/** The circuit breaker before Redis: when it opens, when Redis is probed, and that no command is sent twice. */
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
  /** ms; long enough that no command is late on a busy machine, unless a test wants that */
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

t.test('several reasons to try Redis cause one probe', async t => {
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

t.test('a command that timed out may have run, and is not sent again', async t => {
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
  await t.rejects(increment(), { code: 'GUARD_ERR_STORE_UNAVAILABLE' }, 'nothing is sent while the breaker is open')
  server.signal('SIGCONT')
  await until(async () => await observer.get('counter') === '5')
  clock.tick(100)
  await until(() => guarded.usable)
  // A command that were sent again would run before this one.
  t.equal(await increment(), 6)
  t.equal(await observer.get('counter'), '6')
})

t.test('a probe without an answer opens the breaker again, any number of times', async t => {
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

t.test('closing during a probe leaves no timer behind', async t => {
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
  // A timer of the probe would last for a whole commandTimeout.
  await until(() => held() <= before)
  t.equal(guarded.usable, false)
})

t.test('a connection that broke before its probe was answered is not used until the next probe', async t => {
  const { connection, guarded } = setUp(t)
  connection.open()
  await once(connection, 'ready')
  // This happens when a Cluster finds another node to connect to in between.
  Object.defineProperty(connection, 'ready', { get: () => false, configurable: true })
  const states: string[] = []
  guarded.on('state', state => states.push(state))
  await once(guarded, 'probed')
  t.equal(guarded.usable, false)
  t.notOk(states.includes('closed'))
  delete (connection as { ready?: boolean }).ready
  await until(() => guarded.usable)
})

t.test('a breaker that is closed for good during a probe stays so', async t => {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const { connection, guarded } = setUp(t, { port: proxy.port })
  connection.open()
  await once(connection, 'ready')
  // The probe and its answer are on their way; the state of the connection is not checked.
  Object.defineProperty(connection, 'close', { value: () => {}, configurable: true })
  guarded.close()
  await once(guarded, 'probed')
  t.equal(guarded.usable, false)
  t.equal(guarded.state, 'open')
  delete (connection as { close?: unknown }).close
  connection.close()
})

/** The context of a request, in which no listener may run. */
const storage = new AsyncLocalStorage<string>()

t.test("a late answer does not close the breaker, and listeners run in no request's asynchronous context", async t => {
  const proxy = await TcpProxy.start(server.port)
  t.teardown(async () => await proxy.stop())
  const { guarded } = setUp(t, { port: proxy.port })
  await guarded.connect(60_000)
  const heard: [string, string | undefined][] = []
  let answer = () => {}
  guarded.on('state', state => {
    heard.push([state, storage.getStore()])
    if (state === 'half-open') answer()
  })
  guarded.on('up', () => heard.push(['up', storage.getStore()]))
  guarded.on('down', () => heard.push(['down', storage.getStore()]))
  // The probe gets no answer, so it cannot close the breaker.
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
  t.same(heard.map(([event]) => event), ['open', 'down', 'half-open'])
  clock.tick(60_000)
  proxy.blackhole = false
  await until(() => {
    clock.tick(10)
    return guarded.usable
  })
  const events = heard.map(([event]) => event)
  t.same(events.slice(-2), ['closed', 'up'])
  t.ok(heard.every(([, context]) => context === undefined))
})

t.test("a connection that a request makes is probed in no request's asynchronous context", async t => {
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

t.test('an unknown error counts as a failure of the connection, and keeps its cause', async t => {
  const { guarded } = setUp(t)
  await guarded.connect(60_000)
  const failures: unknown[] = []
  guarded.on('failure', failure => { failures.push(failure) })
  const failure = guarded.report(new TypeError('a mistake'))
  t.match(failure, { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'connection', cause: { message: 'a mistake' } })
  t.same(failures, [failure])
  t.equal(guarded.report(failure), failure)
  t.equal(failures.length, 1, 'a counted failure is not counted again')
})

t.test('a reply to another command ends the connection, and Redis is used on a new one', async t => {
  const { connection, guarded } = setUp(t)
  await guarded.connect(60_000)
  const lost = once(connection, 'lost')
  await t.rejects(guarded.run(async () => { throw new OutOfStepError() }), { message: /another command/ })
  t.equal(guarded.usable, false)
  await lost
  await until(() => guarded.usable)
  t.equal(guarded.state, 'closed')
})
