/** The kind of an error of Redis or of the network, and its message, which contains no secret. */
import t from 'tap'
import { failureOf, valueErrorOf } from '../../lib/redis/failure.js'

/** An error reply as ioredis throws it. */
function reply (message: string): Error {
  return Object.assign(new Error(message), { name: 'ReplyError', command: { name: 'auth', args: ['a secret'] } })
}

t.test('finds the kind of a failure in the words of Redis and of the network', async t => {
  const said: [kind: string, error: unknown][] = [
    ['auth', reply('NOAUTH Authentication required.')],
    ['auth', reply('WRONGPASS invalid username-password pair or user is disabled.')],
    ['reply', reply("NOPERM User app has no permissions to run the 'evalsha' command")],
    ['oom', reply(
      "ERR Error running script (call to f_0): @user_script:12: OOM command not allowed when used memory > 'maxmemory'."
    )],
    ['auth', reply('ERR invalid password')],
    ['oom', reply("OOM command not allowed when used memory > 'maxmemory'.")],
    ['readonly', reply("READONLY You can't write against a read only replica.")],
    ['readonly',
      reply('MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk.')],
    ['readonly', reply('NOREPLICAS Not enough good replicas to write.')],
    ['loading', reply('LOADING Redis is loading the dataset in memory')],
    ['loading', reply('BUSY Redis is busy running a script.')],
    ['loading', reply("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.")],
    ['cluster', reply('CLUSTERDOWN The cluster is down')],
    ['cluster', new Error('Failed to refresh slots cache.')],
    ['timeout', new Error('Command timed out')],
    ['timeout', Object.assign(new Error('Timed out after 250ms'), { code: 'ETIMEDOUT' })],
    ['tls', Object.assign(new Error('self-signed certificate'), { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' })],
    ['tls', Object.assign(new Error(
      '0:error:0A00045C:SSL routines:ssl3_read_bytes:tlsv13 alert certificate required:SSL alert number 116\n'
    ), { code: 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED' })],
    ['connection', Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:1'), { code: 'ECONNREFUSED' })],
    ['connection', Object.assign(new Error('getaddrinfo ENOTFOUND redis-tls.internal'), { code: 'ENOTFOUND' })],
    ['connection', Object.assign(
      new Error('Client network socket disconnected before secure TLS connection was established'),
      { code: 'ECONNRESET' }
    )],
    ['connection', new Error('Connection is closed.')],
    ['connection', 'a text, thrown'],
    ['reply', reply('ERR unknown command')]
  ]
  for (const [kind, error] of said) t.equal(failureOf(error).kind, kind, String(error))
})

t.test('keeps the message and the stack, and drops the command with its arguments', async t => {
  const error = reply('WRONGPASS invalid username-password pair')
  const { message, cause } = failureOf(error)
  t.equal(message, 'Redis cannot be used (auth): WRONGPASS invalid username-password pair')
  t.match(cause, { name: 'ReplyError', message: error.message, stack: error.stack })
  t.notOk('command' in (cause as object))
  t.notMatch(JSON.stringify(cause, Object.getOwnPropertyNames(cause)), /secret/)
})

t.test('drops the arguments that Redis quotes for an unknown command', async t => {
  const failure = failureOf(reply("ERR unknown command 'AUTH', with args beginning with: 'default' 'a secret' "))
  t.match(failure, { kind: 'reply', message: "Redis cannot be used (reply): ERR unknown command 'AUTH'" })
  t.notMatch(`${failure.stack} ${(failure.cause as Error).stack}`, /secret/)
})

t.test('a Cluster without nodes fails like its last node, if that failure can be fixed', async t => {
  const failed = (lastNodeError: unknown) =>
    failureOf(Object.assign(new Error('Failed to refresh slots cache.'), { lastNodeError }))
  t.match(failed(reply('WRONGPASS invalid username-password pair')), { kind: 'auth', message: /WRONGPASS/ })
  t.match(failed(new Error('self-signed certificate')), { kind: 'tls' })
  for (const other of [new Error('Connection is closed.'), undefined]) t.match(failed(other), { kind: 'cluster' })
})

t.test('gives a message also for errors without one', async t => {
  const both = Object.assign(
    new AggregateError([new Error('connect ECONNREFUSED ::1:1'), new Error('connect ECONNREFUSED 127.0.0.1:1')]),
    { code: 'ECONNREFUSED' }
  )
  t.match(failureOf(both), {
    kind: 'connection',
    message: 'Redis cannot be used (connection): connect ECONNREFUSED ::1:1; connect ECONNREFUSED 127.0.0.1:1'
  })
  t.match(
    failureOf(Object.assign(new Error(''), { code: 'ECONNRESET' })).message,
    'Redis cannot be used (connection): ECONNRESET'
  )
  t.equal(failureOf(new Error('SSL alert number 116\n')).message, 'Redis cannot be used (tls): SSL alert number 116')
  const bare = new Error('no stack')
  delete bare.stack
  t.match(failureOf(bare).message, /no stack/)
})

t.test('a value that a command cannot work on is no failure of Redis', async t => {
  for (const message of [
    'WRONGTYPE Operation against a key holding the wrong kind of value', 'ERR value is not an integer or out of range',
    'ERR increment or decrement would overflow'
  ]) {
    t.match(valueErrorOf(reply(message)), { code: 'GUARD_ERR_VALUE', message })
  }
  t.equal(valueErrorOf(reply('OOM command not allowed')), undefined)
})
