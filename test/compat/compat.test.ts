/**
 * What who comes from @fastify/rate-limit relies on: its options, headers,
 * bodies and functions. Each row is played in memory, on Redis and on a Redis
 * that goes down before the first request; and, unless it says why not, with
 * @fastify/rate-limit itself, so that what is expected is proved.
 */
import type { FastifyInstance, FastifyRequest, HTTPMethods } from 'fastify'
import t, { type Test } from 'tap'
import { normalizeIP } from '../../lib/index.js'
import type { RedisGuardOptions, RouteRateLimitOptions } from '../../lib/options.js'
import { RedisServer } from '../support/redis-server.js'
import { until } from '../support/until.js'
import { Setting, type SettingName, settings, theirNormalizeIP } from './setting.js'

/** A request, and what it is answered. */
interface Step {
  /** default `/` */
  readonly url?: string
  readonly method?: HTTPMethods
  readonly ip?: string
  /** the header x-user */
  readonly user?: string
  readonly status: number
  /** all the headers of the limit, and no others; of those in seconds one less for each second that the row has taken */
  readonly headers?: Readonly<Record<string, number>>
  readonly body?: unknown
}

interface Scene {
  readonly t: Test
  readonly setting: Setting
  readonly app: FastifyInstance
  readonly heard: unknown[]
  /** Sends requests one after the other, and compares. */
  readonly send: (steps: readonly Step[], app?: FastifyInstance) => Promise<void>
}

/** What is the same everywhere, or what is expected of each setting. */
type Everywhere<T> = T | ((name: SettingName) => T)

