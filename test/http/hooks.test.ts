/** What the hooks decide about a request, for each option, and how they treat bad input and failing functions. */
import { connect } from 'node:net'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Fastify from 'fastify'
import t from 'tap'
import redisGuard, { normalizeIP } from '../../lib/index.js'
import type { RateLimitOptions } from '../../lib/settings/options.js'
import { guardedApp, logTo } from '../support/app.js'
import { RedisServer } from '../../tools/redis-server.js'

const ok = async () => 'ok'

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

t.test('routes with the same groupId share a counter per client, in memory and on Redis', async t => {
  for (const redis of [false, server.url] as const) {
    const app = await guardedApp(t, { redis, nameSpace: 'groups:', commandTimeout: 20_000, max: 10 })
    const inGroup = (groupId: string) => ({ config: { rateLimit: { max: 3, groupId } } })
    app.get('/a', inGroup('login'), ok)
    app.post('/b', inGroup('login'), ok)
    app.get('/other', inGroup('other'), ok)
    app.get('/alone', inGroup(''), ok)
    const left = async (method: 'GET' | 'HEAD' | 'POST', url: string, remoteAddress = '192.0.2.1') =>
      Number((await app.inject({ method, url, remoteAddress })).headers['x-ratelimit-remaining'])
    t.same([await left('GET', '/a'), await left('POST', '/b'), await left('HEAD', '/a')], [2, 1, 0])
    t.equal((await app.inject({ method: 'POST', url: '/b', remoteAddress: '192.0.2.1' })).statusCode, 429)
    t.same([await left('GET', '/other'), await left('GET', '/alone'), await left('GET', '/a', '192.0.2.2')], [2, 2, 2])
  }
})

