/**
 * What users of @fastify/rate-limit rely on: its options, headers, bodies and functions. Each row runs in memory, on
 * Redis and on a Redis that goes down before the first request. It also runs with @fastify/rate-limit itself, which
 * proves the expectation, unless the row says why not.
 */
import type { FastifyInstance, FastifyRequest, HTTPMethods } from 'fastify'
import t, { type Test } from 'tap'
import { normalizeIP } from '../../lib/index.js'
import type { RedisGuardOptions, RouteRateLimitOptions } from '../../lib/settings/options.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'
import { Setting, type SettingName, settings, theirNormalizeIP } from './setting.js'

/** A request and its expected answer. */
interface Step {
  /** default `/` */
  readonly url?: string
  readonly method?: HTTPMethods
  readonly ip?: string
  /** the header x-user */
  readonly user?: string
  readonly status: number
  /** all rate limit headers; seconds may be less by the time that the row has taken */
  readonly headers?: Readonly<Record<string, number>>
  readonly body?: unknown
}

interface Scene {
  readonly t: Test
  readonly setting: Setting
  readonly app: FastifyInstance
  readonly heard: unknown[]
  /** Sends requests one after the other, and compares the answers. */
  readonly send: (steps: readonly Step[], app?: FastifyInstance) => Promise<void>
}

/** One expectation for all settings, or one per setting. */
type Everywhere<T> = T | ((name: SettingName) => T)

interface Row {
  /** the option, or the sentence, of the compatibility table */
  readonly of: string
  readonly title: string
  /** why the row does not run with @fastify/rate-limit, such as one of its defects */
  readonly notTheirs?: string
  /** the first request may wait for a whole commandTimeout: the user's own client resends its commands */
  readonly mayWait?: true
  /** the settings run in parallel: the row changes nothing that they share */
  readonly waits?: true
  readonly options?: RedisGuardOptions | ((heard: unknown[], setting: Setting) => RedisGuardOptions)
  readonly before?: (app: FastifyInstance) => void
  /** default: GET / */
  readonly routes?: (app: FastifyInstance, heard: unknown[]) => void | Promise<void>
  readonly steps?: Everywhere<readonly Step[]>
  /** what callbacks, hooks and handlers recorded */
  readonly heard?: Everywhere<readonly unknown[]>
  /** steps that a list of requests cannot express */
  readonly play?: (scene: Scene) => Promise<void>
}

const ok = async () => 'ok'
const allow = { status: 200 } as const
const refuse = { status: 429 } as const
const from = (ip: string, step: Step): Step => ({ ip, ...step })
const at = (url: string, step: Step): Step => ({ url, ...step })
const as = (user: string, step: Step): Step => ({ user, ...step })
const own = (rateLimit: RouteRateLimitOptions) => ({ config: { rateLimit } })
const userOf = (request: FastifyRequest) => request.headers['x-user'] as string
const byUser = { keyGenerator: userOf }
const note = (heard: unknown[], name: string) =>
  (request: FastifyRequest, key: string) => { heard.push(`${name} ${request.url} ${key}`) }
const noHeaders = {}
const unlimited = { status: 200, headers: noHeaders } as const

/** Headers of an allowed request, and of a refused one. */
const left = (limit: number, remaining: number, reset: number) =>
  ({ 'x-ratelimit-limit': limit, 'x-ratelimit-remaining': remaining, 'x-ratelimit-reset': reset })
const none = (limit: number, reset: number) => ({ ...left(limit, 0, reset), 'retry-after': reset })

const hooks = ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const