interface Row {
  /** option, or sentence, of the compatibility table */
  readonly of: string
  readonly title: string
  /** why @fastify/rate-limit is left out, such as one of its defects */
  readonly notTheirs?: string
  readonly options?: RedisGuardOptions | ((heard: unknown[], setting: Setting) => RedisGuardOptions)
  readonly before?: (app: FastifyInstance) => void
  /** default: GET / */
  readonly routes?: (app: FastifyInstance, heard: unknown[]) => void | Promise<void>
  readonly steps?: Everywhere<readonly Step[]>
  /** what callbacks, hooks and handlers have noted */
  readonly heard?: Everywhere<readonly unknown[]>
  /** what a list of requests cannot say */
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
const note = (heard: unknown[], name: string) => (request: FastifyRequest, key: string) => { heard.push(`${name} ${request.url} ${key}`) }
const noHeaders = {}
const unlimited = { status: 200, headers: noHeaders } as const

/** Headers of an allowed request, and of a refused one. */
const left = (limit: number, remaining: number, reset: number) => ({ 'x-ratelimit-limit': limit, 'x-ratelimit-remaining': remaining, 'x-ratelimit-reset': reset })
const none = (limit: number, reset: number) => ({ ...left(limit, 0, reset), 'retry-after': reset })

const hooks = ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const

const rows: readonly Row[] = [
  {
    of: 'global',
    title: 'limits each route that is added later, and none from before; they share a counter of each client',
    options: { max: 2 },
    before: app => { app.get('/before', ok) },
    routes: app => {
      app.get('/a', ok)
      app.post('/b', ok)
      app.register(async child => { child.get('/c', ok) }, { prefix: '/child' })
    },
    steps: [at('/before', unlimited), at('/a', allow), { url: '/b', method: 'POST', status: 200 }, at('/child/c', refuse), at('/a', refuse), from('192.0.2.1', at('/a', allow)), at('/before', unlimited)]
  },
  {
    of: 'global',
    title: 'true: a route with a limit of its own counts apart',
    options: { global: true, max: 1 },
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({}), ok)
      app.get('/more', own({ max: 2 }), ok)
    },
    steps: [allow, refuse, at('/own', allow), at('/own', refuse), at('/more', allow), at('/more', allow), at('/more', refuse)]
  },
  {
    of: 'global',
    title: 'false: limits only routes that ask for it',
    options: { global: false, max: 1 },
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({}), ok)
    },
    steps: [unlimited, unlimited, at('/own', allow), at('/own', refuse)]
  },
  {
    of: 'max',
    title: 'and timeWindow are 1000 in a minute, if not said',
    steps: [{ status: 200, headers: left(1000, 999, 60) }, { status: 200, headers: left(1000, 998, 60) }]
  },
  {
    of: 'max',
    title: 'of 0 refuses all',
    options: { max: 0 },
    steps: [{ status: 429, headers: none(0, 60) }, { status: 429, headers: none(0, 60) }]
  },
  {
    of: 'max',
    title: 'is a function of request and key',
    options: { ...byUser, max: (request, key) => key === 'premium' && request.url === '/' ? 2 : 1 },
    steps: [as('premium', { status: 200, headers: left(2, 1, 60) }), as('premium', { status: 200, headers: left(2, 0, 60) }), as('premium', { status: 429, headers: none(2, 60) }), as('basic', { status: 200, headers: left(1, 0, 60) }), as('basic', refuse)]
  },
  {
    of: 'max',
    title: 'is an async function, of a route too',
    options: { max: async () => 1 },
    routes: app => {
      app.get('/', ok)
      app.get('/own', own({ max: async (request, key) => key === '127.0.0.1' ? 3 : 0 }), ok)
    },
    steps: [{ status: 200, headers: left(1, 0, 60) }, refuse, at('/own', { status: 200, headers: left(3, 2, 60) })]
  },
  {
    of: 'timeWindow',
    title: 'is ms, a text, a function or an async function of request and key',
    options: { max: 1, timeWindow: '2 hours' },
    routes: app => {
      app.get('/', ok)
      app.get('/ms', own({ timeWindow: 1500 }), ok)
      app.get('/text', own({ timeWindow: '1 minute' }), ok)
      app.get('/function', own({ timeWindow: (request, key) => key === '127.0.0.1' && request.url === '/function' ? 90_000 : 1 }), ok)
      app.get('/async', own({ timeWindow: async () => 10_000 }), ok)
    },
    steps: [
      { status: 200, headers: left(1, 0, 7200) }, at('/ms', { status: 200, headers: left(1, 0, 2) }), at('/text', { status: 200, headers: left(1, 0, 60) }),
      at('/function', { status: 200, headers: left(1, 0, 90) }), at('/async', { status: 200, headers: left(1, 0, 10) }), { status: 429, headers: none(1, 7200) }, at('/async', { status: 429, headers: none(1, 10) })
    ]
  },
  {
    of: 'timeWindow',
    title: 'begins with the first hit, and when it is over the client is let in anew, with all of its quota',
    options: { max: 2, timeWindow: 300 },
    play: async ({ t, app, send }) => {
      const begunMs = performance.now()
      await send([allow, allow, refuse])
      let first
      await until(async () => (first = await app.inject('/')).statusCode === 200)
      // Two clocks that count whole ms may both have cut one off.
      t.ok(performance.now() - begunMs >= 298, 'not before')
      t.match(first, { headers: { 'x-ratelimit-remaining': '1' } })
    }
  },
  ...hooks.map((hook): Row => ({
    of: 'hook',
    title: `${hook}: exactly one function is added to the route, last, after the hooks of the instance and of the route`,
    options: heard => ({ hook, max: 3, onExceeding: () => { heard.push('limit') }, onExceeded: () => { heard.push('refused') } }),
    routes: (app, heard) => {
      const say = (name: string) => async () => { heard.push(name) }
      app.addHook('onRoute', route => { heard.push([route[hook] ?? []].flat().length) })
      app.addHook(hook, say('instance'))
      app.post('/none', ok)
      app.post('/one', { [hook]: say('route') }, ok)
      app.post('/two', { [hook]: [say('first'), say('second')] }, ok)
      app.addHook(hook, say('later instance'))
    },
    steps: (['/none', '/one', '/two', '/none'] as const).map((url, i) => ({ url, method: 'POST', status: i < 3 ? 200 : 429 })),
    heard: [1, 2, 3, 'instance', 'later instance', 'limit', 'instance', 'later instance', 'route', 'limit', 'instance', 'later instance', 'first', 'second', 'limit', 'instance', 'later instance', 'refused']
  })),
  {
    of: 'hook',
    title: 'of a route alone; a request that a hook before it refuses is not counted',
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
    title: 'is how many clients memory knows; Redis keeps all of them',
    options: { max: 3, cache: 1 },
    steps: name => [allow, from('192.0.2.1', allow), { status: 200, headers: left(3, name === 'on Redis' ? 1 : 2, 60) }]
  },
  {
    of: 'allowList',
    title: 'of addresses: they are not limited, and told nothing',
    options: { max: 0, allowList: ['127.0.0.1', '192.0.2.1'] },
    steps: [unlimited, from('192.0.2.1', unlimited), from('192.0.2.2', refuse)]
  },
  {
    of: 'allowList',
    title: 'of keys that a keyGenerator makes',
    options: { max: 0, allowList: ['partner'], ...byUser },
    steps: [as('partner', unlimited), as('other', refuse)]
  },
  {
    of: 'allowList',
    title: 'is a function of request and key, also async; no callback hears of whom it lets pass',
    options: heard => ({ ...byUser, max: 0, allowList: (request, key) => key === 'partner' && request.url === '/', onExceeding: note(heard, 'passed'), onExceeded: note(heard, 'refused') }),
    routes: app => {
      app.get('/', ok)
      app.get('/async', own({ allowList: async (request, key) => key === 'friend' }), ok)
    },
    steps: [as('partner', unlimited), as('friend', refuse), at('/async', as('friend', unlimited)), at('/async', as('partner', refuse))],
    heard: ['refused / friend', 'refused /async partner']
  }
]

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

