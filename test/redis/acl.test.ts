/** The ACL lines of docs/redis.md: the guard works with them, and needs each of their commands. */
import { readFile } from 'node:fs/promises'
import type { FastifyInstance } from 'fastify'
import keySlot from 'cluster-key-slot'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import { algorithms } from '../../lib/rules/algorithms.js'
import { scripts as ofConnection } from '../../lib/redis/lua/scripts.js'
import { scripts as ofStore } from '../../lib/store/redis/lua/scripts.js'
import { guardedApp } from '../support/app.js'
import { inRepository } from '../support/paths.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { Sentinel, sentinelName } from '../../tools/sentinel.js'
import { until } from '../../tools/until.js'

const page = await readFile(inRepository('docs/redis.md'), 'utf8')

/** The rules for the user in the code block that follows a marker. */
function rulesBehind (marker: string): readonly string[] {
  const [, rules] = new RegExp(`<!-- ${marker} -->\\n\`\`\`\\nACL SETUSER guard (.*)\\n\`\`\`\\n`).exec(page)!
  return rules!.split(' ')
}

const forServer = rulesBehind('ACL of a server')
const forCluster = rulesBehind('ACL of a Cluster')

/** Servers with the user, and an operator's access to them. */
interface Place {
  readonly redis: Exclude<RedisGuardOptions['redis'], undefined>
  readonly operators: readonly Redis[]
  readonly signal: (signal: NodeJS.Signals) => void
  /** moves the slot of an address to another node; runs `between` during the move */
  readonly move?: (address: string, between: () => Promise<void>) => Promise<void>
  /** commands that ioredis tries, and can do without */
  readonly vain?: readonly string[]
}

// Each test has its own servers, and mostly waits until an outage is noticed.
t.jobs = 3

const operatorPassword = 'of the operator'

/** Starts a server on which only the operator and the user have any rights. */
async function startServer (t: Test, rules: readonly string[]): Promise<Place & { readonly port: number }> {
  const server = await RedisServer.start('--requirepass', operatorPassword, '--maxmemory-policy', 'allkeys-lru')
  t.teardown(async () => await server.stop())
  const operator = server.client({ password: operatorPassword })
  t.teardown(() => operator.disconnect())
  await operator.call('ACL', 'SETUSER', 'guard', ...rules)
  const { port } = server
  return {
    port,
    redis: `redis://guard:password@127.0.0.1:${port}`,
    operators: [operator],
    signal: signal => server.signal(signal)
  }
}

async function startWithSentinel (t: Test, rules: readonly string[]): Promise<Place> {
  const place = await startServer(t, rules)
  // Longer than the outage in the test: there is no replica for a failover.
  const sentinel = await Sentinel.start(place.port, 600_000)
  t.teardown(async () => await sentinel.stop())
  return {
    ...place,
    redis: {
      sentinels: [{ host: '127.0.0.1', port: sentinel.port }],
      name: sentinelName,
      username: 'guard',
      password: 'password'
    }
  }
}

async function startCluster (t: Test, rules: readonly string[]): Promise<Place> {
  const cluster =
    await RedisCluster.start({ args: ['--cluster-node-timeout', '10000', '--maxmemory-policy', 'allkeys-lru'] })
  t.teardown(async () => await cluster.stop())
  const { servers } = cluster
  const operators = servers.map(server => server.client())
  t.teardown(() => operators.forEach(operator => operator.disconnect()))
  for (const operator of operators) {
    await operator.call('ACL', 'SETUSER', 'guard', ...rules)
    await operator.config('SET', 'requirepass', operatorPassword)
  }
  const ids = await Promise.all(operators.map(async operator => String(await operator.call('CLUSTER', 'MYID'))))
  return {
    redis: {
      cluster: servers.map(({ port }) => ({ host: '127.0.0.1', port })),
      redisOptions: { username: 'guard', password: 'password' }
    },
    operators,
    signal: signal => servers.forEach(server => server.signal(signal)),
    move: async (address, between) => {
      const slot = keySlot(address)
      const from = Math.floor(slot * 3 / 16384)
      const to = (from + 1) % 3
      await operators[to]!.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', ids[from]!)
      await operators[from]!.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', ids[to]!)
      await between()
      for (const i of [to, from, 3 - to - from]) await operators[i]!.call('CLUSTER', 'SETSLOT', slot, 'NODE', ids[to]!)
    },
    vain: ['client|setname']
  }
}

