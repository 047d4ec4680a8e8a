/** The environment variables: their values, and which of them wins. */
import t from 'tap'
import { type Environment, readEnvironment, variables } from '../../lib/settings/environment.js'
import type { OptionProblem } from '../../lib/errors.js'
import { resolveOptions } from '../../lib/settings/settings.js'

type Variables = Readonly<Record<string, string | undefined>>

function read (env: Variables): Environment & { problems: readonly OptionProblem[] } {
  const problems: OptionProblem[] = []
  return { ...readEnvironment(env, problems), problems }
}

const unset: Environment = {
  production: false,
  development: false,
  redis: undefined,
  enabled: undefined,
  connectTimeout: undefined,
  logLevel: undefined
}

t.test('the configurations of managed services work as in docs/redis.md', async t => {
  const accessKey = 'p4s/w0rd+with=all#of@it%:'
  const configurations: [where: string, env: Variables, options: object][] = [
    [
      'AWS ElastiCache',
      { REDIS_URL: 'redis://my-cluster.abc123.cache.amazonaws.com:6379', REDIS_TLS: 'true' },
      { host: 'my-cluster.abc123.cache.amazonaws.com', port: 6379, db: 0, tls: {} }
    ],
    [
      'Azure Cache',
      { REDIS_URL: 'redis://my-cache.redis.cache.windows.net:6380', REDIS_PASSWORD: accessKey, REDIS_TLS: 'true' },
      { host: 'my-cache.redis.cache.windows.net', port: 6380, db: 0, password: accessKey, tls: {} }
    ],
    [
      'Docker Compose',
      { REDIS_URL: 'redis://redis:6379', REDIS_PASSWORD: accessKey, REDIS_TLS: 'false' },
      { host: 'redis', port: 6379, db: 0, password: accessKey }
    ]
  ]
  for (const [where, env, options] of configurations) {
    t.same(resolveOptions({}, { NODE_ENV: 'production', ...env }).redis, { kind: 'server', options }, where)
  }
})

t.test('an empty variable counts as unset', async t => {
  t.same(read({}), { ...unset, problems: [] })
  const empty = Object.fromEntries(Object.keys(variables).map(name => [name, '']))
  t.same(read(empty), { ...unset, problems: [] })
})

t.test('an empty REDIS_PASSWORD leaves the password of the URL', async t => {
  t.equal(read({ REDIS_URL: 'redis://:fromUrl@redis', REDIS_PASSWORD: '' }).redis?.password, 'fromUrl')
})

t.test('REDIS_PASSWORD wins over the URL, and is used unchanged', async t => {
  for (const password of ['a b', '%41', '100%', '@:/#?&', ' lead', 'trail ', '"quoted"']) {
    t.match(read({ REDIS_URL: 'redis://me:fromUrl@redis', REDIS_PASSWORD: password }).redis, {
      username: 'me',
      password
    })
  }
})

t.test('TLS follows the URL or REDIS_TLS', async t => {
  const cases: [url: string, tls: string | undefined, expected: object | undefined][] = [
    ['redis://h', undefined, undefined],
    ['redis://h', 'false', undefined],
    ['redis://h', 'true', {}],
    ['rediss://h', undefined, {}],
    ['rediss://h', 'true', {}],
    // A left-over REDIS_TLS must not turn off the TLS of rediss://.
    ['rediss://h', 'false', {}],
    ['unix:///run/redis.sock', 'true', undefined]
  ]
  for (const [url, tls, expected] of cases) {
    t.same(read({ REDIS_URL: url, REDIS_TLS: tls }).redis?.tls, expected, `${url} with REDIS_TLS=${tls}`)
  }
})

t.test('true and false are read in any case, with spaces around', async t => {
  for (const [text, enabled] of [
    ['true', true], ['TRUE', true], [' True ', true], ['false', false], ['FALSE', false]
  ] as const) {
    t.equal(read({ REDIS_ENABLED: text }).enabled, enabled)
  }
})

t.test('only NODE_ENV=production is production', async t => {
  t.equal(read({ NODE_ENV: 'production' }).production, true)
  for (const mode of ['development', 'test', 'Production', 'prod', undefined]) {
    t.equal(read({ NODE_ENV: mode }).production, false)
  }
})

t.test('development and test are not services', async t => {
  for (const mode of ['development', 'test']) t.equal(read({ NODE_ENV: mode }).development, true)
  for (const mode of ['production', 'staging', undefined]) t.equal(read({ NODE_ENV: mode }).development, false)
})

t.test('REDIS_TIMEOUT and LOG_LEVEL are read', async t => {
  t.match(read({ REDIS_TIMEOUT: '5000', LOG_LEVEL: 'debug' }), {
    connectTimeout: 5000,
    logLevel: 'debug',
    problems: []
  })
  for (const ms of [1, 600_000]) t.match(read({ REDIS_TIMEOUT: String(ms) }), { connectTimeout: ms, problems: [] })
})

t.test('a wrong value is named, counts as unset, and hides no other', async t => {
  const wrong: [name: string, value: string][] = [
    ['REDIS_URL', 'http://redis:6379'],
    ['REDIS_URL', 'redis'],
    ['REDIS_URL', 'redis://redis:6379?db=1'],
    ['REDIS_TLS', 'yes'],
    ['REDIS_TLS', '1'],
    ['REDIS_ENABLED', 'on'],
    // Names that every JavaScript object has are not booleans.
    ['REDIS_ENABLED', 'constructor'],
    ['REDIS_ENABLED', '__proto__'],
    ['REDIS_TIMEOUT', '5s'],
    ['REDIS_TIMEOUT', '0'],
    ['REDIS_TIMEOUT', '-1'],
    ['REDIS_TIMEOUT', '1.5'],
    ['REDIS_TIMEOUT', '600001'],
    ['REDIS_TIMEOUT', 'Infinity']
  ]
  for (const [name, value] of wrong) {
    const { problems, ...environment } = read({ [name]: value })
    t.same(problems.map(({ option }) => option), [name], `${name}=${value}`)
    t.same(environment, unset, `${name}=${value}`)
  }
  const all = read({ REDIS_URL: 'http://redis', REDIS_TLS: 'yes', REDIS_ENABLED: 'on', REDIS_TIMEOUT: 'soon' })
  t.same(all.problems.map(({ option }) => option).sort(), ['REDIS_ENABLED', 'REDIS_TIMEOUT', 'REDIS_TLS', 'REDIS_URL'])
})

t.test('a wrong value is reported with its rule', async t => {
  t.same(read({ REDIS_TIMEOUT: '5s' }).problems, [{
    option: 'REDIS_TIMEOUT',
    rule: 'a whole number of ms from 1 to 600000',
    received: '"5s"'
  }])
})

t.test('no other variable is read', async t => {
  const asked = new Set<string>()
  readEnvironment(new Proxy<Variables>({}, { get: (_, name) => { asked.add(String(name)) } }), [])
  t.same([...asked].sort(), Object.keys(variables).sort())
})

t.test('the result is frozen', async t => {
  t.ok(Object.isFrozen(readEnvironment({}, [])))
})