const rows: readonly Row[] = [
  {
    of: 'global',
    title: 'limits each route that is added later, and none from before; they share one counter per client',
    options: { max: 2 },
    before: app => { app.get('/before', ok) },
    routes: app => {
      app.get('/a', ok)
      app.post('/b', ok)
      app.register(async child => { child.get('/c', ok) }, { prefix: '/child' })
    },
    steps: [
      at('/before', unlimited), at('/a', allow), { url: '/b', method: 'POST', status: 200 }, at('/child/c', refuse),
      at('/a', refuse), from('192.0.2.1', at('/a', allow)), at('/before', unlimited)
    ]
  },
  {
    of: 'global',
    title: 'true: a route with its own limit has its own counter',
    options: { global: true, max: 1 },
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({}), ok)
      app.get('/more', own({ max: 2 }), ok)
    },
    steps: [
      allow, refuse, at('/own', allow), at('/own', refuse), at('/more', allow), at('/more', allow), at('/more', refuse)
    ]
  },
  {
    of: 'global',
    title: 'false: limits only routes with their own rateLimit',
    options: { global: false, max: 1 },
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({}), ok)
    },
    steps: [unlimited, unlimited, at('/own', allow), at('/own', refuse)]
  },
  {
    of: 'max',
    title: 'and timeWindow default to 1000 per minute',
    steps: [{ status: 200, headers: left(1000, 999, 60) }, { status: 200, headers: left(1000, 998, 60) }]
  },
  {
    of: 'max',
    title: '0 refuses every request',
    options: { max: 0 },
    steps: [{ status: 429, headers: none(0, 60) }, { status: 429, headers: none(0, 60) }]
  },
  {
    of: 'max',
    title: 'may be a function of request and key',
    options: { ...byUser, max: (request, key) => key === 'premium' && request.url === '/' ? 2 : 1 },
    steps: [
      as('premium', { status: 200, headers: left(2, 1, 60) }),
      as('premium', { status: 200, headers: left(2, 0, 60) }),
      as('premium', { status: 429, headers: none(2, 60) }),
      as('basic', { status: 200, headers: left(1, 0, 60) }),
      as('basic', refuse)
    ]
  },
  {
    of: 'max',
    title: 'may be an async function, also of a route',
    options: { max: async () => 1 },
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({ max: async (request, key) => key === '127.0.0.1' ? 3 : 0 }), ok)
    },
    steps: [{ status: 200, headers: left(1, 0, 60) }, refuse, at('/own', { status: 200, headers: left(3, 2, 60) })]
  },
  {
    of: 'timeWindow',
    title: 'may be ms, a text, or a sync or async function of request and key',
    options: { max: 1, timeWindow: '2 hours' },
    routes: app => {
      app.get('/', ok)
      app.get('/ms', own({ timeWindow: 1500 }), ok)
      app.get('/text', own({ timeWindow: '1 minute' }), ok)
      app.get('/function', own({
        timeWindow: (request, key) => key === '127.0.0.1' && request.url === '/function' ? 90_000 : 1
      }), ok)
      app.get('/async', own({ timeWindow: async () => 10_000 }), ok)
    },
    steps: [
      { status: 200, headers: left(1, 0, 7200) }, at('/ms', { status: 200, headers: left(1, 0, 2) }),
      at('/text', { status: 200, headers: left(1, 0, 60) }),
      at('/function', { status: 200, headers: left(1, 0, 90) }), at('/async', { status: 200, headers: left(1, 0, 10) }),
      { status: 429, headers: none(1, 7200) }, at('/async', { status: 429, headers: none(1, 10) })
    ]
  },
  {
    of: 'timeWindow',
    title: 'starts with the first hit; when it is over, the client has its whole quota again',
    waits: true,
    options: { max: 2, timeWindow: 1000 },
    play: async ({ t, app, send }) => {
      const begunMs = performance.now()
      await send([allow, allow, refuse])
      let first
      await until(async () => (first = await app.inject('/')).statusCode === 200)
      // Each of two clocks may have cut off a fraction of a ms.
      t.ok(performance.now() - begunMs >= 998, 'not before')
      t.match(first, { headers: { 'x-ratelimit-remaining': '1' } })
    }
  },
  ...hooks.map((hook): Row => ({
    of: 'hook',
    title: `${hook}: adds one function to the route, after the hooks of the instance and of the route`,
    options: heard =>
      ({ hook, max: 3, onExceeding: () => { heard.push('limit') }, onExceeded: () => { heard.push('refused') } }),
    routes: (app, heard) => {
      const say = (name: string) => async () => { heard.push(name) }
      app.addHook('onRoute', route => { heard.push([route[hook] ?? []].flat().length) })
      app.addHook(hook, say('instance'))
      app.post('/none', ok)
      app.post('/one', { [hook]: say('route') }, ok)
      app.post('/two', { [hook]: [say('first'), say('second')] }, ok)
      app.addHook(hook, say('later instance'))
    },
    steps: (['/none', '/one', '/two', '/none'] as const).map((url, i) => {
      return { url, method: 'POST', status: i < 3 ? 200 : 429 }
    }),
    heard: [
      1, 2, 3, 'instance', 'later instance', 'limit', 'instance', 'later instance', 'route', 'limit', 'instance',
      'later instance', 'first', 'second', 'limit', 'instance', 'later instance', 'refused'
    ]
  })),
  {
    of: 'hook',
    title: 'may be set for one route; a request that an earlier hook refuses is not counted',
    options: heard => ({ max: 1, onExceeding: () => { heard.push('limit') } }),
    routes: (app, heard) => {
      app.addHook('preParsing', async (request, reply) => {
        heard.push('preParsing')
        if (userOf(request) === undefined) return await reply.code(401).send('who?')
      })
      app.get('/', own({ hook: 'preHandler' }), ok)
    },
    steps: [{ status: 401, headers: noHeaders }, { status: 401 }, as('me', allow), as('me', refuse)],
    heard: ['preParsing', 'preParsing', 'preParsing', 'limit', 'preParsing']
  },
  {
    of: 'cache',
    title: 'bounds the clients that memory keeps; Redis keeps all of them',
    options: { max: 3, cache: 1 },
    steps: name => [allow, from('192.0.2.1', allow), { status: 200, headers: left(3, name === 'on Redis' ? 1 : 2, 60) }]
  },
  {
    of: 'allowList',
    title: 'of addresses: they are not limited, and get no headers',
    options: { max: 0, allowList: ['127.0.0.1', '192.0.2.1'] },
    steps: [unlimited, from('192.0.2.1', unlimited), from('192.0.2.2', refuse)]
  },
  {
    of: 'allowList',
    title: 'of keys of a keyGenerator: they are not limited',
    options: { max: 0, allowList: ['partner'], ...byUser },
    steps: [as('partner', unlimited), as('other', refuse)]
  },
  {
    of: 'allowList',
    title: 'may be a function of request and key, also async; no callback is called for exempt requests',
    options: heard => ({
      ...byUser,
      max: 0,
      allowList: (request, key) => key === 'partner' && request.url === '/',
      onExceeding: note(heard, 'passed'),
      onExceeded: note(heard, 'refused')
    }),
    routes: app => {
      app.get('/', ok)
      app.get('/async', own({ allowList: async (request, key) => key === 'friend' }), ok)
    },
    steps: [
      as('partner', unlimited),
      as('friend', refuse),
      at('/async', as('friend', unlimited)),
      at('/async', as('partner', refuse))
    ],
    heard: ['refused / friend', 'refused /async partner']
  },
  {
    of: 'allowList',
    title: 'may be a function: any truthy answer exempts, as the README of @fastify/rate-limit says',
    options: { ...byUser, max: 0, allowList: (request, key) => ({ partner: 'yes', friend: [] })[key] as never },
    steps: [as('partner', unlimited), as('friend', unlimited), as('other', refuse)]
  },
  {
    of: 'redis',
    title: 'may be an ioredis client with default options, also when Redis goes down',
    mayWait: true,
    options: (heard, setting) => ({
      max: 2, ...waitsShortly(setting), ...(setting.name === 'in memory' ? {} : { redis: setting.client() })
    }),
    play: async ({ t, setting, app, send }) => {
      if (setting.isTheirs) return await send([{ status: 200, headers: left(2, 1, 60) }, allow, refuse])
      await send([{ status: 200, headers: left(2, 1, 60) }, allow, { status: 429, headers: none(2, 60) }])
      t.equal(app.redisGuard.status.store, setting.name === 'on Redis' ? 'redis' : 'memory')
    }
  },
  {
    of: 'nameSpace',
    title: 'begins every key: instances with the same one share counters, others do not',
    mayWait: true,
    options: (heard, setting) => ({
      max: 5,
      nameSpace: 'mine-',
      ...waitsShortly(setting),
      ...(setting.name === 'in memory' ? {} : { redis: setting.client() })
    }),
    play: async ({ t, setting, app, send }) => {
      const isShared = setting.name === 'on Redis' || setting.isTheirs
      await send([{ status: 200, headers: left(5, 4, 60) }], app)
      for (const [nameSpace, remaining] of [['mine-', isShared ? 3 : 4], ['yours-', 4]] as const) {
        const other = await setting.open({
          max: 5,
          nameSpace,
          ...waitsShortly(setting),
          ...(setting.isMemory && !setting.isTheirs ? {} : { redis: setting.client() })
        })
        other.get('/', ok)
        await send([{ status: 200, headers: left(5, remaining, 60) }], other)
      }
      if (!isShared) return
      const client = server.client()
      t.teardown(() => client.disconnect())
      const keys = await client.keys('*127.0.0.1*')
      for (const nameSpace of ['mine-', 'yours-']) {
        const found = keys.filter(key => key.startsWith(nameSpace))
        t.equal(found.length, 1, nameSpace)
        await client.del(...found)
      }
    }
  },
  {
    of: 'skipOnError',
    title: 'true: while Redis is down, requests pass uncounted, and headers show the whole quota',
    options: (heard, setting) =>
      ({ max: 1, skipOnError: true, onExceeding: () => { heard.push('passed') }, ...unusable(setting) }),
    steps: name => name === 'in memory' || name === 'on Redis'
      ? [{ status: 200, headers: left(1, 0, 60) }, refuse, refuse]
      : [
          { status: 200, headers: left(1, 1, 0) },
          { status: 200, headers: left(1, 1, 0) },
          { status: 200, headers: left(1, 1, 0) }
        ],
    heard: name => name === 'in memory' || name === 'on Redis' ? ['passed'] : ['passed', 'passed', 'passed']
  },
  {
    of: 'skipOnError',
    title: 'false: while Redis is down, each request gets the error',
    options: (heard, setting) => ({ max: 1, skipOnError: false, ...unusable(setting) }),
    steps: name => name === 'in memory' || name === 'on Redis'
      ? [{ status: 200, headers: left(1, 0, 60) }, refuse]
      : [{ status: 500, headers: noHeaders }, { status: 500, headers: noHeaders }]
  },
  {
    of: 'skipOnError',
    title: 'unset: while Redis is down, memory answers',
    notTheirs: 'unset is false there, and each request fails',
    options: { max: 1 },
    steps: [{ status: 200, headers: left(1, 0, 60) }, { status: 429, headers: none(1, 60) }]
  },
  {
    of: 'keyGenerator',
    title: 'separates clients by its answer, and each callback gets that answer',
    options: heard => ({ ...byUser, max: 1, onExceeding: note(heard, 'passed'), onExceeded: note(heard, 'refused') }),
    steps: [as('a', allow), as('b', allow), from('192.0.2.1', as('a', refuse))],
    heard: ['passed / a', 'passed / b', 'refused / a']
  },
  {
    of: 'keyGenerator',
    title: 'may be async, also of a route',
    options: { max: 1, keyGenerator: async request => userOf(request) },
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({ keyGenerator: async request => request.ip }), ok)
    },
    steps: [as('a', allow), as('b', allow), as('a', refuse), at('/own', as('a', allow)), at('/own', as('b', refuse))]
  },
  {
    of: 'keyGenerator',
    title: 'may return a number, and each function gets that number',
    options: heard => {
      const hear = (name: string) => (request: FastifyRequest, key: unknown) => { heard.push([name, typeof key, key]) }
      return {
        keyGenerator: request => Number(userOf(request)),
        allowList: (request, key) => { hear('allowList')(request, key); return false },
        max: (request, key) => { hear('max')(request, key); return 1 },
        timeWindow: async (request, key) => { hear('timeWindow')(request, key); return 60_000 },
        ban: 0,
        onExceeding: hear('onExceeding'),
        onExceeded: hear('onExceeded'),
        onBanReach: hear('onBanReach')
      }
    },
    steps: [as('7', allow), as('7', { status: 403 })],
    heard: [
      'allowList', 'max', 'timeWindow', 'onExceeding', 'allowList', 'max', 'timeWindow', 'onExceeded', 'onBanReach'
    ].map(name => [name, 'number', 7])
  },
  {
    of: 'createRateLimit()',
    title: 'returns a number if keyGenerator does, both counted and on the allow list',
    options: { keyGenerator: request => Number(userOf(request)), allowList: (request, key) => (key as unknown) === 8 },
    routes: (app, heard) => {
      const check = app.createRateLimit()
      app.get('/', { config: { rateLimit: false } }, async request => {
        const { key } = await check(request)
        heard.push(typeof key, key)
      })
    },
    steps: [as('7', allow), as('8', allow)],
    heard: ['number', 7, 'number', 8]
  },
  {
    of: 'keyGenerator',
    title: 'that throws fails only its own request, with the error that it threw',
    options: {
      max: 1,
      keyGenerator: request => {
        if (userOf(request) === undefined) throw Object.assign(new Error('who?'), { statusCode: 401 })
        return userOf(request)
      }
    },
    steps: [
      { status: 401, headers: noHeaders, body: { statusCode: 401, error: 'Unauthorized', message: 'who?' } },
      as('a', allow),
      as('a', refuse)
    ]
  },
  {
    of: 'keyGenerator',
    title: 'unset: the key is the canonical address',
    options: heard => ({ max: 1, ipv6Subnet: 128, onExceeding: note(heard, 'passed') }),
    steps: [
      from('192.0.2.1', allow), from('::ffff:192.0.2.1', refuse), from('::FFFF:C000:201', refuse),
      from('2001:DB8:0:0::1', allow), from('2001:db8::1', refuse)
    ],
    heard: ['passed / 192.0.2.1', 'passed / 2001:db8::1']
  },
  ...([
    [undefined, ['2001:db8:0:1::1', '2001:db8:0:1:ffff::2'], '2001:db8:0:2::1'],
    [128, ['2001:db8::1', '2001:db8:0::1'], '2001:db8::2'],
    [48, ['2001:db8:0:1::1', '2001:db8:0:2::1'], '2001:db8:1::1']
  ] as const).map(([ipv6Subnet, [one, same], other]): Row => ({
    of: 'ipv6Subnet',
    title: `${ipv6Subnet ?? 'left out'}: IPv6 clients are separated by ${ipv6Subnet ?? 64} bits, IPv4 clients by all`,
    options: { max: 1, ...(ipv6Subnet === undefined ? {} : { ipv6Subnet }) },
    steps: [
      from(one, allow), from(same, refuse), from(other, allow), from('192.0.2.1', allow), from('192.0.2.2', allow)
    ]
  })),
  {
    of: 'ipv6Subnet',
    title: '0: all IPv6 clients are one',
    options: { max: 1, ipv6Subnet: 0 },
    steps: [from('2001:db8::1', allow), from('fe80::1', refuse), from('192.0.2.1', allow), from('192.0.2.2', allow)]
  },
  {
    of: 'ipv6Subnet',
    title: 'may be set for one route, and for a limiter',
    options: heard => ({ max: 1, ipv6Subnet: 48, onExceeding: note(heard, 'passed') }),
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({ ipv6Subnet: 128 }), ok)
      const limiter = app.createRateLimit({ ipv6Subnet: 64 })
      app.get('/function', { config: { rateLimit: false } }, async request => (await limiter(request)).key)
    },
    steps: [
      from('2001:db8:0:1::1', allow), from('2001:db8:0:2::1', refuse),
      at('/own', from('2001:db8:0:1::1', allow)), at('/own', from('2001:db8:0:1::2', allow)),
      at('/own', from('2001:db8:0:1::1', refuse)), at('/own', from('192.0.2.1', allow)),
      { url: '/function', ip: '2001:db8:0:1::1', status: 200, headers: noHeaders, body: '2001:db8:0:1::' }
    ],
    heard: [
      'passed / 2001:db8::', 'passed /own 2001:db8:0:1::1', 'passed /own 2001:db8:0:1::2', 'passed /own 192.0.2.1'
    ]
  },
  {
    of: 'groupId',
    title: 'that is not a string is rejected with its route',
    options: {},
    routes: app => {
      for (const groupId of [5, {}, null]) {
        t.throws(() => app.get('/', { config: { rateLimit: { groupId } } as object }, ok), {
          message: /groupId must be a string/
        })
      }
      app.get('/', ok)
    },
    steps: [allow]
  },
  {
    of: 'groupId',
    title: 'routes of one group share a counter',
    notTheirs: 'defect 2',
    options: { max: 9 },
    routes: app => {
      app.get('/a', own({ max: 2, groupId: 'one' }), ok)
      app.post('/b', own({ max: 2, groupId: 'one' }), ok)
      app.get('/c', own({ max: 2, groupId: 'two' }), ok)
    },
    steps: [
      at('/a', allow),
      { url: '/b', method: 'POST', status: 200, headers: left(2, 0, 60) },
      at('/a', refuse),
      at('/c', { status: 200, headers: left(2, 1, 60) })
    ]
  },
  {
    of: 'groupId',
    title: 'another group, or none, has its own counter',
    options: { max: 1 },
    routes: app => {
      app.get('/a', own({ groupId: 'one' }), ok)
      app.get('/b', own({ groupId: 'two' }), ok)
      app.get('/c', own({}), ok)
    },
    steps: [at('/a', allow), at('/b', allow), at('/c', allow), at('/a', refuse), at('/b', refuse), at('/c', refuse)]
  },
  {
    of: 'ban',
    title: 'n: after n refusals the status is 403 with the same message, and onBanReach is called after the others',
    options: heard => ({
      max: 1,
      ban: 2,
      onExceeding: note(heard, 'passed'),
      onExceeded: note(heard, 'refused'),
      onBanReach: note(heard, 'banned')
    }),
    steps: [
      allow, refuse, {
        status: 429,
        headers: none(1, 60),
        body: {
          statusCode: 429,
          error: 'Too Many Requests',
          message: 'Rate limit exceeded, retry in 1 minute'
        }
      },
      {
        status: 403,
        headers: none(1, 60),
        body: { statusCode: 403, error: 'Forbidden', message: 'Rate limit exceeded, retry in 1 minute' }
      }, { status: 403 }, from('192.0.2.1', allow)
    ],
    heard: [
      'passed / 127.0.0.1', 'refused / 127.0.0.1', 'refused / 127.0.0.1', 'refused / 127.0.0.1', 'banned / 127.0.0.1',
      'refused / 127.0.0.1', 'banned / 127.0.0.1', 'passed / 192.0.2.1'
    ]
  },
  {
    of: 'ban',
    title: '0: each refusal is a 403, -1: none is; a route may set its own',
    options: { max: 1, ban: 0 },
    routes: app => {
      app.get('/', ok)
      app.get('/never', own({ ban: -1 }), ok)
      app.get('/later', own({ ban: 1, max: 0 }), ok)
    },
    steps: [
      allow, { status: 403 }, at('/never', allow), at('/never', refuse), at('/never', refuse), at('/later', refuse),
      at('/later', { status: 403 })
    ]
  },
  {
    of: 'ban',
    title: 'ends with the window',
    waits: true,
    options: { max: 1, ban: 0, timeWindow: 1000 },
    play: async ({ send, app }) => {
      await send([allow, { status: 403 }, { status: 403 }])
      await until(async () => (await app.inject('/')).statusCode === 200)
    }
  },
  {
    of: 'continueExceeding',
    title: 'unset: a refusal does not change the end of the window',
    options: recordingTtl({ max: 1 }),
    play: async ({ t, heard, send }) => {
      await send([allow])
      const begunMs = Date.now()
      for (const goneMs of [5, 20]) {
        await until(() => Date.now() - begunMs >= goneMs)
        await send([refuse])
        t.ok(Number(heard.at(-1)) <= 60_000 - goneMs + 1, `${heard.at(-1)} ms left after ${goneMs}`)
      }
    }
  },
  {
    of: 'continueExceeding',
    title: 'true: each refusal starts the window again, also for a route',
    options: recordingTtl({ max: 1, continueExceeding: true }),
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({ timeWindow: 10_000 }), ok)
      app.get('/not', own({ continueExceeding: false }), ok)
    },
    play: async ({ t, heard, send }) => {
      await send([allow, at('/own', allow), at('/not', allow)])
      const begunMs = Date.now()
      await until(() => Date.now() - begunMs >= 20)
      await send([refuse, refuse, at('/own', refuse), at('/not', refuse)])
      t.same(heard.slice(0, 3), [60_000, 60_000, 10_000])
      t.ok(Number(heard[3]) <= 59_981, `${heard[3]} ms`)
    }
  },
  {
    of: 'continueExceeding',
    title: 'takes precedence over exponentialBackoff',
    options: recordingTtl({ max: 1, continueExceeding: true, exponentialBackoff: true }),
    steps: [allow, refuse, refuse, refuse],
    heard: [60_000, 60_000, 60_000]
  },
  {
    of: 'exponentialBackoff',
    title: 'each refusal doubles the window, as header, body and context show',
    options: recordingTtl({ max: 1, exponentialBackoff: true }),
    steps: [
      { status: 200, headers: left(1, 0, 60) }, { status: 429, headers: none(1, 60) },
      {
        status: 429,
        headers: none(1, 120),
        body: { statusCode: 429, error: 'Too Many Requests', message: 'retry in 2 minutes' }
      }, { status: 429, headers: none(1, 240) }
    ],
    heard: [60_000, 120_000, 240_000]
  },
  {
    of: 'exponentialBackoff',
    title: 'applies to a route with its own window, and together with ban',
    options: recordingTtl({ max: 9 }),
    routes: app => { app.get('/', own({ max: 1, timeWindow: '2 seconds', exponentialBackoff: true, ban: 1 }), ok) },
    steps: [
      allow,
      { status: 429, headers: none(1, 2) },
      { status: 403, headers: none(1, 4) },
      { status: 403, headers: none(1, 8) }
    ],
    heard: [2000, 4000, 8000]
  },
  {
    of: 'exponentialBackoff',
    title: 'grows up to a day, while @fastify/rate-limit stops only at the last safe integer',
    options: recordingTtl({ max: 0, timeWindow: '1 hour', exponentialBackoff: true }),
    play: async ({ t, setting, heard, send }) => {
      await send(new Array(60).fill(refuse))
      const last = Number(heard.at(-1))
      if (setting.isTheirs) t.ok(Number.isSafeInteger(last) && last > 0.99 * Number.MAX_SAFE_INTEGER, `${last} ms`)
      else t.equal(last, 86_400_000)
    }
  },
  ...(['onExceeding', 'onExceeded', 'onBanReach'] as const).map((callback): Row => ({
    of: callback,
    title: 'is called only for its own requests, with request and key; a route may set its own',
    options: heard => ({ max: 1, ban: 1, [callback]: note(heard, 'plugin') }),
    routes: (app, heard) => {
      app.get('/', ok)
      app.get('/own', own({ [callback]: note(heard, 'route') }), ok)
    },
    steps: ['/', '/own'].flatMap(url => {
      return [at(url, allow), at(url, refuse), at(url, { status: 403 }), at(url, { status: 403 })]
    }),
    heard: ['plugin / 127.0.0.1', 'route /own 127.0.0.1'].flatMap(heard => {
      return new Array({ onExceeding: 1, onExceeded: 3, onBanReach: 2 }[callback]).fill(heard)
    })
  })),
  {
    of: 'errorResponseBuilder',
    title: 'gets status, ban, max, ttl and after',
    options: heard => ({
      max: 0,
      ban: 1,
      continueExceeding: true,
      timeWindow: '90 seconds',
      errorResponseBuilder: (request, context) => {
        const { statusCode, ban, max, ttl, after } = context
        heard.push({ url: request.url, statusCode, ban, max, ttl, after })
        return Object.assign(new Error(`in ${context.after}`), { statusCode: context.statusCode })
      }
    }),
    steps: [
      { status: 429, body: { statusCode: 429, error: 'Too Many Requests', message: 'in 2 minutes' } },
      { status: 403, body: { statusCode: 403, error: 'Forbidden', message: 'in 2 minutes' } }
    ],
    heard: [429, 403].map(statusCode => {
      return { url: '/', statusCode, ban: statusCode === 403, max: 0, ttl: 90_000, after: '2 minutes' }
    })
  },
  {
    of: 'errorResponseBuilder',
    title: 'its result is thrown unchanged, even a plain object with other fields',
    options: {
      max: 0,
      errorResponseBuilder: (request, { max }) => ({ statusCode: 418, code: 'TEAPOT', date: 'today', max })
    },
    steps: [{ status: 418, headers: none(0, 60), body: { statusCode: 418, code: 'TEAPOT', date: 'today', max: 0 } }]
  },
  {
    of: 'errorResponseBuilder',
    title: 'setErrorHandler gets the same object',
    options: () => ({ max: 0, errorResponseBuilder: () => thrown }),
    routes: (app, heard) => {
      app.setErrorHandler((error, request, reply) => {
        heard.push(error === thrown)
        reply.code(420).send({ mine: true })
      })
      app.get('/', ok)
    },
    steps: [{ status: 420, headers: none(0, 60), body: { mine: true } }],
    heard: [true]
  },
  {
    of: 'addHeadersOnExceeding',
    title: 'and addHeaders choose the headers below and above the limit',
    options: {
      max: 1,
      addHeadersOnExceeding: { 'x-ratelimit-limit': false },
      addHeaders: { 'x-ratelimit-remaining': false, 'retry-after': false }
    },
    steps: [
      { status: 200, headers: { 'x-ratelimit-remaining': 0, 'x-ratelimit-reset': 60 } },
      { status: 429, headers: { 'x-ratelimit-limit': 1, 'x-ratelimit-reset': 60 } }
    ]
  },
  {
    of: 'addHeaders',
    title: 'and addHeadersOnExceeding may turn off all headers, also for a route',
    options: { max: 1 },
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({
        addHeadersOnExceeding: {
          'x-ratelimit-limit': false,
          'x-ratelimit-remaining': false,
          'x-ratelimit-reset': false
        },
        addHeaders: {
          'x-ratelimit-limit': false,
          'x-ratelimit-remaining': false,
          'x-ratelimit-reset': false,
          'retry-after': false
        }
      }), ok)
    },
    steps: [
      at('/own', unlimited),
      at('/own', { status: 429, headers: noHeaders }),
      { status: 200, headers: left(1, 0, 60) }
    ]
  },
  {
    of: 'enableDraftSpec',
    title: 'renames the headers, and the options for them',
    options: { max: 1, enableDraftSpec: true },
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({
        addHeadersOnExceeding: { 'ratelimit-limit': true, 'ratelimit-remaining': false, 'ratelimit-reset': true }
      }), ok)
    },
    steps: [
      { status: 200, headers: { 'ratelimit-limit': 1, 'ratelimit-remaining': 0, 'ratelimit-reset': 60 } },
      {
        status: 429,
        headers: { 'ratelimit-limit': 1, 'ratelimit-remaining': 0, 'ratelimit-reset': 60, 'retry-after': 60 }
      },
      at('/own', { status: 200, headers: { 'ratelimit-limit': 1, 'ratelimit-reset': 60 } })
    ]
  },
  {
    of: 'headers',
    title: 'are on every limited route, in seconds from now, rounded up; retry-after only on refusals',
    options: { max: 1, timeWindow: 61_001 },
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({ timeWindow: 999 }), ok)
      app.get('/none', { config: { rateLimit: false } }, ok)
      app.get('/fails', own({}), async () => { throw new Error('broken') })
    },
    steps: [
      { status: 200, headers: left(1, 0, 62) }, { status: 429, headers: none(1, 62) },
      at('/own', { status: 200, headers: left(1, 0, 1) }), at('/none', unlimited),
      at('/fails', { status: 500, headers: left(1, 0, 62) })
    ]
  },
  {
    of: 'body',
    title: "is Fastify's own error",
    options: { max: 0, timeWindow: '1 minute' },
    routes: app => {
      app.get('/', ok)
      app.get('/hour', own({ timeWindow: '1 hour' }), ok)
    },
    steps: [
      {
        status: 429,
        body: {
          statusCode: 429,
          error: 'Too Many Requests',
          message: 'Rate limit exceeded, retry in 1 minute'
        }
      },
      at('/hour', {
        status: 429,
        body: { statusCode: 429, error: 'Too Many Requests', message: 'Rate limit exceeded, retry in 1 hour' }
      })
    ]
  },
  {
    of: 'body',
    title: 'setErrorHandler gets an Error with a status, while that of the reply is still 200',
    options: { max: 0, ban: 1 },
    routes: (app, heard) => {
      app.setErrorHandler((error: Error & { statusCode?: number }, request, reply) => {
        heard.push([
          reply.statusCode, error instanceof Error, error.statusCode, error.message, reply.getHeader('retry-after')
        ])
        reply.code(error.statusCode ?? 500).send({ mine: error.message })
      })
      app.get('/', own({ continueExceeding: true }), ok)
    },
    steps: [
      { status: 429, body: { mine: 'Rate limit exceeded, retry in 1 minute' } },
      { status: 403, body: { mine: 'Rate limit exceeded, retry in 1 minute' } }
    ],
    heard: [429, 403].map(status => [200, true, status, 'Rate limit exceeded, retry in 1 minute', 60])
  },
  {
    of: 'route',
    title: 'config.rateLimit is an object or false; undefined and null leave the route to the global limit',
    options: { max: 1 },
    routes: app => {
      app.get('/object', own({}), ok)
      app.get('/false', { config: { rateLimit: false } }, ok)
      app.get('/null', { config: { rateLimit: null } as object }, ok)
      app.get('/other', { config: { something: 1 } as object }, ok)
    },
    steps: [
      at('/object', allow), at('/false', unlimited), at('/false', unlimited), at('/null', allow), at('/other', refuse),
      at('/object', refuse)
    ]
  },
  {
    of: 'route',
    title: 'config.rateLimit of another type throws',
    routes: app => {
      for (const rateLimit of [true, 'yes', 5, () => {}]) {
        t.throws(() => app.get('/', { config: { rateLimit } as object }, ok), {
          message: 'Unknown value for route rate-limit configuration'
        })
      }
      app.get('/', ok)
    },
    steps: [allow]
  },
  {
    of: 'route',
    title: 'inherits the options of the plugin',
    options: heard => ({ ...byUser, max: 1, timeWindow: 30_000, onExceeding: note(heard, 'passed') }),
    routes: app => {
      app.get('/window', own({ timeWindow: 10_000 }), ok)
      app.get('/max', own({ max: 2 }), ok)
    },
    steps: [
      at('/window', as('a', { status: 200, headers: left(1, 0, 10) })),
      at('/max', as('a', { status: 200, headers: left(2, 1, 30) })),
      at('/window', as('b', allow))
    ],
    heard: ['passed /window a', 'passed /max a', 'passed /window b']
  },
  {
    of: 'registration',
    title: 'one limit counts a request once; a hook with another limit applies, which @fastify/rate-limit ignores',
    options: { max: 3 },
    routes: app => {
      app.get('/', { preHandler: app.rateLimit({ max: 1 }) }, ok)
      app.get('/same', { preHandler: app.rateLimit() }, ok)
      const [first, second] = [app.rateLimit({ max: 1 }), app.rateLimit({ max: 0 })]
      app.get('/twice', { config: { rateLimit: false }, onRequest: first, preHandler: second }, ok)
    },
    steps: name => name === 'as @fastify/rate-limit'
      ? [
          { status: 200, headers: left(3, 2, 60) }, { status: 200, headers: left(3, 1, 60) },
          at('/same', { status: 200, headers: left(3, 0, 60) }), at('/twice', { status: 200, headers: left(1, 0, 60) })
        ]
      : [
          { status: 200, headers: left(1, 0, 60) }, { status: 429, headers: none(1, 60) },
          at('/same', { status: 200, headers: left(3, 0, 60) }), at('/twice', { status: 429, headers: none(0, 60) })
        ]
  },
  {
    of: 'registration',
    title: 'two in nested scopes both apply',
    options: { global: false },
    play: async ({ setting, send }) => {
      const both = setting.empty()
      await setting.register(both, { max: 3, nameSpace: 'outer:' })
      both.get('/outer', ok)
      await both.register(async child => {
        await setting.register(child, { max: 2, nameSpace: 'inner:' })
        child.get('/inner', ok)
      })
      await send([
        at('/inner', { status: 200, headers: left(2, 1, 60) }), at('/inner', { status: 200, headers: left(2, 0, 60) }),
        at('/inner', { status: 429, headers: none(2, 60) }), at('/outer', { status: 429, headers: none(3, 60) }),
        at('/inner', { status: 429, headers: none(3, 60) })
      ], both)
    }
  },
  {
    of: 'registration',
    title: 'two in separate scopes limit separately',
    options: { global: false },
    play: async ({ setting, send }) => {
      const both = setting.empty()
      for (const max of [1, 2]) {
        await both.register(async child => {
          await setting.register(child, { max, nameSpace: `beside-${max}:` })
          child.get('/', ok)
        }, { prefix: `/${max}` })
      }
      await send([
        at('/1', { status: 200, headers: left(1, 0, 60) }), at('/1', refuse),
        at('/2', { status: 200, headers: left(2, 1, 60) }), at('/2', allow), at('/2', refuse)
      ], both)
    }
  },
  {
    of: 'rateLimit()',
    title: 'without options is a hook of the global limit, on its counters',
    options: heard => ({ max: 2, onExceeding: note(heard, 'passed'), onExceeded: note(heard, 'refused') }),
    routes: app => {
      app.get('/', ok)
      app.get('/hooked', { config: { rateLimit: false }, preHandler: app.rateLimit() }, ok)
    },
    steps: [
      allow,
      at('/hooked', { status: 200, headers: left(2, 0, 60) }),
      at('/hooked', {
        status: 429,
        headers: none(2, 60),
        body: { statusCode: 429, error: 'Too Many Requests', message: 'Rate limit exceeded, retry in 1 minute' }
      }),
      refuse
    ],
    heard: ['passed / 127.0.0.1', 'passed /hooked 127.0.0.1', 'refused /hooked 127.0.0.1', 'refused / 127.0.0.1']
  },
  {
    of: 'rateLimit()',
    title: 'with options inherits those of the plugin; works as any hook of a route and of the instance',
    options: { max: 9, timeWindow: 30_000, global: false },
    routes: app => {
      for (const hook of hooks) app.get(`/${hook}`, { [hook]: app.rateLimit({ max: 1 }) }, ok)
      app.register(async child => {
        child.addHook('onRequest', child.rateLimit({ max: 2, ban: 0 }))
        child.get('/', ok)
        child.get('/b', ok)
      }, { prefix: '/child' })
    },
    steps: [
      ...hooks.flatMap(hook => [
        at(`/${hook}`, { status: 200, headers: left(1, 0, 30) }),
        at(`/${hook}`, refuse),
        at(`/${hook}`, from('192.0.2.1', allow))
      ]),
      at('/child', { status: 200, headers: left(2, 1, 30) }), at('/child/b', allow), at('/child', { status: 403 }),
      at('/child/b', { status: 403 })
    ]
  },
  {
    of: 'rateLimit()',
    title: 'limits 404s as a hook of their handler',
    options: { max: 9 },
    routes: app => {
      app.setNotFoundHandler({ preHandler: app.rateLimit({ max: 1 }) }, (request, reply) => {
        reply.code(404).send('nothing here')
      })
    },
    steps: [
      at('/nowhere', { status: 404, headers: left(1, 0, 60), body: 'nothing here' }),
      at('/elsewhere', { status: 429, headers: none(1, 60) }),
      from('192.0.2.1', at('/nowhere', { status: 404 }))
    ]
  },
  {
    of: 'createRateLimit()',
    title: 'returns the state of a client, without headers and callbacks',
    options: heard => ({
      global: false,
      max: 9,
      timeWindow: 60_000,
      onExceeding: note(heard, 'passed'),
      onExceeded: note(heard, 'refused'),
      onBanReach: note(heard, 'banned')
    }),
    routes: app => {
      // Each refusal starts the window again, so its ttl is exact.
      const check = app.createRateLimit({ max: 2, ban: 1, timeWindow: 1500, continueExceeding: true })
      app.get('/', async request => withoutTime(await check(request)))
    },
    steps: [
      { status: 200, headers: noHeaders, body: { ...state(2, 1500, 1), ttl: 'in time', ttlInSeconds: 'in time' } },
      { status: 200, headers: noHeaders, body: { ...state(2, 1500, 0), ttl: 'in time', ttlInSeconds: 'in time' } },
      { status: 200, headers: noHeaders, body: { ...state(2, 1500, 0), ttl: 1500, ttlInSeconds: 2, isExceeded: true } },
      {
        status: 200,
        headers: noHeaders,
        body: { ...state(2, 1500, 0), ttl: 1500, ttlInSeconds: 2, isExceeded: true, isBanned: true }
      },
      from('192.0.2.1', {
        status: 200,
        body: { ...state(2, 1500, 1), key: '192.0.2.1', ttl: 'in time', ttlInSeconds: 'in time' }
      })
    ],
    heard: []
  },
  {
    of: 'createRateLimit()',
    title: 'returns only the key for a client on the allow list',
    options: { global: false, max: 0, ...byUser },
    routes: app => {
      const byList = app.createRateLimit({ allowList: ['partner'] })
      const byFunction = app.createRateLimit({ allowList: async (request, key) => key === 'friend' })
      app.get('/', async request => await byList(request))
      app.get('/peek', async request => await byFunction(request, { increment: false }))
    },
    steps: [
      as('partner', { status: 200, headers: noHeaders, body: { isAllowed: true, key: 'partner' } }),
      at('/peek', as('friend', { status: 200, headers: noHeaders, body: { isAllowed: true, key: 'friend' } }))
    ]
  },
  {
    of: 'createRateLimit()',
    title: 'without options counts with the global limit',
    options: { max: 2 },
    routes: app => {
      const check = app.createRateLimit()
      app.get('/', ok)
      app.get('/checked', { config: { rateLimit: false } }, async request => {
        const result = await check(request)
        return result.isAllowed ? 'exempt' : [result.max, result.remaining, result.isExceeded]
      })
    },
    steps: [
      allow,
      at('/checked', { status: 200, headers: noHeaders, body: [2, 0, false] }),
      at('/checked', { status: 200, body: [2, 0, true] }),
      refuse
    ]
  },
  {
    of: 'createRateLimit()',
    title: 'counts at each call, also on a limited route',
    options: { max: 5 },
    routes: app => {
      const check = app.createRateLimit({ max: 3 })
      app.get('/', async request => {
        const remaining: unknown[] = []
        for (const result of [await check(request), await check(request)]) {
          remaining.push(result.isAllowed || result.remaining)
        }
        return remaining
      })
    },
    steps: [
      { status: 200, headers: left(5, 4, 60), body: [2, 1] },
      { status: 200, headers: left(5, 3, 60), body: [0, 0] }
    ]
  },
  {
    of: 'createRateLimit()',
    title: 'increment: false only peeks; true counts',
    options: { global: false },
    routes: app => {
      const check = app.createRateLimit({ max: 1, ban: 0 })
      app.get('/', async request => withoutTime(await check(request, { increment: true })))
      app.get('/peek', async request => withoutTime(await check(request, { increment: false })))
    },
    steps: [
      // An unknown client has no window that could end.
      at('/peek', { status: 200, headers: noHeaders, body: { ...state(1, 60_000, 1), ttl: 0, ttlInSeconds: 0 } }),
      at('/peek', { status: 200, body: { ...state(1, 60_000, 1), ttl: 0, ttlInSeconds: 0 } }),
      { status: 200, body: { ...state(1, 60_000, 0), ttl: 'in time', ttlInSeconds: 'in time' } },
      at('/peek', { status: 200, body: { ...state(1, 60_000, 0), ttl: 'in time', ttlInSeconds: 'in time' } }),
      {
        status: 200,
        body: { ...state(1, 60_000, 0), ttl: 'in time', ttlInSeconds: 'in time', isExceeded: true, isBanned: true }
      },
      at('/peek', {
        status: 200,
        body: { ...state(1, 60_000, 0), ttl: 'in time', ttlInSeconds: 'in time', isExceeded: true, isBanned: true }
      }),
      at('/peek', from('192.0.2.1', {
        status: 200,
        body: { ...state(1, 60_000, 1), key: '192.0.2.1', ttl: 0, ttlInSeconds: 0 }
      }))
    ]
  },
  {
    of: 'createRateLimit()',
    title: 'increment: false neither starts a window again nor extends it',
    options: { global: false },
    routes: (app, heard) => {
      const check = app.createRateLimit({ max: 1, continueExceeding: true })
      for (const increment of [true, false]) {
        app.get(`/${increment}`, async request => {
          const result = await check(request, { increment })
          if (!result.isAllowed) heard.push(result.ttl)
        })
      }
    },
    play: async ({ t, heard, send }) => {
      await send([at('/true', allow), at('/true', allow)])
      const refusedMs = Date.now()
      await until(() => Date.now() - refusedMs >= 20)
      await send([at('/false', allow), at('/true', allow)])
      t.ok(Number(heard[2]) <= 59_981, `${heard[2]} ms`)
      t.equal(heard[3], 60_000)
    }
  },
  {
    of: 'createRateLimit()',
    title: 'fails with the error that a function of its options threw',
    options: { global: false },
    routes: app => {
      const check = app.createRateLimit({
        max: () => {
          throw Object.assign(new Error('no plan'), { statusCode: 402 })
        }
      })
      app.get('/', async request => await check(request))
    },
    steps: [{ status: 402, body: { statusCode: 402, error: 'Payment Required', message: 'no plan' } }]
  },
  {
    of: 'the clock',
    title: 'is Date.now() in memory, read at every call, without a timer; on Redis it is that of Redis',
    options: { max: 1, timeWindow: '1 hour' },
    play: async ({ t, setting, app, send }) => {
      if (!setting.isTheirs) await setting.settle(app)
      let nowMs = Date.now()
      t.intercept(Date, 'now', { value: () => nowMs })
      // These timers never fire: code that waits for one would wait for ever.
      const never = {
        ref: () => never,
        unref: () => never,
        hasRef: () => false,
        refresh: () => never,
        close: () => never
      }
      if (setting.isMemory) {
        for (const timer of ['setTimeout', 'setInterval'] as const) {
          t.intercept(globalThis, timer, { value: () => never })
        }
      }
      const response = async () => await app.inject('/')
      const hourMs = 3_600_000
      t.match(await response(), { statusCode: 200, headers: { 'x-ratelimit-reset': '3600' } })
      t.match(await response(), { statusCode: 429 })
      nowMs += hourMs - 1
      t.match(await response(), {
        statusCode: 429,
        headers: setting.isMemory ? { 'x-ratelimit-reset': '1', 'retry-after': '1' } : {}
      })
      nowMs += 1
      if (setting.isMemory) t.match(await response(), { statusCode: 200, headers: { 'x-ratelimit-reset': '3600' } })
      else await send([refuse])
    }
  }
]