t.test('the global limit', async t => {
  t.test('counts all routes without their own limit together, and sends headers', async t => {
    const app = await guardedApp(t, { max: 2, timeWindow: '1 minute' })
    app.get('/a', ok)
    app.get('/b', ok)
    const first = await app.inject('/a')
    t.match(first.headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': '1', 'x-ratelimit-reset': '60' })
    t.notOk('retry-after' in first.headers)
    t.equal((await app.inject('/b')).headers['x-ratelimit-remaining'], '0')
    const refused = await app.inject('/a')
    t.equal(refused.statusCode, 429)
    // Part of the minute may be over.
    const seconds = /^(60|5\d)$/
    t.match(refused.headers, {
      'x-ratelimit-limit': '2', 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': seconds, 'retry-after': seconds
    })
    const { message, ...body } = refused.json()
    t.match(message, /^Rate limit exceeded, retry in (1 minute|5\d seconds)$/)
    t.same(body, { statusCode: 429, code: 'GUARD_LIMITED', error: 'Too Many Requests' })
  })

  t.test('counts 404s with the routes that it limits, in any hook and scope', async t => {
    for (const hook of ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const) {
      const app = await guardedApp(t, { max: 3, hook })
      app.get('/a', ok)
      app.get('/own', { config: { rateLimit: { max: 1 } } }, ok)
      app.register(async child => {
        child.setNotFoundHandler((request, reply) => { reply.code(404).send('not here') })
      }, { prefix: '/child' })
      const get = async (url: string, remoteAddress = '192.0.2.1') => await app.inject({ url, remoteAddress })
      const missing = await get('/nowhere')
      t.equal(missing.statusCode, 404)
      t.match(missing.headers, { 'x-ratelimit-limit': '3', 'x-ratelimit-remaining': '2' })
      t.equal((await get('/a')).headers['x-ratelimit-remaining'], '1')
      t.same([
        (await get('/child/nowhere')).statusCode,
        (await get('/elsewhere')).statusCode,
        (await get('/a')).statusCode
      ], [404, 429, 429])
      t.same([(await get('/own')).statusCode, (await get('/nowhere', '192.0.2.2')).statusCode], [200, 404])
      t.match(
        (await app.inject('/metrics')).body,
        /decisions_total\{limit="global",outcome="limited",source="memory"\} 2/
      )
    }
  })

  t.test('leaves 404s alone with limitNotFound: false, and without a global limit', async t => {
    for (const options of [{ limitNotFound: false }, { global: false }]) {
      const app = await guardedApp(t, { max: 0, ...options })
      const { statusCode, headers } = await app.inject('/nowhere')
      t.equal(statusCode, 404)
      t.notOk('x-ratelimit-limit' in headers)
    }
  })

  t.test('on a 404, exempts clients on the allow list and blocks blocked clients', async t => {
    const app = await guardedApp(t, { max: 0, allowList: ['192.0.2.9'] })
    await app.redisGuard.blockIP('192.0.2.8', 60)
    const statusFor = async (remoteAddress: string) => (await app.inject({ url: '/nowhere', remoteAddress })).statusCode
    t.same([await statusFor('192.0.2.9'), await statusFor('192.0.2.8'), await statusFor('192.0.2.7')], [404, 403, 429])
  })

  t.test('separates clients by address, and IPv6 clients by /64', async t => {
    const app = await guardedApp(t, { max: 1 })
    app.get('/', ok)
    const statusFor = async (remoteAddress: string) => (await app.inject({ url: '/', remoteAddress })).statusCode
    t.equal(await statusFor('192.0.2.1'), 200)
    t.equal(await statusFor('192.0.2.2'), 200)
    t.equal(await statusFor('::ffff:192.0.2.1'), 429)
    t.equal(await statusFor('64:ff9b::c000:202'), 429)
    t.equal(await statusFor('2001:db8:0:1::1'), 200)
    t.equal(await statusFor('2001:DB8:0:1:ffff::2'), 429)
    t.equal(await statusFor('2001:db8:0:2::1'), 200)
  })

  t.test('ipv6Subnet sets the number of bits that separate IPv6 clients', async t => {
    const app = await guardedApp(t, { max: 1, ipv6Subnet: 128 })
    app.get('/', ok)
    const statusFor = async (remoteAddress: string) => (await app.inject({ url: '/', remoteAddress })).statusCode
    t.same([
      await statusFor('2001:db8::1'),
      await statusFor('2001:db8::2'),
      await statusFor('2001:db8::1')
    ], [200, 200, 429])
  })

  t.test('global: false limits only routes with their own rateLimit', async t => {
    const app = await guardedApp(t, { max: 1, global: false })
    app.get('/free', ok)
    app.get('/limited', { config: { rateLimit: {} } }, ok)
    t.same(await statuses(app, ['/free', '/free', '/limited', '/limited']), [200, 200, 200, 429])
  })
})

t.test('a route', async t => {
  t.test('has its own counter and options, or no limit', async t => {
    const app = await guardedApp(t, { max: 3 })
    app.get('/', ok)
    app.get('/own', { config: { rateLimit: { max: 1, timeWindow: 1500 } } }, ok)
    app.get('/none', { config: { rateLimit: false } }, ok)
    const own = await app.inject('/own')
    t.match(own.headers, { 'x-ratelimit-limit': '1', 'x-ratelimit-reset': '2' })
    const free = await app.inject('/none')
    t.notOk('x-ratelimit-limit' in free.headers)
    t.same(await statuses(app, ['/own', '/none', '/none', '/none', '/none', '/', '/', '/', '/']), [
      429, 200, 200, 200, 200, 200, 200, 200, 429
    ])
  })

  t.test('shares its quota between GET and HEAD, but not with other methods', async t => {
    const app = await guardedApp(t, {})
    app.route({ method: ['GET', 'POST'], url: '/both', config: { rateLimit: { max: 1 } }, handler: ok })
    app.get('/x', { config: { rateLimit: { max: 1 } } }, ok)
    app.post('/x', { config: { rateLimit: { max: 1 } } }, ok)
    const statusOf = async (method: 'GET' | 'HEAD' | 'POST', url: string) =>
      (await app.inject({ method, url })).statusCode
    t.same([
      await statusOf('GET', '/x'),
      await statusOf('HEAD', '/x'),
      await statusOf('POST', '/x'),
      await statusOf('POST', '/x')
    ], [200, 429, 200, 429])
    t.same([
      await statusOf('GET', '/both'),
      await statusOf('HEAD', '/both'),
      await statusOf('POST', '/both')
    ], [200, 429, 429])
  })

  t.test('is counted separately from a route of another version or host', async t => {
    const app = await guardedApp(t, {})
    for (const version of ['1.0.0', '2.0.0']) {
      app.get('/x', { constraints: { version }, config: { rateLimit: { max: 1 } } }, ok)
    }
    const statusOf = async (method: 'GET' | 'HEAD', version: string) =>
      (await app.inject({ method, url: '/x', headers: { 'accept-version': version } })).statusCode
    t.same([
      await statusOf('GET', '1.0.0'),
      await statusOf('GET', '2.0.0'),
      await statusOf('HEAD', '1.0.0'),
      await statusOf('GET', '2.0.0')
    ], [200, 200, 429, 429])
  })

  t.test('may set rateLimit to null for no options of its own', async t => {
    const app = await guardedApp(t, { max: 1 })
    app.get('/', { config: { rateLimit: null } as object }, ok)
    t.same(await statuses(app, ['/', '/']), [200, 429])
  })

  t.test('shares no counter with a route whose name looks similar', async t => {
    const app = await guardedApp(t, {})
    for (const url of ['/a/:id', '/a/:id/b', '/a/*', '/global']) app.get(url, { config: { rateLimit: { max: 1 } } }, ok)
    t.same(await statuses(app, ['/a/1', '/a/1/b', '/a/1/c', '/global']), [200, 200, 200, 200])
    t.same(await statuses(app, ['/a/2', '/a/2/b', '/a/2/c', '/global']), [429, 429, 429, 429])
  })

  t.test('rejects a config of another type, and names wrong options', async t => {
    const app = await guardedApp(t)
    for (const rateLimit of [true, 'yes', 5, []]) {
      t.throws(() => app.get('/x', { config: { rateLimit } as object }, ok), {
        message: 'Unknown value for route rate-limit configuration'
      })
    }
    const problems = ['max must be a whole number >= 0', 'tme must be a known option']
    t.throws(() => app.get('/x', { config: { rateLimit: { max: '10', tme: 1 } } as object }, ok), {
      code: 'GUARD_ERR_OPTIONS',
      message: new RegExp(problems.map(problem => `GET /x config\\.rateLimit\\.${problem}`).join('[^]*'))
    })
  })

  for (const hook of ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const) {
    t.test(`is limited in ${hook}, after the existing hooks`, async t => {
      const order: string[] = []
      const note = (name: string) => async () => { order.push(name) }
      const app = await guardedApp(t, { hook, max: 1, onExceeding: () => { order.push('limit') } })
      app.addHook(hook, note('instance'))
      app.post('/none', ok)
      app.post('/one', { [hook]: note('route') }, ok)
      app.post('/two', { [hook]: [note('first'), note('second')] }, ok)
      const post = async (url: string, remoteAddress: string) =>
        await app.inject({ method: 'POST', url, remoteAddress, payload: { a: 1 } })
      t.equal((await post('/none', '192.0.2.1')).statusCode, 200)
      t.equal((await post('/none', '192.0.2.1')).statusCode, 429)
      t.equal((await post('/one', '192.0.2.2')).statusCode, 200)
      t.equal((await post('/two', '192.0.2.3')).statusCode, 200)
      t.same(order, [
        'instance', 'limit', 'instance', 'instance', 'route', 'limit', 'instance', 'first', 'second', 'limit'
      ])
    })
  }
})

t.test('allowList', async t => {
  t.test('exempts addresses, ranges and keys, however an address is written', async t => {
    const app = await guardedApp(t, { max: 0, allowList: ['192.0.2.1', '198.51.100.0/24', '2001:DB8::/48', 'partner'] })
    app.get('/', ok)
    app.get('/key', { config: { rateLimit: { keyGenerator: request => String(request.headers['x-key']) } } }, ok)
    const statusFor = async (remoteAddress: string) => (await app.inject({ url: '/', remoteAddress })).statusCode
    for (const address of ['192.0.2.1', '::ffff:192.0.2.1', '64:ff9b::c000:201', '198.51.100.77', '2001:db8:0:5::9']) {
      t.equal(await statusFor(address), 200, address)
    }
    for (const address of ['192.0.2.2', '198.51.101.1', '2001:db8:1::1']) {
      t.equal(await statusFor(address), 429, address)
    }
    t.equal(
      (await app.inject({ url: '/key', headers: { 'x-key': 'partner' }, remoteAddress: '203.0.113.1' })).statusCode,
      200
    )
    t.equal(
      (await app.inject({ url: '/key', headers: { 'x-key': 'other' }, remoteAddress: '203.0.113.1' })).statusCode,
      429
    )
    t.notOk('x-ratelimit-limit' in (await app.inject({ url: '/', remoteAddress: '192.0.2.1' })).headers)
  })

  t.test('does not exempt a client that sends a listed address as its key', async t => {
    const keyGenerator: RateLimitOptions['keyGenerator'] = request => request.headers['x-key']
    const allowList = ['203.0.113.5', '10.0.0.0/8', '2001:db8::9', '2001:db8:5::/64', 'partner']
    const app = await guardedApp(t, { max: 0, allowList, keyGenerator })
    const limiter = app.createRateLimit()
    app.get('/', ok)
    app.get('/hook', { config: { rateLimit: false }, preHandler: app.rateLimit() }, ok)
    app.get('/function', { config: { rateLimit: false } }, async (request, reply) => {
      await reply.code((await limiter(request)).isAllowed ? 200 : 429).send()
    })
    for (const url of ['/', '/hook', '/function', '/nowhere']) {
      const passes = url === '/nowhere' ? 404 : 200
      const statusOf = async (key: string | undefined, remoteAddress = '198.51.100.1') =>
        (await app.inject({ url, remoteAddress, headers: key === undefined ? {} : { 'x-key': key } })).statusCode
      const others = ['::ffff:203.0.113.5', '203.0.113.5:80', '10.0.0.1', '2001:db8::', '2001:db8:5::1', 'other']
      for (const key of [...allowList, ...others]) {
        t.equal(await statusOf(key), key === 'partner' ? passes : 429, `${url} ${key}`)
      }
      for (const address of ['203.0.113.5', '10.1.2.3', '2001:db8::9']) {
        t.equal(await statusOf('other', address), passes, `${url}: the address ${address} is exempt, whatever its key`)
        t.equal(await statusOf(undefined, address), passes, `${url}: the address ${address} is exempt without a key`)
      }
    }
  })

  t.test('a { key } entry exempts exactly that key, even if it looks like an address or a range', async t => {
    const app = await guardedApp(t, { max: 0, allowList: [{ key: '203.0.113.5' }, { key: '10.0.0.0/8' }] })
    app.get('/', ok)
    app.get('/key', { config: { rateLimit: { keyGenerator: request => request.headers['x-key'] } } }, ok)
    const keyed = async (key: string) => (await app.inject({ url: '/key', headers: { 'x-key': key } })).statusCode
    t.same([await keyed('203.0.113.5'), await keyed('10.0.0.0/8'), await keyed('10.0.0.1')], [200, 200, 429])
    const from = async (remoteAddress: string) => (await app.inject({ url: '/', remoteAddress })).statusCode
    t.same(
      [await from('203.0.113.5'), await from('10.0.0.1')],
      [200, 429],
      'the key of a client without another key is its address'
    )
    await app.redisGuard.blockIP('203.0.113.5', 60)
    t.equal(await from('203.0.113.5'), 403, 'a { key } entry does not exempt from a block')
  })

  t.test('may be a function, also async', async t => {
    const app = await guardedApp(t, { max: 0 })
    const allowList: RateLimitOptions['allowList'] = (request, key) => {
      return key === '127.0.0.1' && request.headers['x-pass'] === 'yes'
    }
    app.get('/sync', { config: { rateLimit: { allowList } } }, ok)
    app.get('/async', { config: { rateLimit: { allowList: async () => 'yes' as unknown as boolean } } }, ok)
    t.equal((await app.inject({ url: '/sync', headers: { 'x-pass': 'yes' } })).statusCode, 200)
    t.equal((await app.inject('/sync')).statusCode, 429)
    t.equal((await app.inject('/async')).statusCode, 200)
  })

  t.test("in the plugin's options also exempts from blocks", async t => {
    const app = await guardedApp(t, { allowList: ['192.0.2.1'] })
    app.get('/', ok)
    await app.redisGuard.blockIP('192.0.2.0/24', 60)
    t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.1' })).statusCode, 200)
    t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.2' })).statusCode, 403)
  })
})

t.test('max, timeWindow and keyGenerator may be functions, also async', async t => {
  const app = await guardedApp(t, {
    keyGenerator: async request => request.headers['x-user'] as string,
    max: (request, key) => key === 'premium' ? 2 : 1,
    timeWindow: async (request, key) => key === 'premium' ? 1000 : 5000
  })
  app.get('/', ok)
  const as = async (user: string) => await app.inject({ url: '/', headers: { 'x-user': user } })
  t.match((await as('premium')).headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-reset': '1' })
  t.match((await as('basic')).headers, { 'x-ratelimit-limit': '1', 'x-ratelimit-reset': '5' })
  t.equal((await as('premium')).statusCode, 200)
  t.equal((await as('basic')).statusCode, 429)
})

t.test('onExceeding and onExceeded are called for each allowed and each refused request, with its key', async t => {
  const heard: string[] = []
  const app = await guardedApp(t, {
    max: 1,
    keyGenerator: () => 'me',
    onExceeding: (request, key) => { heard.push(`${request.url} ${key} allowed`) },
    onExceeded: (request, key) => { heard.push(`${request.url} ${key} refused`) }
  })
  app.get('/', ok)
  await statuses(app, ['/', '/', '/'])
  t.same(heard, ['/ me allowed', '/ me refused', '/ me refused'])
})

t.test('addHeaders and addHeadersOnExceeding choose headers', async t => {
  const app = await guardedApp(t, {
    max: 1,
    addHeaders: { 'retry-after': false, 'x-ratelimit-limit': false },
    addHeadersOnExceeding: { 'x-ratelimit-remaining': false }
  })
  app.get('/', ok)
  app.get(
    '/route',
    { config: { rateLimit: { addHeaders: { 'x-ratelimit-remaining': true, 'x-ratelimit-reset': false } } } },
    ok
  )
  const rateLimitHeaders = async (url: string) =>
    Object.keys((await app.inject(url)).headers).filter(name => /ratelimit|retry/.test(name))
  t.same(await rateLimitHeaders('/'), ['x-ratelimit-limit', 'x-ratelimit-reset'])
  t.same(await rateLimitHeaders('/'), ['x-ratelimit-remaining', 'x-ratelimit-reset'])
  await rateLimitHeaders('/route')
  t.same(await rateLimitHeaders('/route'), ['x-ratelimit-remaining'], 'a route replaces the headers of the plugin')
})

t.test('errorResponseBuilder', async t => {
  t.test('gets the details of the refusal, and its result is thrown unchanged', async t => {
    const contexts: unknown[] = []
    const app = await guardedApp(t, {
      max: 0,
      timeWindow: '1 minute',
      errorResponseBuilder: (request, context) => {
        contexts.push(context)
        return { statusCode: 418, code: 'TEAPOT', error: 'Teapot', message: `${request.url}: ${context.after}` }
      }
    })
    app.get('/', ok)
    const { statusCode, payload } = await app.inject('/')
    t.equal(statusCode, 418)
    t.match(JSON.parse(payload), { message: '/: 1 minute' })
    t.match(contexts, [{ statusCode: 429, ban: false, max: 0, ttl: 60_000, after: '1 minute' }])
  })

  t.test('a refusal goes through setErrorHandler', async t => {
    const app = await guardedApp(t, { max: 0 })
    app.setErrorHandler((error: { statusCode: number, message: string }, request, reply) => {
      return reply.code(error.statusCode).send({ own: error.message, before: reply.statusCode })
    })
    app.get('/', ok)
    t.match((await app.inject('/')).json(), { own: /Rate limit exceeded/ })
  })

  t.test('one that returns nothing or a promise lets no request pass, and is logged', async t => {
    for (const answer of [undefined, Promise.resolve({ statusCode: 200 }), Promise.reject(new Error('no answer'))]) {
      const lines: Record<string, unknown>[] = []
      const app = await guardedApp(t, { max: 0, errorResponseBuilder: () => answer as unknown as object }, logTo(lines))
      app.get('/', ok)
      t.same(await statuses(app, ['/', '/']), [429, 429])
      t.equal(
        lines.filter(({ level, msg }) => level === 50 && /errorResponseBuilder must return/.test(String(msg))).length,
        1
      )
    }
  })
})

t.test('a blocked address', async t => {
  const app = await guardedApp(t, { max: 100 })
  app.get('/', ok)
  app.get('/free', { config: { rateLimit: false } }, ok)
  app.register(async child => {
    child.setNotFoundHandler((request, reply) => { reply.code(404).send('not here') })
    child.get('/inner', ok)
  }, { prefix: '/child' })

  t.test('gets 403 on every route, also for 404s, before any limit', async t => {
    await app.redisGuard.blockIP('192.0.2.9', 60)
    for (const url of ['/', '/free', '/child/inner', '/child/nowhere', '/nowhere', '/metrics']) {
      const response = await app.inject({ url, remoteAddress: '192.0.2.9' })
      const body = { statusCode: 403, code: 'GUARD_BLOCKED', error: 'Forbidden', message: 'Address is blocked' }
      t.same([url, response.statusCode, response.json()], [url, 403, body])
      t.notOk('x-ratelimit-limit' in response.headers)
    }
    t.equal((await app.inject({ url: '/', remoteAddress: '::ffff:192.0.2.9' })).statusCode, 403)
    t.equal((await app.inject({ url: '/', remoteAddress: '64:ff9b::c000:209' })).statusCode, 403)
    t.equal((await app.inject({ url: '/nowhere', remoteAddress: '192.0.2.8' })).statusCode, 404)
    await app.redisGuard.unblockIP('192.0.2.9')
    t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.9' })).statusCode, 200)
  })

  t.test('an IPv6 address blocks only itself, a range all of its addresses', async t => {
    await app.redisGuard.blockIP('2001:db8:0:0:0::1', 60)
    await app.redisGuard.blockIP('2001:db8:1::/48', 60)
    const statusFor = async (remoteAddress: string) => (await app.inject({ url: '/', remoteAddress })).statusCode
    t.same([
      await statusFor('2001:DB8::1'),
      await statusFor('2001:db8::2'),
      await statusFor('2001:db8:1:ffff::1')
    ], [403, 200, 403])
  })
})

t.test('bad input', async t => {
  t.test('clients with garbage in X-Forwarded-For share one counter, and a block of the sender holds', async t => {
    const app = await guardedApp(t, { max: 3 }, { trustProxy: ['127.0.0.1'] })
    app.get('/', ok)
    await app.redisGuard.blockIP('192.0.2.1', 60)
    const forwarded = async (value: string) =>
      (await app.inject({ url: '/', headers: { 'x-forwarded-for': value } })).statusCode
    const garbage = ['nonsense', '999.1.1.1', '{}\t', 'a'.repeat(100_000), '010.0.0.1', '<script>', '1', '']
    t.same(await Promise.all(garbage.slice(0, 5).map(forwarded)), [200, 200, 200, 429, 429])
    t.equal(await forwarded('192.0.2.1'), 403)
    t.equal(await forwarded('192.0.2.1:4711'), 403)
    t.equal(await forwarded('[::ffff:192.0.2.1]:4711'), 403)
    t.equal(await forwarded('nonsense, 192.0.2.1'), 403, 'the address that the trusted proxy saw counts')
    t.equal(await forwarded('192.0.2.1%eth0'), 429, 'IPv4 has no zones')
  })

  t.test('clients on a unix socket have no address: they share a counter, and are served', async t => {
    const folder = await mkdtemp(join(tmpdir(), 'guard-'))
    t.teardown(async () => await rm(folder, { recursive: true }))
    const app = await guardedApp(t, { max: 2 })
    app.get('/', ok)
    const path = join(folder, 'socket')
    await app.listen({ path })
    const get = async () => await new Promise((resolve, reject) => {
      const request = httpRequest({ socketPath: path, path: '/' }, response => resolve(response.resume().statusCode))
      request.on('error', reject).end()
    })
    t.same([await get(), await get(), await get()], [200, 200, 429])
    t.same(await app.redisGuard.getSuspiciousIPs(), [])
    t.match(await app.redisGuard.getRateLimitEvents(), [{ type: 'limited', key: 'unknown' }])
  })

  t.test('headers of 100 kB work as keys', async t => {
    const app = await guardedApp(t, { max: 1, keyGenerator: request => String(request.headers['x-key']) })
    app.get('/', ok)
    const long = 'k'.repeat(100_000)
    const statusFor = async (key: string) => (await app.inject({ url: '/', headers: { 'x-key': key } })).statusCode
    t.same([await statusFor(long), await statusFor(long), await statusFor(`${long}!`)], [200, 429, 200])
  })

  t.test('a client cannot use up the quota of an address by sending it as a key', async t => {
    const app = await guardedApp(t, { max: 1, keyGenerator: request => request.headers['x-api-key'] as string })
    app.get('/', ok)
    const statusFor = async (remoteAddress: string, key?: string) =>
      (await app.inject({ url: '/', remoteAddress, headers: key === undefined ? {} : { 'x-api-key': key } })).statusCode
    for (const key of ['192.0.2.1', 'unknown', 'address:192.0.2.1']) await statusFor('198.51.100.1', key)
    t.same([
      await statusFor('192.0.2.1'),
      await statusFor('192.0.2.1'),
      await statusFor('198.51.100.1', '192.0.2.1')
    ], [200, 429, 429])
  })

  const failures: [string, unknown, number][] = [
    ['an Error', new Error('broken'), 500],
    ['an error with a status', Object.assign(new Error('no key'), { statusCode: 401 }), 401],
    ['undefined', undefined, 500],
    ['null', null, 500]
  ]
  const throwing: [string, (error: unknown) => RateLimitOptions][] = [
    ['keyGenerator', error => ({ keyGenerator: () => { throw error } })],
    ['async keyGenerator', error => ({ keyGenerator: async () => { throw error } })],
    ['max', error => ({ max: () => { throw error } })],
    ['timeWindow', error => ({ timeWindow: async () => { throw error } })],
    ['allowList', error => ({ allowList: async () => { throw error } })],
    ['onExceeding', error => ({ onExceeding: () => { throw error } })],
    ['onExceeded', error => ({ max: 0, onExceeded: () => { throw error } })],
    ['errorResponseBuilder', error => ({ max: 0, errorResponseBuilder: () => { throw error } })]
  ]
  for (const [name, options] of throwing) {
    t.test(`${name} that throws fails only its own request`, async t => {
      for (const [what, error, status] of failures) {
        const app = await guardedApp(t, options(error))
        let served = 0
        app.get('/', async () => { served++ })
        app.get('/free', { config: { rateLimit: false } }, ok)
        const found = [(await app.inject('/')).statusCode, served, (await app.inject('/free')).statusCode]
        t.same(found, [status, 0, 200], what)
      }
    })
  }

  t.test('async callbacks that fail are logged; the request is answered and the process lives', async t => {
    const lines: Record<string, unknown>[] = []
    const later = async () => { throw new Error('audit db is down') }
    const app = await guardedApp(
      t,
      { max: 1, onExceeding: later, onExceeded: later, errorResponseBuilder: later as unknown as () => object },
      logTo(lines)
    )
    app.get('/', ok)
    t.same(await statuses(app, ['/', '/']), [200, 429])
    await new Promise(resolve => setImmediate(resolve))
    const callbackFailed = 'onExceeding, onExceeded or onBanReach failed; the request goes on'
    t.equal(lines.filter(({ msg }) => msg === callbackFailed).length, 2)
  })

  t.test('a max or timeWindow function with an invalid result fails the request', async t => {
    for (const wrong of [NaN, -1, '5' as unknown as number, -Infinity, 1.5]) {
      const app = await guardedApp(t, { max: () => wrong })
      app.get('/', ok)
      app.get('/window', { config: { rateLimit: { max: 1, timeWindow: () => wrong } } }, ok)
      t.match((await app.inject('/')).json(), { statusCode: 500, code: 'GUARD_ERR_LIMIT' })
      t.match((await app.inject('/window')).json(), { statusCode: 500, code: 'GUARD_ERR_LIMIT' })
    }
  })

  t.test('a malformed URL and a broken request do not crash the service', async t => {
    const app = await guardedApp(t, { max: 100 })
    app.get('/', ok)
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as { port: number }
    for (const line of [
      'GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n', 'GARBAGE\r\n\r\n',
      'GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: \u0001\r\n\r\n'
    ]) {
      const socket = connect(port, '127.0.0.1')
      socket.end(line)
      socket.resume()
      await once(socket, 'close')
    }
    t.equal((await app.inject('/')).statusCode, 200)
  })
})

t.test('two registrations in separate scopes decorate, limit and block separately', async t => {
  const app = Fastify()
  t.teardown(async () => await app.close())
  for (const [name, max] of [['one', 1], ['two', 2]] as const) {
    app.register(async child => {
      await child.register(redisGuard, { redis: false, max, metrics: { path: '/metrics' } })
      child.get('/', ok)
    }, { prefix: `/${name}` })
  }
  t.same(await statuses(app, ['/one', '/one', '/two', '/two', '/two']), [200, 429, 200, 200, 429])
  t.match(
    (await app.inject('/two/metrics')).payload,
    /redis_guard_decisions_total\{limit="global",outcome="limited",source="memory"\} 1/
  )
})

async function statuses (app: Awaited<ReturnType<typeof guardedApp>>, urls: readonly string[]): Promise<number[]> {
  const all: number[] = []
  for (const url of urls) all.push((await app.inject(url)).statusCode)
  return all
}

t.test('two registrations in one scope or in nested scopes both apply, on separate counters', async t => {
  for (const redis of [false, server.url] as const) {
    const commandTimeout = 20_000
    const app = await guardedApp(t, { redis, commandTimeout, max: 5 })
    await app.register(redisGuard, { redis, commandTimeout, max: 3 })
    await app.register(async child => {
      await child.register(redisGuard, { redis, commandTimeout, max: 1 })
      child.get('/inside', { config: { rateLimit: { timeWindow: '1 hour' } } }, ok)
    })
    app.get('/', ok)
    const statuses = async (url: string) => [
      (await app.inject(url)).statusCode,
      (await app.inject(url)).statusCode,
      (await app.inject(url)).statusCode,
      (await app.inject(url)).statusCode
    ]
    t.same(await statuses('/'), [200, 200, 200, 429])
    t.same(await statuses('/inside'), [200, 429, 429, 429])
    const { body } = await app.inject('/metrics')
    t.match(body, /decisions_total\{limit="global",outcome="allowed",source="\w+"\} 4/)
    t.match(body, /decisions_total\{limit="2:global",outcome="limited",source="\w+"\} 1/)
    t.match(body, /decisions_total\{limit="3:GET:\/inside",outcome="limited",source="\w+"\} [123]\n/)
  }
})

t.test('functions in the options get the key of an IPv6 client as the first address of its prefix', async t => {
  const seen: string[] = []
  const see = (request: unknown, key: string) => { seen.push(key) }
  const app = await guardedApp(t, {
    max: (request, key) => { see(request, key); return 1 },
    allowList: (request, key) => { see(request, key); return false },
    onExceeding: see,
    onExceeded: see
  })
  app.get('/', ok)
  const limiter = app.createRateLimit()
  app.get('/look', { config: { rateLimit: false } }, async request => {
    return [(await limiter(request, { increment: false })).key, (await limiter(request)).key, normalizeIP(request.ip)]
  })
  const remoteAddress = '2001:db8:1:2:3:4:5:6'
  for (let i = 0; i < 2; i++) await app.inject({ url: '/', remoteAddress })
  t.same(seen, Array.from({ length: 6 }, () => '2001:db8:1:2::'))
  t.same((await app.inject({ url: '/look', remoteAddress })).json(), [
    '2001:db8:1:2::', '2001:db8:1:2::', '2001:db8:1:2::'
  ])
})