/** The commands in ACL LOG, each once. */
async function refusedIn ({ operators, vain = [] }: Place): Promise<string[]> {
  const logs = await Promise.all(operators.map(async operator => await operator.call('ACL', 'LOG', 128) as string[][]))
  const objects = new Set(logs.flat().map(entry => entry[entry.indexOf('object') + 1]!))
  return [...objects].filter(object => !vain.includes(object)).sort()
}

/**
 * The commands that the application ran since the last CONFIG RESETSTAT, each once, including those in scripts and
 * without refused ones. Redis counts a command when it ends, so the INFO of this reading is not among them.
 */
async function usedIn ({ operators }: Place): Promise<string[]> {
  const texts = await Promise.all(operators.map(async operator => await operator.info('commandstats')))
  const used = texts.flatMap(text => [...text.matchAll(/^cmdstat_(\S+?):calls=[1-9]/gm)].map(([, name]) => name!))
  return [...new Set(used)].filter(name => !permitted.includes(name) && !ofOperator.includes(name)).sort()
}

/** Every user may run these. */
const permitted = ['auth', 'hello']
const ofOperator = ['acl|log', 'cluster|setslot', 'config|resetstat', 'flushall']

/** The commands that the rules allow. */
function grantedBy (rules: readonly string[]): string[] {
  return rules.filter(rule => rule.startsWith('+')).map(rule => rule.slice(1)).sort()
}

const outages = ['memory', 'share'] as const

async function instance (t: Test, { redis }: Place): Promise<FastifyInstance> {
  // Noticing an outage takes this long; an answer on a busy machine takes less.
  const app = await guardedApp(t, { redis, syncInterval: 20, commandTimeout: 2000, resetTimeout: 50 })
  for (const algorithm of algorithms) {
    for (const onOutage of outages) {
      app.get(
        `/${algorithm}/${onOutage}`,
        { config: { rateLimit: { algorithm, onOutage, max: 2, timeWindow: '1 hour' } } },
        async () => 'ok'
      )
    }
    app.get(
      `/${algorithm}/refund`,
      { config: { rateLimit: { algorithm, max: 5, timeWindow: '1 hour', countWhen: () => false } } },
      async () => 'ok'
    )
  }
  return app
}

/** Sends to each limit one request more than it allows. */
async function hit (app: FastifyInstance, remoteAddress: string): Promise<void> {
  for (const url of algorithms.flatMap(algorithm => outages.map(onOutage => `/${algorithm}/${onOutage}`))) {
    for (let i = 0; i < 3; i++) await app.inject({ url, remoteAddress })
  }
  for (const algorithm of algorithms) await app.inject({ url: `/${algorithm}/refund`, remoteAddress })
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
  await redisGuard.limits.set('global', { max: 5, timeWindow: 1000 })
  await redisGuard.limits.reset('global')
  await redisGuard.limits.reset('198.51.100.99')
}

async function read ({ redisGuard }: FastifyInstance): Promise<void> {
  await redisGuard.get('text')
  await redisGuard.isIPBlocked('198.51.100.1')
  await redisGuard.getBlockedIPs()
  await redisGuard.getRateLimitEvents()
  await redisGuard.getSuspiciousIPs()
  await redisGuard.limits.peek('198.51.100.1')
}

/**
 * Does everything that needs Redis, on two instances.
 *
 * @yields the open instances, after each step
 */
