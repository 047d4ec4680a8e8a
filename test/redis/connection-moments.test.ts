/** Lost connections, late answers and pending functions, simulated in every order. */
import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import type { RedisOptions } from 'ioredis'
import t, { type Test } from 'tap'
import { GuardedRedis } from '../../lib/redis/breaker.js'
import { Connection } from '../../lib/redis/connection.js'
import { connectorFor } from '../../lib/redis/connector.js'
import { Credentials } from '../../lib/redis/credentials.js'
import { OutOfStepError } from '../../lib/redis/failure.js'
import type { RedisCredentials } from '../../lib/settings/redis-option.js'
import { mockMachinery } from '../support/fake-timers.js'

type Answer = (credentials: RedisCredentials) => void

/** Credentials whose function answers when the test lets it. */
function held () {
  const answers: Answer[] = []
  const rejects: ((error: Error) => void)[] = []
  const credentials = new Credentials(async () => await new Promise((resolve, reject) => {
    answers.push(resolve)
    rejects.push(reject)
  }), 60_000)
  return { credentials, answers, rejects }
}

t.test('of two answers of the credentials function, the one to the later call is used', async t => {
  for (const order of [[0, 1], [1, 0]]) {
    const { credentials, answers } = held()
    const renewals = [credentials.renew(), credentials.renew()]
    for (const i of order) {
      answers[i]!({ username: `user ${i}`, password: `password ${i}` })
      await renewals[i]
    }
    t.same([`${credentials.username}`, `${credentials.password}`], ['user 1', 'password 1'])
    t.equal(credentials.secrets.length, 4, 'both are known as secrets')
  }
})

interface MadeConnector {
  connecting: boolean
  firstError?: Error
  connect: (emit: () => void) => Promise<Socket>
}

for (const isTriedAgain of [true, false]) {
  const how = isTriedAgain ? 'has a socket that broke' : 'fails'
  t.test(`a connection that is closed during the credentials function ${how}`, async t => {
    const { credentials, answers, rejects } = held()
    const { Connector } = credentials.optionsFor({})
    const retryStrategy = isTriedAgain ? () => 10 : undefined
    const make = () => new (Connector as unknown as new (options: RedisOptions) => MadeConnector)({
      port: 1, disconnectTimeout: 50, retryStrategy
    } as RedisOptions)
    for (const answers_ of [true, false]) {
      const connector = make()
      const connecting = connector.connect(() => {})
      if (answers_) {
        connector.connecting = false
        answers.at(-1)!({ password: 'p' })
      } else rejects.at(-1)!(new Error('vault'))
      const message = answers_ ? 'Connection is closed.' : /the credentials function failed/
      if (isTriedAgain) {
        t.equal((await connecting).destroyed, true)
        t.match(connector.firstError, { message })
      } else await t.rejects(connecting, { message })
    }
  })
}

t.test('rotate authenticates open connections and ones being made, and fails only if Redis refuses', async t => {
  const credentials = () => ({ username: 'u', password: 'p' })
  const settings = { kind: 'server', options: { port: 1 }, credentials } as const
  const connection = new Connection(settings, { connectTimeout: 1000, commandTimeout: 1000 })
  t.teardown(() => connection.close())
  const client = connection.client as unknown as { status: string, auth: () => Promise<void> }
  const { status } = client
  t.teardown(() => { client.status = status })
  let asked = 0
  const rotateWith = async (status: string, error?: Error) => {
    client.status = status
    client.auth = async () => {
      asked++
      if (error !== undefined) throw error
    }
    return await connection.rotate().then(() => 'fine', ({ kind }: { kind: string }) => kind)
  }
  const refused = Object.assign(new Error('WRONGPASS invalid username-password pair'), { name: 'ReplyError' })
  const unknown = Object.assign(new Error('ERR unknown command'), { name: 'ReplyError' })
  const gone = new Error('Connection is closed.')
  t.same([await rotateWith('wait'), await rotateWith('reconnecting', refused), asked], ['fine', 'fine', 0])
  t.same([await rotateWith('ready'), await rotateWith('connect'), asked], ['fine', 'fine', 2])
  t.same([await rotateWith('ready', refused), await rotateWith('ready', unknown)], ['auth', 'reply'])
  t.equal(await rotateWith('ready', gone), 'fine', 'a new connection asks for credentials itself')
  t.same([await rotateWith('connect', refused), await rotateWith('connect', gone)], ['fine', 'fine'])
})

