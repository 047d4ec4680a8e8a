/** Which options and which kinds of Redis get a warning. */
import Fastify from 'fastify'
import { Cluster, Redis } from 'ioredis'
import t from 'tap'
import {
  checkEviction, checkPassword, checkRoutesBefore, checkTrustProxy, trustProxyOf
} from '../../lib/startup/warnings.js'
import type { RedisSettings } from '../../lib/settings/redis-option.js'

t.test('warns of a trustProxy that any client can use or that trusts no proxy', async t => {
  t.match(checkTrustProxy(true), {
    code: 'GUARD_WARN_TRUST_PROXY',
    message: /^trustProxy: true .* any client can make up.* Set trustProxy to/
  })
  t.match(checkTrustProxy(1), {
    code: 'GUARD_WARN_TRUST_PROXY',
    message: /^trustProxy: 1 trusts no proxy.* Set trustProxy to/
  })
})

t.test('does not warn of a trustProxy that names its proxies', async t => {
  for (const trustProxy of [undefined, false, '10.0.0.0/8', ['10.0.0.1'], () => true]) {
    t.equal(checkTrustProxy(trustProxy), undefined)
  }
})

t.test("finds Fastify's trustProxy, also from a child of the instance", async t => {
  for (const trustProxy of [true, false, 1, ['10.0.0.1']]) {
    // Fastify's types no longer allow a number, but programs still pass one.
    const app = Fastify({ trustProxy: trustProxy as boolean })
    let inChild: unknown
    app.register(async child => { inChild = trustProxyOf(child) })
    await app.ready()
    t.same([trustProxyOf(app), inChild], [trustProxy, trustProxy])
    await app.close()
  }
  t.equal(trustProxyOf(Fastify()), undefined)
})

t.test('trustProxy is undefined if Fastify does not show it', async t => {
  t.equal(trustProxyOf({}), undefined)
  t.equal(trustProxyOf({ [Symbol('fastify.options')]: undefined }), undefined)
})

t.test('warns of routes from before the plugin by name, on one line', async t => {
  const names = ['GET /login', 'POST /login']
  const message = /before the plugin was loaded, so they are not limited: GET \/login, POST \/login\. To limit .*$/
  t.match(checkRoutesBefore(names, true), { code: 'GUARD_WARN_ROUTES_BEFORE', message })
  t.match(checkRoutesBefore(names, false)?.message, /so a rateLimit in their config is not in force: GET \/login, POST/)
  for (const global of [true, false]) t.equal(checkRoutesBefore([], global), undefined)
})

const lazy = { lazyConnect: true }
const credentials = () => ({ password: 'p' })
const withPassword: RedisSettings[] = [
  { kind: 'server', options: { host: 'h' }, credentials },
  { kind: 'cluster', nodes: [{ host: 'h' }], options: {}, credentials },
  { kind: 'server', options: { host: 'h', password: 'p' } },
  { kind: 'cluster', nodes: [{ host: 'h' }], options: { redisOptions: { password: 'p' } } },
  { kind: 'cluster', nodes: ['redis://:p@h:6379', 'redis://h'], options: {} },
  { kind: 'cluster', nodes: [6379, { host: 'h', password: 'p' } as object], options: {} },
  { kind: 'client', client: new Redis({ ...lazy, password: 'p' }) },
  { kind: 'client', client: new Redis('redis://:p@h', lazy) },
  { kind: 'client', client: new Cluster([{ host: 'h' }], { ...lazy, redisOptions: { password: 'p' } }) }
]
const withoutPassword: RedisSettings[] = [
  { kind: 'server', options: { host: 'h' } },
  { kind: 'server', options: { host: 'h', password: '' } },
  { kind: 'server', options: { host: 'h', username: 'u' } },
  { kind: 'cluster', nodes: [{ host: 'h' }, 6379, 'redis://h:6379'], options: {} },
  { kind: 'cluster', nodes: [{ host: 'h' }], options: { redisOptions: {} } },
  { kind: 'client', client: new Redis(lazy) },
  { kind: 'client', client: new Cluster([{ host: 'h' }], { ...lazy, redisOptions: {} }) },
  { kind: 'client', client: new Cluster([{ host: 'h' }], lazy) },
  // Another version of ioredis keeps the options of a Cluster as they were given.
  { kind: 'client', client: { options: { redisOptions: undefined } } as unknown as Cluster }
]

t.test('warns of a Redis without a password in production', async t => {
  for (const redis of withoutPassword) {
    t.match(checkPassword(redis, true), { code: 'GUARD_WARN_NO_PASSWORD', message: /REDIS_PASSWORD/ })
    t.equal(checkPassword(redis, false), undefined)
  }
})

t.test('does not warn of a Redis with a password, or without Redis', async t => {
  for (const redis of withPassword) t.equal(checkPassword(redis, true), undefined)
  t.equal(checkPassword({ kind: 'none', reason: 'REDIS_URL is not set' }, true), undefined)
})

t.test('warns of a maxmemory-policy that drops counters, by its name', async t => {
  for (const policy of ['allkeys-lru', 'allkeys-lfu', 'allkeys-random']) {
    const warning = checkEviction(policy)
    t.equal(warning?.code, 'GUARD_WARN_EVICTION')
    t.match(warning?.message, `maxmemory-policy is ${policy}:`)
  }
  for (const policy of ['volatile-lru', 'volatile-lfu', 'volatile-random', 'volatile-ttl']) {
    const warning = checkEviction(policy)
    t.equal(warning?.code, 'GUARD_WARN_VOLATILE_EVICTION')
    t.match(warning?.message, `maxmemory-policy is ${policy}:`)
    t.match(warning?.message, /Otherwise set noeviction/)
  }
  for (const policy of ['noeviction', '']) t.equal(checkEviction(policy), undefined)
})