/** The row of `setErrorHandler` checks that the handler gets this very object. */
const thrown = { statusCode: 420, calm: true }

/** The answer of `createRateLimit` without times, for a client within its limit. */
function state (max: number, timeWindow: number, remaining: number) {
  return { isAllowed: false, key: '127.0.0.1', max, timeWindow, remaining, isExceeded: false, isBanned: false }
}

/** Replaces a duration that is neither over nor longer than the window by `in time`. */
function withoutTime (answer: Awaited<ReturnType<ReturnType<FastifyInstance['createRateLimit']>>>): object {
  if (answer.isAllowed) return answer
  // @fastify/rate-limit does not return the name of the limit.
  const { limit, ...result } = answer
  const { ttl, ttlInSeconds, timeWindow, isExceeded } = result
  const isWhole = ttl === 0 || (isExceeded && ttl === timeWindow && timeWindow < 60_000)
  if (isWhole) return result
  const isInTime = ttl > 0 && ttl <= timeWindow && ttlInSeconds === Math.ceil(ttl / 1000)
  return { ...result, ...(isInTime ? { ttl: 'in time', ttlInSeconds: 'in time' } : {}) }
}

/** Options that record the ttl of each refusal, which is exact to the ms, while headers are rounded. */
function recordingTtl (options: RedisGuardOptions): (heard: unknown[]) => RedisGuardOptions {
  return heard => ({
    ...options,
    errorResponseBuilder: (request, { statusCode, ttl, after }) => {
      heard.push(ttl)
      return Object.assign(new Error(`retry in ${after}`), { statusCode })
    }
  })
}