t.test('closing a connection also closes those to Sentinels, and asks no further Sentinel', async t => {
  const left: string[] = []
  class Given {
    connecting = true
    stream = undefined
    connectToSentinel (name: string) {
      const disconnect = () => left.push(name)
      return Object.assign(new EventEmitter(), { disconnect, resetCommandQueue: () => {}, flushQueue: () => {} })
    }

    disconnect (): void { this.connecting = false }
    async resolve (name: string) { return name === 'none' ? null : { host: name, port: 1 } }
  }
  const Connector = connectorFor({ Connector: Given, disconnectTimeout: 50 } as unknown as RedisOptions)
  const connector = new (Connector as unknown as new (options: RedisOptions) => Given)({})
  const [first] = ['first', 'second', 'third'].map(name => connector.connectToSentinel(name))
  first!.emit('end')
  t.match(await connector.resolve('redis.test'), { host: 'redis.test', servername: 'redis.test' })
  t.equal(await connector.resolve('none'), null)
  connector.disconnect()
  t.same(left, ['second', 'third'])
  await t.rejects(connector.resolve('redis.test'), { message: 'Connection is closed.' })
})

class MadeUpConnection extends EventEmitter {
  ready = true
  isEnded = false
  firstReason = 'no answer yet'
  renewed = 0
  opened = 0
  answers: ((error?: Error) => void)[] = []
  redact = (text: string) => text
  client = {}
  guardClient = { evalsha: async () => await this.answer() }

  async answer (): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.answers.push(error => error === undefined ? resolve() : reject(error))
    })
  }

  open (): void { this.opened++ }
  renew (): void { this.renewed++ }
  async refreshSlots (): Promise<void> {}
  close (): void {}
}

async function turns (): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise(resolve => setImmediate(resolve))
}

function setUp (t: Test) {
  const clock = mockMachinery(t, 'setTimeout')
  const connection = new MadeUpConnection()
  const options = { commandTimeout: 200, resetTimeout: 500, probeKey: 'probe' }
  const guarded = new GuardedRedis(connection as unknown as Connection, options)
  t.teardown(() => guarded.close())
  const heard: string[] = []
  guarded.on('state', state => heard.push(state))
  guarded.on('failure', ({ kind }) => heard.push(kind))
  const comeUp = async () => {
    connection.emit('ready')
    await turns()
    connection.answers.pop()!()
    await turns()
    t.equal(guarded.usable, true)
    heard.length = 0
  }
  return { clock, connection, guarded, heard, comeUp }
}

t.test('an answer that arrives in the turn of its timeout counts as an answer', async t => {
  const { clock, guarded, comeUp } = setUp(t)
  await comeUp()
  for (const isInTime of [true, false]) {
    let answer = () => {}
    const ran = guarded.run(async () => await new Promise<string>(resolve => { answer = () => resolve('answered') }))
      .catch(({ kind }: { kind: string }) => kind)
    await Promise.resolve()
    clock.tick(200)
    if (isInTime) answer()
    await turns()
    t.equal(await ran, isInTime ? 'answered' : 'timeout')
    answer()
  }
  t.equal(guarded.state, 'open')
})

t.test('a probe without an answer gives up its connection, and its late answer does not close the breaker', async t => {
  const { clock, connection, guarded, heard } = setUp(t)
  connection.emit('ready')
  await turns()
  clock.tick(200)
  await turns()
  t.same([connection.renewed, heard], [1, ['timeout']])
  connection.answers.pop()!()
  await turns()
  t.equal(guarded.usable, false)
  clock.tick(500)
  await turns()
  connection.answers.pop()!()
  await turns()
  t.same(heard, ['timeout', 'half-open', 'closed'])
  t.equal(guarded.usable, true)
})

