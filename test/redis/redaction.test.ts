/** User and password reach no log, error or status, whatever a server says about them. */
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { inspect } from 'node:util'
import { Cluster, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { failureOf, valueErrorOf } from '../../lib/redis/failure.js'
import { redactor } from '../../lib/redis/redaction.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { guardedApp, logTo } from '../support/app.js'
import { until } from '../../tools/until.js'

const user = 'of-the-shop'
const password = 's3cret p@ss:w/o#r%d "1"'

/** A server that answers each command with an error that quotes the arguments. */
async function repeatingServer (t: Test, wordsOf: (command: readonly string[]) => string): Promise<number> {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('data', data => {
      // Each command is a list of texts, each preceded by its length.
      const commands = data.toString().split(/\*\d+\r\n(?=\$)/).slice(1)
      for (const command of commands) {
        socket.write(`-${wordsOf(command.split(/\$\d+\r\n/).slice(1).map(part => part.slice(0, -2)))}\r\n`)
      }
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return (server.address() as { port: number }).port
}

const words: Readonly<Record<string, (command: readonly string[]) => string>> = {
  'a list of arguments': ([name, ...rest]) =>
    `ERR unknown command ${name} with ${rest.map(part => `'${part}'`).join(' ')}`,
  'a URL': command =>
    `ERR proxy: no route to redis://${command.slice(-2).map(encodeURIComponent).join(':')}@upstream:6379`,
  'a URL in small letters': command => {
    const encoded = (part: string) => encodeURIComponent(part).replace(/%../g, found => found.toLowerCase())
    return `ERR redis://${command.slice(-2).map(encoded).join(':')}@upstream`
  },
  JSON: command => `ERR denied ${JSON.stringify(command)}`,
  'WRONGPASS and the password': command => `WRONGPASS invalid username-password pair ${command.join(' ')}`
}

const ways: Readonly<Record<string, (port: number) => RedisGuardOptions['redis']>> = {
  'a URL': port => `redis://${encodeURIComponent(user)}:${encodeURIComponent(password)}@127.0.0.1:${port}`,
  options: port => ({ port, username: user, password }),
  'a function': port => ({ port, credentials: () => ({ username: user, password }) }),
  'a Cluster': port => ({ cluster: [{ host: '127.0.0.1', port }], redisOptions: { username: user, password } }),
  'a node of a Cluster': port =>
    ({ cluster: [`redis://${encodeURIComponent(user)}:${encodeURIComponent(password)}@127.0.0.1:${port}`] }),
  'a Sentinel': port =>
    ({ sentinels: [{ host: '127.0.0.1', port }], name: 'main', sentinelUsername: user, sentinelPassword: password })
}

/** Checks that neither user nor password occurs in a value. */
function hasNone (t: Test, value: unknown, message: string): void {
  const text = typeof value === 'string' ? value : inspect(value, { depth: 10, showHidden: true })
  const forms = [user, password, encodeURIComponent(password), JSON.stringify(password).slice(1, -1)]
  t.same(forms.filter(form => text.toLowerCase().includes(form.toLowerCase())), [], message, { text })
}

for (const [way, redisFor] of Object.entries(ways)) {
  t.test(`credentials from ${way} are in no log line, error or status, whatever the server says`, async t => {
    await Promise.all(Object.entries(words).map(async ([name, wordsOf]) => {
      const lines: Record<string, unknown>[] = []
      const redis = redisFor(await repeatingServer(t, wordsOf))!
      const times = { connectTimeout: 300, commandTimeout: 100, resetTimeout: 50 }
      const app = await guardedApp(t, { redis, ...times }, logTo(lines, 'trace'))
      await until(async () => /errors_total\{kind="\w+"\} [1-9]/.test((await app.inject('/metrics')).body))
      // A Cluster gives few words of its nodes as the reason; all others do.
      if (!way.includes('Cluster')) await until(() => app.redisGuard.status.reason!.includes('***'))
      hasNone(t, JSON.stringify(lines), `${name}: log lines`)
      const { status, warnings } = app.redisGuard
      hasNone(t, status.reason!, `${name}: status.reason`)
      hasNone(t, warnings, `${name}: warnings`)
      hasNone(t, await app.redisGuard.rotate().catch((error: unknown) => error), `${name}: rotate`)
      await app.close()
    }))
  })
}

t.test('credentials from the environment are in no log line, error or status', async t => {
  const port = await repeatingServer(t, words['a list of arguments']!)
  const before = { ...process.env }
  Object.assign(process.env, {
    REDIS_URL: `redis://${user}@127.0.0.1:${port}`,
    REDIS_PASSWORD: password,
    REDIS_ENABLED: 'true'
  })
  t.teardown(() => {
    for (const name of ['REDIS_URL', 'REDIS_PASSWORD', 'REDIS_ENABLED']) {
      if (before[name] === undefined) delete process.env[name]
    }
  })
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, { redis: undefined, connectTimeout: 300 }, logTo(lines, 'trace'))
  await until(() => app.redisGuard.status.reason!.includes('***'))
  hasNone(t, [app.redisGuard.status.reason, JSON.stringify(lines)], 'status and log lines')
})

t.test("credentials of the user's own client are in no log line, error or status", async t => {
  const port = await repeatingServer(t, words['a list of arguments']!)
  const options = { lazyConnect: true, enableOfflineQueue: false, retryStrategy: () => null }
  const node = `redis://${user}:${encodeURIComponent(password)}@127.0.0.1:${port}`
  const clients = [
    new Redis({ ...options, port, username: user, password }),
    new Cluster([{ host: '127.0.0.1', port }], {
      ...options,
      clusterRetryStrategy: () => null,
      redisOptions: { username: user, password }
    }),
    new Cluster([node], { ...options, clusterRetryStrategy: () => null })
  ]
  for (const redis of clients) {
    redis.on('error', () => {})
    t.teardown(() => redis.disconnect())
    const lines: Record<string, unknown>[] = []
    const app = await guardedApp(t, { redis, connectTimeout: 300 }, logTo(lines, 'trace'))
    hasNone(t, [app.redisGuard.status.reason, JSON.stringify(lines)], 'status and log lines')
  }
})

t.test('the last ten answers of a credentials function are redacted', async t => {
  let asked = 0
  const lastTen = () => Array.from({ length: 10 }, (_, i) => `token-number-${Math.max(1, asked - i)}`)
  const port = await repeatingServer(t, () => `WRONGPASS not one of ${lastTen().join()}`)
  const credentials = () => ({ password: `token-number-${++asked}` })
  const redis = { port, credentials, retryStrategy: () => 20 }
  const app = await guardedApp(t, { redis, connectTimeout: 300, resetTimeout: 50 })
  const reasons = new Set<string>()
  await until(() => {
    reasons.add(app.redisGuard.status.reason!)
    return asked > 13 && [...reasons].some(reason => reason.includes('not one of ***'))
  })
  t.notMatch([...reasons].join(), 'token-number')
})

t.test('removes secrets from message, stack and cause, and keeps the kind of failure', async t => {
  const redact = redactor(() => ['user', 'WRONGPASS', undefined, null, '', 'default'])
  const failure = failureOf(Object.assign(new Error('WRONGPASS of user at default'), { name: 'ReplyError' }), redact)
  t.match(failure, { kind: 'auth', message: 'Redis cannot be used (auth): *** of *** at default' })
  t.notMatch(`${failure.stack} ${inspect(failure.cause)}`, /WRONGPASS/)
  const ofNode = failureOf(Object.assign(new Error('no node'), { lastNodeError: new Error('WRONGPASS') }), redact)
  t.notMatch(inspect(ofNode), 'WRONGPASS')
  t.equal(valueErrorOf(new Error('WRONGTYPE of user'), redact)!.message, 'WRONGTYPE of ***')
})

t.test('redacts a long secret also if it is cut off, contains another one, or is encoded', async t => {
  const long = 'x1'.repeat(100)
  const redact = redactor(() => [long, 'pass', 'password', 'p\r\nq\ud800', '%41bcd'])
  t.equal(redact(`${long} and '${long.slice(0, 128)}' and ${long}${long}`), '*** and \'***\' and ******')
  t.equal(redact('the password is pass'), 'the *** is ***')
  t.equal(
    redact('p\r\nq\ud800, p  q\ud800, p%0D%0Aq%EF%BF%BD, p%0d%0aq%ef%bf%bd, p\\r\\nq\\ud800'),
    '***, ***, ***, ***, ***'
  )
  t.equal(redact('Abcd, %41bcd'), '***, ***')
})

t.test('redacts a secret of one to three characters only between quotes and in URLs', async t => {
  for (const short of ['3', '.*', 'a(b', 'é']) {
    const redact = redactor(() => [short])
    t.equal(
      redact(`'${short}' "${short}" \`${short}\` redis://${short}:${short}@host //${short}@host`),
      "'***' \"***\" `***` redis://***:***@host //***@host"
    )
    const readable = 'connect ECONNREFUSED 127.0.0.1:6333 after 3 ms, a(b and .* and é'
    t.equal(redact(readable), readable)
  }
})