/** The user's own client lets commands wait while Redis is down; on a busy machine a running Redis may be slow too. */
function waitsShortly ({ name }: Setting): RedisGuardOptions {
  return name === 'on Redis that is down' ? { commandTimeout: 250 } : {}
}

/** @fastify/rate-limit gets no Redis in its setting, so it gets one that cannot be reached. */
function unusable (setting: Setting): RedisGuardOptions {
  return setting.isTheirs ? { redis: setting.client({ port: 1, lazyConnect: true, enableOfflineQueue: false }) } : {}
}

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

for (const [i, row] of rows.entries()) {
  t.test(`${row.of}: ${row.title}`, async t => {
    if (row.waits) t.jobs = settings.length
    for (const name of settings) {
      if (name === 'as @fastify/rate-limit' && row.notTheirs !== undefined) continue
      const play = async (t: Test) => await playRow(t, row, await Setting.start(t, name, server, `row-${i}:`))
      if (row.waits) t.test(name, { buffered: true }, play)
      else await t.test(name, play)
    }
  })
}

async function playRow (t: Test, row: Row, setting: Setting): Promise<void> {
  const heard: unknown[] = []
  const options = typeof row.options === 'function' ? row.options(heard, setting) : row.options ?? {}
  const app = await setting.open(options, row.before)
  if (row.routes === undefined) app.get('/', ok)
  else await row.routes(app, heard)
  await app.ready()
  await setting.begin()
  const begunMs = performance.now()
  const send: Scene['send'] = async (steps, to = app) => {
    const [found, expected]: [Answer[], Answer[]] = [[], []]
    for (const step of steps) {
      found.push(await sendStep(to, step, begunMs))
      expected.push(answerOf(step))
    }
    t.strictSame(found, expected)
  }
  await send(onSetting(row.steps ?? [], setting.name))
  await row.play?.({ t, setting, app, heard, send })
  if (row.heard !== undefined) t.same(heard, onSetting(row.heard, setting.name))
  await setting.check(row.mayWait)
}