t.test('a probe that is answered while the connection is not complete does not close the breaker', async t => {
  const { clock, connection, guarded, heard } = setUp(t)
  connection.emit('ready')
  await turns()
  connection.ready = false
  connection.answers.pop()!()
  await turns()
  t.same([guarded.state, heard], ['open', []])
  connection.ready = true
  clock.tick(500)
  await turns()
  connection.answers.pop()!()
  await turns()
  t.same(heard, ['half-open', 'closed'])
})

t.test('the answer to a probe after the end changes nothing', async t => {
  for (const error of [undefined, new Error('gone')]) {
    t.test(error === undefined ? 'well' : 'badly', async t => {
      const { connection, guarded, heard } = setUp(t)
      connection.emit('ready')
      await turns()
      guarded.close()
      connection.answers.pop()!(error)
      await turns()
      t.same([guarded.usable, heard], [false, error === undefined ? [] : ['connection']])
    })
  }
})

t.test('without a connection there is no probe: the guard looks for Redis, and the breaker opens again', async t => {
  const { clock, connection, guarded, heard } = setUp(t)
  connection.ready = false
  let looked = 0
  connection.refreshSlots = async () => {
    looked++
    throw new Error('gone')
  }
  for (let i = 1; i <= 2; i++) {
    clock.tick(500)
    await turns()
    t.equal(looked, i)
  }
  t.same(heard, ['half-open', 'open', 'half-open', 'open'])
  t.equal(guarded.usable, false)
})

t.test('a lost connection opens the breaker once', async t => {
  const { connection, guarded, heard, comeUp } = setUp(t)
  await comeUp()
  const downs: unknown[] = []
  guarded.on('down', ({ message }) => downs.push(message))
  connection.emit('lost')
  connection.emit('lost')
  t.same(heard, ['connection', 'open'])
  t.match(downs, [/the connection was closed/])
  connection.emit('error', new Error('connect ECONNREFUSED'))
  t.match(guarded.failure.message, /ECONNREFUSED/)
})

t.test('a rejected command does not open the breaker; a reply to another command ends the connection', async t => {
  const { connection, guarded, heard, comeUp } = setUp(t)
  await comeUp()
  const failsWith = async (error: Error) =>
    await guarded.run(async () => { throw error }).catch(({ kind }: { kind: string }) => kind)
  const refused = Object.assign(new Error('NOPERM this user has no permissions'), { name: 'ReplyError' })
  t.equal(await failsWith(refused), 'reply')
  t.same([guarded.usable, heard, connection.renewed], [true, ['reply'], 0])
  await failsWith(new OutOfStepError())
  t.same([guarded.usable, connection.renewed], [false, 1])
})

t.test('connect returns after the first probe, the loss or the end of the connection, or the timeout', async t => {
  const ends: Record<string, (made: ReturnType<typeof setUp>) => void> = {
    'the probe': ({ connection }) => {
      connection.ready = true
      connection.emit('ready')
      setImmediate(() => connection.answers.pop()!())
    },
    'the loss': ({ connection }) => { connection.emit('lost') },
    'the time': ({ clock }) => { clock.tick(1000) }
  }
  for (const [name, end] of Object.entries(ends)) {
    t.test(name, async t => {
      const made = setUp(t)
      made.connection.ready = false
      let isOver = false
      const connecting = made.guarded.connect(1000).then(() => { isOver = true })
      made.clock.tick(999)
      await turns()
      t.equal(isOver, false)
      end(made)
      await connecting
      t.equal(made.guarded.usable, name === 'the probe')
    })
  }
  t.test('the end, before the first attempt', async t => {
    const { connection, guarded } = setUp(t)
    Object.assign(connection, { ready: false, isEnded: true })
    await guarded.connect(1000)
    t.equal(guarded.usable, false)
  })
})