for (const [i, row] of rows.entries()) {
  t.test(`${row.of}: ${row.title}`, async t => {
    for (const name of settings) {
      if (name === 'as @fastify/rate-limit' && row.notTheirs !== undefined) continue
      await t.test(name, async t => await playRow(t, row, await Setting.start(t, name, server, `row-${i}:`)))
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
    for (const step of steps) await sendStep(t, to, step, begunMs)
  }
  await send(onSetting(row.steps ?? [], setting.name))
  await row.play?.({ t, setting, app, heard, send })
  if (row.heard !== undefined) t.same(heard, onSetting(row.heard, setting.name))
  await setting.check()
}

function onSetting<T> (expected: Everywhere<T>, name: SettingName): T {
  return typeof expected === 'function' ? (expected as (name: SettingName) => T)(name) : expected
}

async function sendStep (t: Test, app: FastifyInstance, step: Step, begunMs: number): Promise<void> {
  const { url = '/', method = 'GET', ip, user, status, headers, body } = step
  const response = await app.inject({ method: method as 'GET', url, ...(ip === undefined ? {} : { remoteAddress: ip }), headers: user === undefined ? {} : { 'x-user': user } })
  const what = `${method} ${url} of ${user ?? ip ?? 'the usual client'}`
  t.equal(response.statusCode, status, what)
  if (headers !== undefined) {
    const found = Object.fromEntries(Object.entries(response.headers).filter(([name]) => /ratelimit|retry-after/.test(name)).map(([name, value]) => [name, Number(value)]))
    t.same(aged(found, headers, begunMs), headers, what)
  }
  if (body !== undefined) t.same(response.headers['content-type']?.toString().startsWith('application/json') ? response.json() : response.body, body, what)
}

/** The same with the seconds as they were when the row began, as far as its duration accounts for a difference. */
function aged (found: Readonly<Record<string, number>>, expected: Readonly<Record<string, number>>, begunMs: number): Readonly<Record<string, number>> {
  const secondsGone = Math.ceil((performance.now() - begunMs) / 1000)
  return Object.fromEntries(Object.entries(found).map(([name, value]) => {
    const wanted = expected[name]
    const isExplained = /reset|retry-after/.test(name) && wanted !== undefined && value <= wanted && value >= wanted - secondsGone
    return [name, isExplained ? wanted : value]
  }))
}

t.test('normalizeIP: has the same name', async t => {
  t.equal(normalizeIP('192.0.2.1'), theirNormalizeIP('192.0.2.1'))
})