function onSetting<T> (expected: Everywhere<T>, name: SettingName): T {
  return typeof expected === 'function' ? (expected as (name: SettingName) => T)(name) : expected
}

/** The parts of an answer that a step specifies. */
interface Answer {
  readonly request: string
  readonly status: number
  readonly headers: Readonly<Record<string, number>> | undefined
  readonly body: unknown
}

function answerOf ({ url = '/', method = 'GET', ip, user, status, headers, body }: Step): Answer {
  return { request: `${method} ${url} of ${user ?? ip ?? 'the usual client'}`, status, headers, body }
}

async function sendStep (app: FastifyInstance, step: Step, begunMs: number): Promise<Answer> {
  const { url = '/', method = 'GET', ip, user, headers, body } = step
  const response = await app.inject({
    method: method as 'GET',
    url,
    ...(ip === undefined ? {} : { remoteAddress: ip }),
    headers: user === undefined ? {} : { 'x-user': user }
  })
  const ofLimit = Object.entries(response.headers).filter(([name]) => /ratelimit|retry-after/.test(name))
  const found = Object.fromEntries(ofLimit.map(([name, value]) => [name, Number(value)]))
  const isJson = response.headers['content-type']?.toString().startsWith('application/json')
  return {
    ...answerOf({ ...step, status: response.statusCode }),
    headers: headers && aged(found, headers, begunMs),
    body: body && (isJson ? withoutCode(response.json(), begunMs) : response.body)
  }
}

