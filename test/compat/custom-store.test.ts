/** A custom store class, as @fastify/rate-limit takes it. */
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { CustomStore, CustomStoreCallback, RedisGuardOptions } from '../../lib/index.js'
import { guardedApp } from '../support/app.js'
import { failingAtOnce, failingLater, failingWhenRead } from '../support/failing.js'
import type { CustomStoreConstructor } from '../../lib/settings/custom-store.js'

interface Call { readonly store: string, readonly key: string, readonly timeWindow: number, readonly max: number }

/** A class that counts, and records its calls. */
function makeStore (calls: Call[], made: object[]) {
  return class Counting implements CustomStore {
    readonly #counts = new Map<string, number>()
    readonly #name: string

    constructor (options: object, name = 'root') {
      made.push(options)
      this.#name = name
    }

    incr (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void {
      calls.push({ store: this.#name, key, timeWindow, max })
      const current = (this.#counts.get(key) ?? 0) + 1
      this.#counts.set(key, current)
      callback(null, { current, ttl: timeWindow })
    }

    read (key: string, callback: CustomStoreCallback): void {
      const current = this.#counts.get(key) ?? 0
      setImmediate(callback, null, { current, ttl: current === 0 ? 0 : 1000 })
    }

    child (options: { routeInfo: { url?: string } }): CustomStore {
      return new Counting(options, options.routeInfo.url ?? 'limiter')
    }
  }
}

async function appWith (t: Test, options: RedisGuardOptions): Promise<FastifyInstance> {
  return await guardedApp(t, { max: 2, timeWindow: '1 minute', commandTimeout: 30_000, ...options })
}

const ok = async () => 'ok'

t.test('a store that rejects, or fails without an Error, fails like any other', async t => {
  const failing = [
    async () => { throw new Error('broken') },
    (key: string, done: (error: unknown) => void) => done('broken')
  ]
  for (const incr of failing) {
    const Failing = class { incr = incr; child () { return this } } as unknown as CustomStoreConstructor
    const app = await guardedApp(t, { store: Failing, commandTimeout: 30_000 })
    app.get('/', async () => 'ok')
    app.get('/fails', { config: { rateLimit: { skipOnError: false } } }, async () => 'ok')
    t.match((await app.inject('/')).headers, { 'x-ratelimit-remaining': '999' })
    t.equal((await app.inject('/fails')).statusCode, 500)
  }
})

t.test('a store says how long it refuses; a client without a key shares no counter with a similar key', async t => {
  const counts = new Map<string, number>()
  class Counts {
    incr (key: string, done: (error: null, result: { current: number, ttl: number }) => void) {
      counts.set(key, (counts.get(key) ?? 0) + 1)
      done(null, { current: counts.get(key)!, ttl: 3_600_000 })
    }

    child () { return this }
  }
  const app = await guardedApp(t, {
    store: Counts as unknown as CustomStoreConstructor,
    max: 1,
    keyGenerator: request => request.headers['x-key'] as string
  })
  app.get('/', async () => 'ok')
  t.equal((await app.inject({ url: '/', headers: { 'x-key': '127.0.0.1' } })).statusCode, 200)
  t.match((await app.inject({ url: '/', headers: { 'x-key': '127.0.0.1' } })).headers, {
    'retry-after': '3600',
    'x-ratelimit-remaining': '0'
  })
  t.equal((await app.inject('/')).statusCode, 200)
  t.same([...counts], [['127.0.0.1', 2], ['127.0.0.1@address', 1]])
})

t.test('a refusal counts towards a ban even if the store says that its window ends now', async t => {
  let current = 0
  class Counts {
    incr (key: string, done: CustomStoreCallback) { done(null, { current: ++current, ttl: 0 }) }

    child () { return this }
  }
  const app = await guardedApp(t, { store: Counts as unknown as CustomStoreConstructor, max: 1, ban: 1 })
  app.get('/', ok)
  for (const statusCode of [200, 429, 403]) t.equal((await app.inject('/')).statusCode, statusCode)
})

t.test('a custom store counts instead of ours, with a child for each route with its own limit', async t => {
  const [calls, made]: [Call[], { [name: string]: unknown }[]] = [[], []]
  const app =
    await appWith(t, { store: makeStore(calls, made), ban: 1, continueExceding: true } as never).catch(error => error)
  t.match(app, { code: 'GUARD_ERR_OPTIONS' }, 'misspelt options stay wrong')
  const ofStore: object = { custom: 1 }
  const fine = await appWith(t, { store: makeStore(calls, made), ban: 1, continueExceeding: true, ...ofStore })
  fine.get('/', ok)
  fine.get('/own', { config: { rateLimit: { max: 1, timeWindow: 5000, groupId: 'group' } } }, ok)
  const statuses = async (url: string) => [
    (await fine.inject(url)).statusCode,
    (await fine.inject(url)).statusCode,
    (await fine.inject(url)).statusCode,
    (await fine.inject(url)).statusCode
  ]
  t.same(await statuses('/'), [200, 200, 429, 403])
  t.same(await statuses('/own'), [200, 429, 403, 403])
  t.match((await fine.inject('/')).headers, {
    'x-ratelimit-limit': '2',
    'x-ratelimit-remaining': '0',
    'x-ratelimit-reset': '60',
    'retry-after': '60'
  })
  t.same(calls[0], { store: 'root', key: '127.0.0.1', timeWindow: 60_000, max: 2 })
  t.same(calls[4], { store: '/own', key: '127.0.0.1group', timeWindow: 5000, max: 1 })
  t.match(made[0], {
    global: true,
    max: 2,
    timeWindow: 60_000,
    ban: 1,
    continueExceeding: true,
    exponentialBackoff: false,
    ipv6Subnet: 64,
    hook: 'onRequest',
    skipOnError: false
  })
  t.equal(made[0]!['custom'], 1, 'the store also gets its own options')
  t.match(made[1], { max: 1, timeWindow: 5000, groupId: 'group', routeInfo: { url: '/own', method: 'GET' } })
  t.match((await fine.inject('/metrics')).body, /decisions_total\{limit="global",outcome="limited",source="custom"\} 3/)
})

t.test('createRateLimit counts with incr, and peeks with read', async t => {
  const app = await appWith(t, { store: makeStore([], []) })
  const limiter = app.createRateLimit({ max: 1 })
  app.get('/', { config: { rateLimit: false } }, async request => {
    return [await limiter(request, { increment: false }), await limiter(request), await limiter(request)]
  })
  const [looked, first, second] = (await app.inject('/')).json()
  t.match(looked, { isExceeded: false, remaining: 1, ttl: 0 })
  t.match([first, second], [{ isExceeded: false, remaining: 0 }, { isExceeded: true, remaining: 0, ttlInSeconds: 60 }])
})

t.test('a store without read cannot peek', async t => {
  class Blind implements CustomStore {
    incr (key: string, callback: CustomStoreCallback): void { callback(null, { current: 1, ttl: 1 }) }
    child (): CustomStore { return this }
  }
  const app = await appWith(t, { store: Blind })
  const limiter = app.createRateLimit()
  app.get('/', { config: { rateLimit: false } }, async request => await limiter(request, { increment: false }))
  const message = '{ increment: false } must be left out, unless the store has a method read, got a store without read'
  t.match((await app.inject('/')).json(), { statusCode: 500, code: 'GUARD_ERR_ARGUMENT', message })
})

const broken: Readonly<Record<string, CustomStore['incr']>> = {
  fails: (key, callback) => callback(new Error('the disk is full')),
  throws: () => { throw new Error('the disk is full') },
  'never answers': () => {},
  'answers without numbers': (key, callback) => callback(null, { current: NaN, ttl: 1 }),
  'answers with nothing': (key, callback) => callback(null),
  'answers twice, with an error first': (key, callback) => {
    callback(new Error('the disk is full'))
    callback(null, { current: 1, ttl: 1 })
  },
  'fails with what cannot be made a text': (key, callback) => callback(Object.create(null)),
  'answers what throws when it is read': (key, callback) => {
    setImmediate(callback, null, { get current (): number { throw new Error('not today') }, ttl: 1 })
  },
  ...failingAtOnce,
  ...failingLater as Readonly<Record<string, () => void>>,
  ...failingWhenRead as Readonly<Record<string, () => void>>
}

for (const [how, incr] of Object.entries(broken)) {
  t.test(`memory answers for a store that ${how}, unless skipOnError says otherwise`, async t => {
    class Broken implements CustomStore {
      incr = incr
      read = incr
      child (): CustomStore { return this }
    }
    const statusesWith = async (options: RedisGuardOptions, look: object) => {
      const app = await appWith(t, { store: Broken, commandTimeout: 50, max: 1, ...options })
      app.get('/', ok)
      const limiter = app.createRateLimit()
      app.get('/look', { config: { rateLimit: false } }, async request => await limiter(request, { increment: false }))
      const looked = await app.inject('/look')
      t.match({ statusCode: looked.statusCode, ...looked.json() }, look)
      return [(await app.inject('/')).statusCode, (await app.inject('/')).statusCode]
    }
    const whole = { statusCode: 200, isExceeded: false, remaining: 1, max: 1 }
    t.same(await statusesWith({}, whole), [200, 429])
    t.same(await statusesWith({ skipOnError: true }, whole), [200, 200])
    t.same(await statusesWith({ skipOnError: false }, { statusCode: 500 }), [500, 500])
    t.same(await statusesWith({ onOutage: 'deny' }, { statusCode: 503, code: 'GUARD_DENIED' }), [503, 503])
    const inShadow = { statusCode: 200, isAllowed: true }
    t.same(await statusesWith({ onOutage: 'deny', shadow: true }, inShadow), [200, 200])
  })
}

t.test('rejects options that a class that only counts cannot support', async t => {
  const store = makeStore([], [])
  for (const [options, names] of [
    [{ algorithm: 'gcra' }, ['global algorithm']], [{ cost: 2 }, ['global cost']],
    [{ countWhen: () => true }, ['global countWhen']],
    [{ limits: [{ name: 'a', max: 1, timeWindow: 1 }] }, ['global limits']]
  ] as const) {
    const error = await appWith(t, {
      store,
      ...(('limits' in options) ? { max: undefined, timeWindow: undefined } : {}),
      ...options
    } as never).then(() => undefined, error => error)
    t.same(error?.problems?.map(({ option }: { option: string }) => option), names)
  }
})

t.test('a store that cannot count, such as a promise, stops the start or the adding of its route', async t => {
  const makes: Readonly<Record<string, () => unknown>> = {
    'an object': () => ({}),
    undefined: () => undefined,
    null: () => null,
    'a function': () => () => {},
    ...failingLater,
    ...failingWhenRead
  }
  for (const [how, make] of Object.entries(makes)) {
    class Parent {
      incr (key: string, callback: CustomStoreCallback): void { callback(null, { current: 1, ttl: 1 }) }
      child (): CustomStore { return make() as CustomStore }
    }
    const app = await appWith(t, { store: Parent })
    const addRoute = () => app.get('/', { config: { rateLimit: { max: 1 } } }, ok)
    const message = /the answer of store.child must be a store with a method incr, got /
    t.throws(addRoute, { code: 'GUARD_ERR_OPTIONS', message }, how)
  }
  class Nothing {
    child (): Nothing { return this }
  }
  await t.rejects(appWith(t, { store: Nothing as unknown as CustomStoreConstructor }), {
    code: 'GUARD_ERR_OPTIONS', message: /an instance of store must be a store with a method incr, got an object/
  })
  class Failing {
    constructor () { throw new Error('not today') }
  }
  await t.rejects(appWith(t, { store: Failing as unknown as CustomStoreConstructor }), { message: 'not today' })
})
