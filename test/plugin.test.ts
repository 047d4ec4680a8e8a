/** The plugin as a whole: options at registration, warnings, log levels, and closing. */
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import redisGuard from '../lib/index.js'
import { guardedApp, logTo } from './support/app.js'
import { mockMachinery } from './support/fake-timers.js'
import { RedisServer } from '../tools/redis-server.js'
import { until } from '../tools/until.js'

function environment (t: Test, env: Record<string, string>): void {
  const before = { ...process.env }
  Object.assign(process.env, env)
  t.teardown(() => {
    for (const name of Object.keys(env)) {
      if (before[name] === undefined) delete process.env[name]
      else process.env[name] = before[name]
    }
  })
}

t.test('wrong options give one error at registration that names all of them', async t => {
  const app = Fastify()
  t.teardown(async () => await app.close())
  const wrong = { max: '10', timeWindow: 'soon', redis: 'http://user:secret@host', ipv6Subnet: 129, maxx: 5 }
  const register = async () => await app.register(redisGuard, wrong as object)
  const error = await register().then(() => undefined, (thrown: unknown) => thrown)
  const { code, message, problems } = error as { code: string, message: string, problems: { option: string }[] }
  t.equal(code, 'GUARD_ERR_OPTIONS')
  t.same(problems.map(({ option }) => option).sort(), ['ipv6Subnet', 'max', 'maxx', 'redis', 'timeWindow'])
  t.match(message, /max must be a whole number >= 0, or Infinity, or a function .*, got "10"/)
  t.notMatch(message, /secret/)
})

t.test('an application of fastify-cli whose plugins are loaded by @fastify/autoload', async t => {
  /** Loads the plugin as both do for a file in the folder plugins/, whose `autoConfig` contains its own options. */
  const load = async (autoConfig: object, ofCommandLine: object, prefix?: string) => {
    const lines: Record<string, unknown>[] = []
    const app = Fastify(logTo(lines))
    t.teardown(async () => await app.close())
    const serverOptions = { trustProxy: '10.0.0.0/8', requestTimeout: 1000, pluginTimeout: 9000, forceESM: true }
    // fastify-cli with --options, and its helper for tests
    const ofApplication = Object.assign({}, serverOptions, ofCommandLine, { skipOverride: true })
    await app.register(async application => {
      const options: Record<string, unknown> = Object.assign({}, autoConfig, ofApplication)
      options['prefix'] = prefix
      await application.register(redisGuard, options)
      application.get('/', async () => 'ok')
    }, ofApplication)
    return { app, lines }
  }

  t.test('starts with its own options', async t => {
    const { app, lines } = await load({ redis: false, max: 1 }, {})
    t.same([(await app.inject('/')).statusCode, (await app.inject('/')).statusCode], [200, 429])
    t.same(lines.filter(({ code }) => code !== undefined), [])
    await load({ redis: false }, {}, '/plugins')
  })

  t.test('starts with an option that the command line adds, and names it in one warning', async t => {
    const { app, lines } = await load({ redis: false }, { foo: 'hunter2', 'dry-run': true, dryRun: true, max: 1 })
    t.equal((await app.inject('/')).headers['x-ratelimit-limit'], '1')
    t.match(lines, [{ code: 'GUARD_WARN_UNKNOWN_OPTIONS', msg: /does not know: foo, dryRun\./ }])
    t.equal(lines.length, 1)
    t.notMatch(JSON.stringify(lines), 'hunter2')
  })

  t.test('does not start with a misspelt option', async t => {
    const mistake = { code: 'GUARD_ERR_OPTIONS', message: /did you mean timeWindow/ }
    await t.rejects(load({ redis: false, windowMs: 1000 }, {}), mistake)
  })
})