/** Removes the code of a refusal, which @fastify/rate-limit lacks, and the seconds that the row took. */
function withoutCode (body: unknown, begunMs: number): unknown {
  if (typeof body !== 'object' || Array.isArray(body)) return body
  const { code, ...rest } = body as { code?: unknown, message?: string }
  if (code !== undefined && code !== 'GUARD_LIMITED' && code !== 'GUARD_BANNED') return body
  const seconds = Number(/, retry in (\d+) seconds$/.exec(rest.message ?? '')?.[1])
  if (seconds < 60 && seconds >= 60 - secondsSince(begunMs)) {
    rest.message = rest.message!.replace(/\d+ seconds$/, '1 minute')
  }
  return rest
}

function secondsSince (begunMs: number): number {
  return Math.ceil((performance.now() - begunMs) / 1000)
}

/** Adds to the seconds in headers the time that the row took, if that explains the difference. */
function aged (
  found: Readonly<Record<string, number>>,
  expected: Readonly<Record<string, number>>,
  begunMs: number
): Readonly<Record<string, number>> {
  const secondsGone = secondsSince(begunMs)
  return Object.fromEntries(Object.entries(found).map(([name, value]) => {
    const wanted = expected[name]
    const isExplained = /reset|retry-after/.test(name) && wanted !== undefined && value <= wanted &&
      value >= wanted - secondsGone
    return [name, isExplained ? wanted : value]
  }))
}

