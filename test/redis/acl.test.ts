/** README's ACL line: with it the guard does all that it does, and of its commands none can be left out. */
import { readdir, readFile } from 'node:fs/promises'
import type { FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { RedisGuardOptions } from '../../lib/options.js'
import { algorithms } from '../../lib/rules/rate-limit.js'
import { guardedApp } from '../support/app.js'
import { RedisServer } from '../support/redis-server.js'
import { until } from '../support/until.js'

const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8')

/** What the line behind a marker says of the user. */
function rulesBehind (marker: string): readonly string[] {
  const [, rules] = new RegExp(`<!-- ${marker} -->\\n\`\`\`\\nACL SETUSER guard (.*)\\n\`\`\`\\n`).exec(readme)!
  return rules!.split(' ')
}

const forServer = rulesBehind('ACL of a server')
const commandsIn = (rules: readonly string[]) => rules.filter(rule => rule.startsWith('+'))

/** Servers with the user, and how they are seen and treated from outside. */
interface Place {
  readonly redis: Exclude<RedisGuardOptions['redis'], undefined>
  readonly operators: readonly Redis[]
  readonly signal: (signal: NodeJS.Signals) => void
}

/** Whoever is not the operator, nor the user, may do nothing. */
async function startServer (t: Test, rules: readonly string[]): Promise<Place> {
  const server = await RedisServer.start('--requirepass', 'of the operator', '--maxmemory-policy', 'allkeys-lru')
  t.teardown(async () => await server.stop())
  const operator = server.client({ password: 'of the operator' })
  t.teardown(() => operator.disconnect())
  await operator.call('ACL', 'SETUSER', 'guard', ...rules)
  return { redis: `redis://guard:password@127.0.0.1:${server.port}`, operators: [operator], signal: signal => server.signal(signal) }
}

/** The commands in ACL LOG, each once. */
async function refusedIn ({ operators }: Place): Promise<string[]> {
  const logs = await Promise.all(operators.map(async operator => await operator.call('ACL', 'LOG') as string[][]))
  return [...new Set(logs.flat().map(entry => entry[entry.indexOf('object') + 1]!))].sort()
}

const outages = ['memory', 'share'] as const

async function instance (t: Test, { redis }: Place): Promise<FastifyInstance> {
  const app = await guardedApp(t, { redis, syncInterval: 20, resetTimeout: 50 })
  for (const algorithm of algorithms) {
    for (const onOutage of outages) {
      app.get(`/${algorithm}/${onOutage}`, { config: { rateLimit: { algorithm, onOutage, max: 2, timeWindow: '1 hour' } } }, async () => 'ok')
    }
  }
  return app
}

/** Of each limit one more than it allows. */
async function hit (app: FastifyInstance, remoteAddress: string): Promise<number[]> {
  const statuses: number[] = []
  for (const url of algorithms.flatMap(algorithm => outages.map(onOutage => `/${algorithm}/${onOutage}`))) {
    for (let i = 0; i < 3; i++) statuses.push((await app.inject({ url, remoteAddress })).statusCode)
  }
  return statuses
}

async function change ({ redisGuard }: FastifyInstance): Promise<void> {
  await redisGuard.set('text', 'some', { ttlSeconds: 600 })
  await redisGuard.incr('sum')
  await redisGuard.expire('sum', 600)
  await redisGuard.set('gone', 1)
  await redisGuard.del('gone')
  await redisGuard.blockIP('198.51.100.1', 600)
  await redisGuard.blockIP('198.51.100.0/28', Infinity)
  await redisGuard.blockIP('203.0.113.1', 600)
  await redisGuard.unblockIP('203.0.113.1')
  await redisGuard.logRateLimitEvent({ ip: '192.0.2.9' })
}

async function read ({ redisGuard }: FastifyInstance): Promise<void> {
  await redisGuard.get('text')
  await redisGuard.isIPBlocked('198.51.100.1')
  await redisGuard.getBlockedIPs()
  await redisGuard.getRateLimitEvents()
  await redisGuard.getSuspiciousIPs()
}

/**
 * All that needs Redis, done by two instances.
 *
 * @yields those that are still there, where somebody may look how it goes
 */
async function * everything (t: Test, place: Place): AsyncGenerator<readonly FastifyInstance[], void> {
  const { operators, signal } = place
  const instances = [await instance(t, place), await instance(t, place)]
  const [app, other] = instances as [FastifyInstance, FastifyInstance]
  yield instances
  const onRedis = () => instances.every(({ redisGuard }) => redisGuard.status.store === 'redis')
  await until(onRedis)
  await hit(app, '192.0.2.1')
  await change(app)
  yield instances
  await read(other)
  await other.inject('/metrics')
  yield instances
  await until(async () => (await other.inject({ url: '/', remoteAddress: '198.51.100.1' })).statusCode === 403)

  signal('SIGSTOP')
  for (const { redisGuard } of instances) await redisGuard.get('text')
  await hit(app, '192.0.2.2')
  await change(app)
  signal('SIGCONT')
  await until(onRedis)
  yield instances

  await app.redisGuard.clearOldRateLimitEvents(0)
  yield instances
  // They tell it again what they know.
  for (const operator of operators) await operator.flushall()
  await until(async () => {
    await hit(app, '192.0.2.3')
    return onRedis() && (await app.redisGuard.getBlockedIPs()).length === 2
  })
  yield instances
  for (const instance of instances) await instance.close()
  yield []
}

async function firstRefused (t: Test, place: Place): Promise<string[]> {
  const steps = everything(t, place)
  while ((await steps.next()).done !== true) {
    const refused = await refusedIn(place)
    if (refused.length > 0) return refused
  }
  return []
}

/** Lines of the metrics for failures that an outage does not explain. */
const otherFailures = /^redis_guard_errors_total\{kind="(?!connection|timeout|lost)\w+"\} [1-9]/m

t.test('with the line nothing is refused, and no failure but those of the outage', async t => {
  const place = await startServer(t, forServer)
  for await (const instances of everything(t, place)) {
    t.same(await refusedIn(place), [])
    for (const app of instances) {
      const { body } = await app.inject('/metrics')
      t.match(body, /^redis_guard_redis_up 1$/m)
      t.match(body, /^redis_guard_redis_slowlog_entries \d/m)
      t.notMatch(body, otherFailures)
      t.notMatch(body, /^redis_guard_journal_dropped_total.* [1-9]/m)
      t.match(app.redisGuard.warnings, [{ code: 'GUARD_WARN_EVICTION' }])
    }
  }
})

for (const command of commandsIn(forServer)) {
  t.test(`without ${command} something is refused`, async t => {
    // Without INFO, ioredis says so.
    t.capture(console, 'warn')
    const place = await startServer(t, forServer.filter(rule => rule !== command))
    t.same(await firstRefused(t, place), [command.slice(1)])
  })
}

t.test('without INFO and SLOWLOG LEN only metrics and the warning about eviction are missing', async t => {
  t.capture(console, 'warn')
  const place = await startServer(t, forServer.filter(rule => !['+info', '+slowlog|len'].includes(rule)))
  for await (const instances of everything(t, place)) {
    for (const app of instances) {
      const { body } = await app.inject('/metrics')
      t.match(body, /^redis_guard_redis_up 0$/m)
      t.notMatch(body, otherFailures)
      t.same(app.redisGuard.warnings, [])
    }
  }
  t.same(await refusedIn(place), ['info', 'slowlog|len'])
})

t.test('a URL that names a database needs SELECT, and no more', async t => {
  for (const [rules, refused] of [[forServer, ['select']], [[...forServer, '+select'], []]] as const) {
    const place = await startServer(t, rules)
    const app = await instance(t, { ...place, redis: `${String(place.redis)}/1` })
    await change(app)
    t.same(await refusedIn(place), refused)
  }
})

t.test('it has each command that a script names', async t => {
  const folder = new URL('../../lib/store/lua/', import.meta.url)
  const scripts = await Promise.all((await readdir(folder)).map(async name => await readFile(new URL(name, folder), 'utf8')))
  const named = scripts.flatMap(script => [...script.matchAll(/(?:call|read)\((?:key, )?'([A-Z]+)'/g)].map(([, name]) => `+${name!.toLowerCase()}`))
  t.ok(named.length > 50)
  t.same(named.filter(command => !forServer.includes(command)), [])
})