t.test('warns of each risky configuration', async t => {
  const warningsOf = async (server: object, options: object = {}) => {
    const lines: Record<string, unknown>[] = []
    const app = await guardedApp(t, options, { ...logTo(lines), ...server })
    return { app, lines, codes: lines.map(({ code }) => code) }
  }

  t.test('trustProxy: true, and a number', async t => {
    t.match((await warningsOf({ trustProxy: true })).lines, [{
      code: 'GUARD_WARN_TRUST_PROXY',
      msg: /leftmost address .* any client can make up/
    }])
    t.match((await warningsOf({ trustProxy: 1 })).lines, [{ code: 'GUARD_WARN_TRUST_PROXY', msg: /trusts no proxy/ }])
    for (const trustProxy of [false, '10.0.0.0/8', ['10.0.0.0/8']]) t.same((await warningsOf({ trustProxy })).codes, [])
  })

  t.test('a registration that is not awaited before the routes', async t => {
    const lines: Record<string, unknown>[] = []
    const app = Fastify(logTo(lines))
    t.teardown(async () => await app.close())
    app.register(redisGuard, { redis: false, max: 0 })
    app.get('/early', async () => 'ok')
    await app.ready()
    t.match(lines, [{
      code: 'GUARD_WARN_ROUTES_BEFORE',
      msg: /: GET \/early\. To limit them, write `await app\.register/
    }])
    t.match(app.redisGuard.warnings, [{ code: 'GUARD_WARN_ROUTES_BEFORE' }])
    t.equal((await app.inject('/early')).statusCode, 200, 'so it is not limited')
  })

  t.test('Redis without a password in production, and one that evicts', async t => {
    const server = await RedisServer.start('--maxmemory', '100mb', '--maxmemory-policy', 'allkeys-lru')
    t.teardown(async () => await server.stop())
    const commandTimeout = 20_000
    const inDevelopment = await warningsOf({}, { redis: server.url, commandTimeout })
    await until(() => inDevelopment.lines.length === 1)
    t.match(inDevelopment.lines, [{ code: 'GUARD_WARN_EVICTION', msg: /maxmemory-policy is allkeys-lru/ }])
    environment(t, { NODE_ENV: 'production', REDIS_URL: server.url })
    const { lines, app } = await warningsOf({}, { redis: undefined, commandTimeout })
    await until(() => lines.length === 2)
    t.match(lines.map(({ code }) => code), ['GUARD_WARN_NO_PASSWORD', 'GUARD_WARN_EVICTION'])
    t.match(app.redisGuard.warnings.map(({ code }) => code), ['GUARD_WARN_NO_PASSWORD', 'GUARD_WARN_EVICTION'])
    t.equal(app.redisGuard.status.store, 'redis')
  })
})

t.test('LOG_LEVEL', async t => {
  t.test('debug shows each decision, whatever the level of the application', async t => {
    environment(t, { LOG_LEVEL: 'debug' })
    const lines: Record<string, unknown>[] = []
    const app = await guardedApp(t, { max: 0 }, logTo(lines))
    app.get('/', async () => 'ok')
    await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
    t.match(lines, [
      {
        level: 30,
        plugin: 'redis-guard',
        msg: 'limits and blocks are kept in memory',
        reason: 'the redis option is false'
      },
      {
        level: 20,
        plugin: 'redis-guard',
        msg: 'limited',
        decision: { limit: 'global', source: 'memory', client: { address: '192.0.2.1' } }
      }
    ])
  })

  t.test('a level that the logger does not know is left to the application', async t => {
    environment(t, { LOG_LEVEL: 'verbose' })
    const lines: Record<string, unknown>[] = []
    await guardedApp(t, {}, logTo(lines, 'info'))
    t.match(lines, [{ msg: 'limits and blocks are kept in memory' }])
  })
})

t.test('after closing, no connection is left and nothing is sent', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const observer = server.client()
  t.teardown(() => observer.disconnect())
  for (let i = 0; i < 5; i++) {
    const app = Fastify()
    await app.register(redisGuard, { redis: server.url, commandTimeout: 20_000, syncInterval: 10 })
    await app.close()
  }
  await until(async () => !/name=.*\n.*name=/.test(String(await observer.client('LIST'))))
  const before = Number(/total_commands_processed:(\d+)/.exec(await observer.info('stats'))![1])
  await new Promise(resolve => setTimeout(resolve, 100))
  t.equal(Number(/total_commands_processed:(\d+)/.exec(await observer.info('stats'))![1]), before + 1)
})

t.test('closing while Redis hangs takes no longer than a command may', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const app = Fastify()
  await app.register(redisGuard, { redis: server.url, max: 0 })
  app.get('/', async () => 'ok')
  await app.inject('/')
  await until(() => app.redisGuard.status.store === 'redis')
  server.signal('SIGSTOP')
  const startMs = performance.now()
  await app.close()
  // 250 ms on an idle machine.
  t.ok(performance.now() - startMs < 2500, `${performance.now() - startMs} ms`)
})

t.test('expired counters are removed every half minute', async t => {
  const clock = mockMachinery(t, 'setInterval')
  const app = await guardedApp(t, { redis: { port: 1 }, onOutage: 'share', timeWindow: 20 })
  app.get('/', async () => 'ok')
  const keys = async () => Number(/^redis_guard_memory_keys (\d+)$/m.exec((await app.inject('/metrics')).body)![1])
  await app.inject('/')
  t.equal(await keys(), 1)
  await new Promise(resolve => setTimeout(resolve, 30))
  clock.tick(29_000)
  t.equal(await keys(), 1)
  clock.tick(1000)
  t.equal(await keys(), 0)
})