/** The options of the compatibility table and the sentences below it; `store` has its own test. */
const promised = [
  'global', 'max', 'timeWindow', 'hook', 'cache', 'allowList', 'redis', 'nameSpace', 'skipOnError', 'keyGenerator',
  'ipv6Subnet', 'groupId', 'ban',
  'continueExceeding', 'exponentialBackoff', 'onExceeding', 'onExceeded', 'onBanReach', 'errorResponseBuilder',
  'addHeadersOnExceeding', 'addHeaders',
  'enableDraftSpec', 'headers', 'body', 'route', 'registration', 'rateLimit()', 'createRateLimit()', 'the clock'
]

t.test('each option and each sentence has a row', async t => {
  t.same([...new Set(rows.map(row => row.of))].sort(), [...promised].sort())
})

t.test('normalizeIP returns the keys that @fastify/rate-limit returns', async t => {
  for (const ip of ['192.0.2.1', '::ffff:192.0.2.1', '::FFFF:C000:0201', 'Not.An.Address']) {
    for (const bits of [undefined, 128, 64, 0]) t.equal(normalizeIP(ip, bits), theirNormalizeIP(ip, bits), ip)
  }
  t.equal(normalizeIP('2001:DB8:0:0::1', 128), theirNormalizeIP('2001:DB8:0:0::1', 128))
})