async function * everything (t: Test, place: Place): AsyncGenerator<readonly FastifyInstance[], void> {
  const { operators, signal, move } = place
  const instances = [await instance(t, place), await instance(t, place)]
  const [app, other] = instances as [FastifyInstance, FastifyInstance]
  yield instances
  const onRedis = () => instances.every(({ redisGuard }) => redisGuard.status.store === 'redis')
  const backOnRedis = async () => await until(onRedis).catch((error: Error) => {
    throw new Error(JSON.stringify(instances.map(({ redisGuard }) => redisGuard.status)), { cause: error })
  })
  await backOnRedis()
  await hit(app, '192.0.2.1')
  await change(app)
  await move?.('192.0.2.4', async () => await hit(app, '192.0.2.4'))
  yield instances
  await read(other)
  await other.inject('/metrics')
  yield instances
  await until(async () => (await other.inject({ url: '/', remoteAddress: '198.51.100.1' })).statusCode === 403)

  signal('SIGSTOP')
  // Both instances notice the outage.
  await Promise.all(instances.map(async ({ redisGuard }) => await redisGuard.get('text')))
  await hit(app, '192.0.2.2')
  await change(app)
  signal('SIGCONT')
  await backOnRedis()
  yield instances

  await app.redisGuard.clearOldRateLimitEvents(0)
  yield instances
  // The instances restore their state in an empty Redis.
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

/** Metrics lines of failures that an outage does not explain. */
const otherFailures = /^redis_guard_errors_total\{kind="(?!connection|timeout|lost)\w+"\} [1-9]/m

const places = [
  ['a server', startServer, forServer],
  ['a primary that a Sentinel names', startWithSentinel, forServer],
  ['a Cluster', startCluster, [...forServer, ...forCluster]]
] as const

for (const [name, start, rules] of places) {
  t.test(`${name}: Redis refuses no command, nothing fails except by the outage, and every right is used`, async t => {
    const place = await start(t, rules)
    for (const operator of place.operators) await operator.config('RESETSTAT')
    for await (const instances of everything(t, place)) {
      t.same(await refusedIn(place), [])
      for (const app of instances) {
        let body = ''
        await until(async () => {
          body = (await app.inject('/metrics')).body
          return /^redis_guard_redis_up 1$/m.test(body)
        })
        await until(() => app.redisGuard.warnings.length > 0)
        t.match(body, /^redis_guard_redis_slowlog_entries \d/m)
        t.notMatch(body, otherFailures)
        t.notMatch(body, /^redis_guard_journal_dropped_total.* [1-9]/m)
        t.match(app.redisGuard.warnings, [{ code: 'GUARD_WARN_EVICTION' }])
      }
    }
    t.same(await usedIn(place), grantedBy(rules))
  })
}

t.test('a missing right is found, even if only a script uses it', async t => {
  const place = await startServer(t, forServer.filter(rule => rule !== '+zincrby'))
  t.same(await firstRefused(t, place), ['zincrby'])
})

t.test('without INFO and SLOWLOG LEN, only metrics and the warning about eviction are missing', async t => {
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

t.test('a URL with a database needs SELECT, and no other right', async t => {
  for (const [rules, refused] of [[forServer, ['select']], [[...forServer, '+select'], []]] as const) {
    const place = await startServer(t, rules)
    const app = await instance(t, { ...place, redis: `${String(place.redis)}/1` })
    await change(app)
    t.same(await refusedIn(place), refused)
  }
})

t.test('the line for a server has each command that a script uses', async t => {
  const named = [...Object.values(ofConnection), ...Object.values(ofStore)].flatMap(script => {
    return [...script.matchAll(/(?:call|read|reader|claim)\('([A-Z]+)'/g)].map(([, name]) => `+${name!.toLowerCase()}`)
  })
  t.ok(named.length > 50)
  t.same(named.filter(command => !forServer.includes(command)), [])
})
