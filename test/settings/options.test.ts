/** How the options of the plugin and of routes, and the environment, are read into settings. */
import { Cluster, Redis } from 'ioredis'
import { Registry } from 'prom-client'
import t from 'tap'
import { OptionsError } from '../../lib/errors.js'
import { hostOptions } from '../../lib/settings/host-options.js'
import type { RateLimitOptions, RedisGuardOptions } from '../../lib/settings/options.js'
import { limitOptions, pluginOptions, routeOptions } from '../../lib/settings/option-table.js'
import { ignoredOptions, resolveOptions, type Settings } from '../../lib/settings/settings.js'
import { resolveRouteLimit } from '../../lib/settings/limit-settings.js'
import { longestWindowMs } from '../../lib/rules/rate-limit.js'

type Variables = Readonly<Record<string, string | undefined>>

/** Resolves options without the type checker. */
function resolve (options: object, env: Variables = {}): Settings {
  return resolveOptions(options as RedisGuardOptions, env)
}

function errorOf (options: object, env: Variables = {}): OptionsError {
  return caught(() => resolve(options, env))
}

function caught (call: () => unknown): OptionsError {
  try {
    call()
  } catch (error) {
    if (error instanceof OptionsError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

/** The names of all wrong options; empty: all are correct. */
function wrongOnes (options: object, env: Variables = {}): string[] {
  try {
    resolve(options, env)
    return []
  } catch (error) {
    return (error as OptionsError).problems.map(({ option }) => option)
  }
}

const twice = () => 2
const headers = { 'x-ratelimit-limit': true, 'x-ratelimit-remaining': true, 'x-ratelimit-reset': true }

t.test('without options and variables everything has its default', async t => {
  const { limit, environment, ...settings } = resolve({})
  t.same(settings, {
    redis: { kind: 'none', reason: 'REDIS_URL is not set' },
    global: true,
    limitNotFound: true,
    enableDraftSpec: false,
    cache: 5000,
    nameSpace: 'guard:',
    hashKeys: false,
    store: undefined,
    metrics: { path: '/metrics', registry: undefined },
    commandTimeout: 250,
    connectTimeout: 5000,
    resetTimeout: 500,
    syncInterval: 250,
    maxEvents: 10_000,
    maxJournal: 100_000
  })
  const { allowList, ...rest } = limit
  const single = {
    algorithm: 'fixed-window',
    max: 1000,
    timeWindow: 60_000,
    burst: undefined,
    cost: 1,
    ban: -1,
    excess: 'none',
    maxBackoff: undefined,
    enforce: 1
  }
  t.same(rest, {
    ...single,
    groupId: undefined,
    limits: [{ ...single, name: '' }],
    list: undefined,
    countWhen: undefined,
    hook: 'onRequest',
    skip: undefined,
    keyGenerator: undefined,
    ipv6Subnet: 64,
    errorResponseBuilder: undefined,
    onExceeding: undefined,
    onExceeded: undefined,
    onBanReach: undefined,
    onOutage: 'memory',
    addHeaders: { ...headers, 'retry-after': true },
    addHeadersOnExceeding: headers,
    headerNames: Object.keys(headers),
    standardHeaders: false,
    problemDetails: false
  })
  t.same({ addresses: allowList.addresses.size, keys: allowList.keys.size, decide: allowList.decide }, {
    addresses: 0,
    keys: 0,
    decide: undefined
  })
})

t.test('undefined counts as not given', async t => {
  const undefinedOnes = Object.fromEntries(
    [...Object.keys(pluginOptions), ...Object.keys(limitOptions), 'unknown'].map(name => [name, undefined])
  )
  t.same(resolve(undefinedOnes), resolve({}))
})

t.test('given options become settings', async t => {
  const registry = new Registry()
  const ofPlugin: [options: RedisGuardOptions, settings: object][] = [
    [{ global: false }, { global: false }],
    [{ cache: 1 }, { cache: 1 }],
    [{ nameSpace: 'app:' }, { nameSpace: 'app:' }],
    [{ hashKeys: 'of 16 characters' }, { hashKeys: 'of 16 characters' }],
    [{ metrics: false }, { metrics: false }],
    [{ metrics: {} }, { metrics: { path: '/metrics', registry: undefined } }],
    [{ metrics: { path: false, registry } }, { metrics: { path: false, registry } }],
    [{ metrics: { path: '/m' } }, { metrics: { path: '/m' } }],
    [{ commandTimeout: 100 }, { commandTimeout: 100 }],
    [{ connectTimeout: 100 }, { connectTimeout: 100 }],
    [{ resetTimeout: 50 }, { resetTimeout: 50 }],
    [{ syncInterval: 10 }, { syncInterval: 10 }],
    [{ maxEvents: 1 }, { maxEvents: 1 }],
    [{ maxJournal: 1 }, { maxJournal: 1 }]
  ]
  for (const [options, settings] of ofPlugin) t.match(resolve(options), settings)
  const ofLimit: [options: RateLimitOptions, settings: object][] = [
    [{ algorithm: 'gcra', burst: 5 }, { algorithm: 'gcra', burst: 5 }],
    [{ max: 0 }, { max: 0 }],
    [{ max: twice, timeWindow: twice }, { max: twice, timeWindow: twice }],
    [{ hook: 'preHandler' }, { hook: 'preHandler' }],
    [{ allowList: () => true }, { allowList: { decide: Function } }],
    [{ keyGenerator: () => 'k' }, { keyGenerator: Function }],
    [{ skip: () => true }, { skip: Function }],
    [{ ipv6Subnet: 0 }, { ipv6Subnet: 0 }],
    [{ ipv6Subnet: 128 }, { ipv6Subnet: 128 }],
    [{ errorResponseBuilder: () => ({}) }, { errorResponseBuilder: Function }],
    [{ onExceeding: () => {} }, { onExceeding: Function }],
    [{ onExceeded: () => {} }, { onExceeded: Function }],
    [{ onOutage: 'share' }, { onOutage: 'share' }],
    [{ skipOnError: false }, { onOutage: 'fail' }],
    [{ skipOnError: true }, { onOutage: 'allow' }],
    [{ addHeaders: { 'retry-after': false } }, { addHeaders: { ...headers, 'retry-after': false } }],
    [{ addHeadersOnExceeding: { 'x-ratelimit-reset': false } },
      { addHeadersOnExceeding: { ...headers, 'x-ratelimit-reset': false } }]
  ]
  for (const [options, settings] of ofLimit) t.match(resolve(options).limit, settings)
})

t.test('onOutage and skipOnError exclude each other, and a route may replace either', async t => {
  t.throws(() => resolve({ onOutage: 'deny', skipOnError: true }), {
    message: /skipOnError must be left out beside onOutage, got true/
  })
  const base = resolve({ skipOnError: false }).limit
  t.equal(resolveRouteLimit({}, base, 'GET /').onOutage, 'fail')
  t.equal(resolveRouteLimit({ onOutage: 'memory' }, base, 'GET /').onOutage, 'memory')
  t.equal(resolveRouteLimit({ skipOnError: true }, resolve({ onOutage: 'deny' }).limit, 'GET /').onOutage, 'allow')
})

t.test('an allow list separates addresses, ranges and keys', async t => {
  const given = ['10.0.0.0/8', '::1', 'partner', { key: '10.0.0.1' }]
  const { addresses, keys, decide } = resolve({ allowList: given }).limit.allowList
  t.same([...addresses.entries()].map(([text]) => text), ['10.0.0.0/8', '::1'])
  t.same([...keys], ['partner', '10.0.0.1'])
  t.equal(decide, undefined)
})

const values: Readonly<Record<string, unknown>> = {
  null: null,
  text: 'soon',
  empty: '',
  number: '10',
  minus: -1,
  fraction: 1.5,
  huge: 1e15,
  unsafe: 2 ** 53,
  NaN,
  Infinity,
  true: true,
  array: [1],
  record: { x: 1 },
  function: () => {},
  symbol: Symbol('s'),
  bigint: 10n
}

/** The values that each option accepts; all others must be rejected. */
const taken: Readonly<Record<string, readonly string[]>> = {
  // Its contents are tested in redis-option.test.ts.
  redis: [],
  global: ['true'],
  limitNotFound: ['true'],
  enableDraftSpec: ['true'],
  cache: [],
  ipv6Subnet: [],
  nameSpace: ['text', 'number'],
  hashKeys: ['true'],
  store: ['function'],
  metrics: [],
  commandTimeout: [],
  connectTimeout: [],
  resetTimeout: [],
  syncInterval: [],
  maxEvents: [],
  maxJournal: [],
  algorithm: [],
  // A whole number: only its product with the window could be out of range, which fixed-window does not compute.
  max: ['huge', 'function', 'Infinity'],
  // @lukeed/ms reads '10' as 10 ms
  timeWindow: ['number', 'function'],
  // only for gcra
  burst: [],
  hook: [],
  allowList: ['function'],
  skip: ['function'],
  keyGenerator: ['function'],
  errorResponseBuilder: ['function'],
  onExceeding: ['function'],
  onExceeded: ['function'],
  onOutage: [],
  skipOnError: ['true'],
  addHeaders: [],
  addHeadersOnExceeding: [],
  cost: ['function'],
  ban: ['minus', 'huge'],
  continueExceeding: ['true'],
  exponentialBackoff: ['true'],
  maxBackoff: ['number'],
  shadow: ['true'],
  enforce: [],
  limits: [],
  countWhen: ['function'],
  onBanReach: ['function'],
  standardHeaders: ['true'],
  problemDetails: ['true']
}

t.test('every option rejects every value of a wrong type or size, by its name', async t => {
  t.same(Object.keys(taken).sort(), Object.keys({ ...pluginOptions, ...limitOptions }).sort())
  for (const [option, fine] of Object.entries(taken)) {
    for (const [kind, value] of Object.entries(values)) {
      const wrong = wrongOnes({ [option]: value }).map(name => name.split('.')[0])
      t.same(wrong, fine.includes(kind) ? [] : [option], `${option}: ${kind}`)
    }
  }
})

t.test('every option of a route rejects the same values, by its place', async t => {
  const base = resolve({}).limit
  for (const option of Object.keys(limitOptions)) {
    for (const [kind, value] of Object.entries(values).filter(([kind]) => !taken[option]!.includes(kind))) {
      const { problems } = caught(() => resolveRouteLimit({ [option]: value }, base, 'GET /login config.rateLimit'))
      t.same(problems.map(({ option }) => option), [`GET /login config.rateLimit.${option}`], kind)
    }
  }
})

t.test('standardHeaders rejects the revision of a draft, and says what to write instead', async t => {
  t.same(caught(() => resolve({ standardHeaders: 'draft-11' as unknown as boolean })).problems, [
    { option: 'standardHeaders', rule: 'true or false', received: '"draft-11"', remedy: 'write true' }
  ])
  t.equal(caught(() => resolve({ standardHeaders: 1 as unknown as boolean })).problems[0]?.remedy, undefined)
})

t.test('groupId is a string, and only for routes', async t => {
  const base = resolve({}).limit
  const place = 'GET /login config.rateLimit'
  for (const [kind, value] of Object.entries(values).filter(([, value]) => typeof value !== 'string')) {
    t.match(
      caught(() => resolveRouteLimit({ groupId: value as string }, base, place)).message,
      /config\.rateLimit\.groupId must be a string, got /,
      kind
    )
  }
  t.equal(resolveRouteLimit({ groupId: 'a' }, base, place).groupId, 'a')
  for (const none of [{}, { groupId: '' }, { groupId: undefined }]) {
    t.equal(resolveRouteLimit(none, base, place).groupId, undefined)
  }
  t.same(wrongOnes({ groupId: 'a' }), ['groupId'])
})

t.test('numbers are rejected just outside their range, and accepted at its ends', async t => {
  const ranges: [option: string, min: number, max: number][] = [
    ['cache', 1, 10_000_000],
    ['ipv6Subnet', 0, 128],
    ['commandTimeout', 1, 60_000],
    ['connectTimeout', 1, 600_000],
    ['resetTimeout', 50, 600_000],
    ['syncInterval', 10, 60_000],
    ['maxEvents', 1, 1_000_000],
    ['maxJournal', 1, 10_000_000],
    ['timeWindow', 1, longestWindowMs],
    ['maxBackoff', 1, longestWindowMs],
    ['max', 0, Number.MAX_SAFE_INTEGER]
  ]
  for (const [option, min, max] of ranges) {
    t.same([min - 1, min, max, max + 1].map(value => wrongOnes({ [option]: value }).length), [1, 0, 0, 1], option)
  }
})

t.test('maxBackoff is at least the time window, wherever both are given; a longer window is its default', async t => {
  const backoff = { timeWindow: '1 hour', exponentialBackoff: true } as const
  const tooShort = (option: string) =>
    [{ option, rule: 'at least timeWindow, which is 3600000 ms', received: '3599999' }]
  t.match(caught(() => resolve({ ...backoff, maxBackoff: 3_599_999 })).problems, tooShort('maxBackoff'))
  t.match(
    caught(() => resolve({ limits: [{ name: 'a', max: 1, maxBackoff: 3_599_999, ...backoff }] })).problems,
    tooShort('limits[0].maxBackoff')
  )
  const base = resolve({ maxBackoff: 3_599_999 }).limit
  t.match(caught(() => resolveRouteLimit(backoff, base, 'GET /a')).problems, tooShort('GET /a.maxBackoff'))
  t.equal(resolveRouteLimit({ ...backoff, maxBackoff: '1 hour' }, base, 'GET /a').maxBackoff, 3_600_000)
  t.equal(resolve({ ...backoff, timeWindow: '2 days' }).limit.maxBackoff, undefined)
  t.same(wrongOnes({ ...backoff, timeWindow: () => 1000, maxBackoff: 1 }), [])
})

t.test('the parts of an option are checked too', async t => {
  const wrong: object[] = [
    { metrics: true },
    { metrics: { path: 'metrics' } },
    { metrics: { path: '' } },
    { metrics: { path: true } },
    { metrics: { registry: {} } },
    { metrics: { registry: null } },
    { metrics: { paht: '/metrics' } },
    { allowList: ['10.0.0.1', 7] },
    { allowList: '10.0.0.1' },
    { allowList: [{ key: 7 }] },
    { allowList: [{ key: '' }] },
    { allowList: [{ key: 'k', ip: '10.0.0.1' }] },
    { allowList: [{}] },
    { allowList: [null] },
    { addHeaders: { 'retry-after': 'no' } },
    { addHeaders: { 'Retry-After': false } },
    { addHeadersOnExceeding: { 'retry-after': false } },
    { redis: { cluster: [] } },
    { redis: { cluster: 'h' } },
    { redis: { cluster: [true] } },
    { redis: { cluster: { host: 'h' } } },
    { redis: { cluster: [6379], tls: {} } },
    { redis: { url: 'h' } },
    { redis: { url: 6379 } },
    { redis: 'h' },
    { redis: true }
  ]
  const places = [
    'metrics', 'allowList', 'addHeaders', 'addHeadersOnExceeding', 'redis', 'redis.cluster', 'redis.cluster[0]',
    'redis.tls', 'redis.url'
  ]
  for (const options of wrong) {
    const [place, ...more] = wrongOnes(options)
    t.ok(places.includes(place!), JSON.stringify(options))
    t.same(more, [])
  }
  t.same(wrongOnes({ redis: { cluster: [] } }), ['redis.cluster'])
  t.same(wrongOnes({ redis: { url: 6379 } }), ['redis.url'])
})

t.test('reads durations in ms and as texts', async t => {
  const read: [given: number | string, ms: number][] = [
    [1, 1],
    [500, 500],
    ['500', 500],
    ['1 minute', 60_000],
    [' 1 minute ', 60_000],
    ['1 MINUTE', 60_000],
    ['0.5 s', 500],
    ['2h', 7_200_000],
    // 3960000.0000000005 and 1000.9999999999999 in floating point
    ['1.1 hours', 3_960_000],
    ['1.001 s', 1001],
    ['3660 days', longestWindowMs],
    ['10 years', 315_576_000_000]
  ]
  for (const [timeWindow, ms] of read) t.equal(resolve({ timeWindow }).limit.timeWindow, ms, String(timeWindow))
  for (const timeWindow of [
    0, -1, NaN, 1e15, 0.5, 1.9, Infinity, 'soon', '', '0', '0.3 ms', '1.5 ms', '-1 minute', '1 minute ago', '1e3',
    '1 century', '9'.repeat(400), '11 years'
  ]) {
    t.same(wrongOnes({ timeWindow }), ['timeWindow'], String(timeWindow))
  }
})

t.test("converts no value: max '10' is rejected, and shown with its type", async t => {
  t.equal(errorOf({ max: '10' }).problems[0]!.received, '"10"')
  t.match(
    errorOf({ max: '10' }).message,
    /max must be a whole number >= 0, or Infinity, or a function \(request, key\) => number, got "10"/
  )
})

t.test('a misspelt option is named, with the known ones, and without its value', async t => {
  const [problem] = errorOf({ maxx: 5 }).problems
  t.match(problem, { option: 'maxx', rule: 'a known option', received: 'a value of type number' })
  t.match(problem!.remedy, /^did you mean max\?/)
  for (const name of Object.keys({ ...pluginOptions, ...limitOptions })) t.match(problem!.remedy, name)
})

t.test('a name that resembles an option, or belongs to another limiter, is a mistake', async t => {
  const mistakes: [name: string, meant: string][] = [
    ['Max', 'max'],
    ['mx', 'max'],
    ['timeWidnow', 'timeWindow'],
    ['timewindow', 'timeWindow'],
    ['time-window', 'timeWindow'],
    ['timeWindowMs', 'timeWindow'],
    ['hooks', 'hook'],
    ['allowlist', 'allowList'],
    ['whitelist', 'allowList'],
    ['windowMs', 'timeWindow'],
    ['duration', 'timeWindow'],
    ['limit', 'max'],
    ['points', 'max'],
    ['namespace', 'nameSpace'],
    ['keyPrefix', 'nameSpace'],
    ['redisOptions', 'redis'],
    ['resetTimeot', 'resetTimeout'],
    ['blacklist', 'app.redisGuard.blockIP']
  ]
  for (const [name, meant] of mistakes) {
    const { problems } = errorOf({ [name]: 5 })
    t.match(problems, [{ option: name, rule: 'a known option' }])
    t.ok(problems[0]!.remedy!.startsWith(`did you mean ${meant}?`), `${name}: ${problems[0]!.remedy}`)
    t.same(ignoredOptions({ [name]: 5 } as RedisGuardOptions), [])
  }
  t.match(errorOf({ groupId: 'a' }).problems, [{ option: 'groupId', rule: 'a known option' }])
})

t.test('a name that resembles no option is ignored, and listed for the warning', async t => {
  const foreign = { foo: 1, bar: 2, map: 3, url: 'redis://h', constructor: 4, maxUploadSize: 5, colour: 'red' }
  t.same(resolve(foreign), resolve({}))
  t.same(ignoredOptions(foreign as RedisGuardOptions), Object.keys(foreign))
  const inherited = JSON.parse('{ "__proto__": 1 }')
  t.same(resolve(inherited), resolve({}))
  t.same(ignoredOptions(inherited), ['__proto__'])
})

t.test('in a route and inside an option every unknown name is rejected', async t => {
  const unknown = { foo: 1, windowMs: 2, prefix: '/' } as RateLimitOptions
  const { problems } = caught(() => resolveRouteLimit(unknown, resolve({}).limit, 'GET /'))
  t.match(problems, [
    { option: 'GET /.foo', remedy: /^known are/ },
    { option: 'GET /.windowMs', remedy: /^did you mean timeWindow\?/ },
    { option: 'GET /.prefix' }
  ])
  t.same(wrongOnes({ limits: [{ name: 'a', max: 1, timeWindow: 1, foo: 1 }] }), ['limits[0].foo'])
  t.same(wrongOnes({ metrics: { path: '/metrics', foo: 1 } }), ['metrics'])
})

t.test('an option of the plugin is unknown to a route', async t => {
  const base = resolve({}).limit
  for (const name of Object.keys(pluginOptions)) {
    const { problems } = caught(() => {
      return resolveRouteLimit({ [name]: 1 } as RateLimitOptions, base, 'GET / config.rateLimit')
    })
    t.match(problems, [{ option: `GET / config.rateLimit.${name}`, rule: 'a known option' }])
  }
})

t.test('ignores the options of the host: Fastify, @fastify/autoload and fastify-cli', async t => {
  const ours = { ...pluginOptions, ...limitOptions, ...routeOptions }
  t.same([...hostOptions].filter(name => Object.hasOwn(ours, name)), [])
  const ofHost = Object.fromEntries([...hostOptions].map(name => [name, 1]))
  t.same(resolve(ofHost), resolve({}))
  t.same(ignoredOptions(ofHost as RedisGuardOptions), [])
})

t.test('an option of two words that fastify-cli passes twice counts as one', async t => {
  // fastify start app.js -- --time-window 5000 --my-own 1
  const parsed = { 'time-window': 5000, timeWindow: 5000, 'my-own': 1, myOwn: 1 }
  t.equal(resolve(parsed).limit.timeWindow, 5000)
  t.same(ignoredOptions(parsed), ['myOwn'])
})

t.test('one error reports all problems of options and variables', async t => {
  const error = errorOf({ max: '10', timeWindow: 'soon', hook: 'onSend', colour: 'red', hasKeys: true }, {
    REDIS_TLS: 'yes',
    REDIS_URL: 'h'
  })
  t.same(error.problems.map(({ option }) => option).sort(), [
    'REDIS_TLS', 'REDIS_URL', 'hasKeys', 'hook', 'max', 'timeWindow'
  ])
  t.equal(error.message.split('\n').length, 1 + error.problems.length)
})

t.test('variables that are not used may be wrong', async t => {
  const wrong = { REDIS_URL: 'h', REDIS_TLS: 'yes', REDIS_ENABLED: 'perhaps', REDIS_TIMEOUT: 'soon' }
  t.same(wrongOnes({}, wrong), ['REDIS_TLS', 'REDIS_URL', 'REDIS_ENABLED', 'REDIS_TIMEOUT'])
  t.same(wrongOnes({ redis: false }, wrong), ['REDIS_TIMEOUT'])
  t.same(wrongOnes({}, { ...wrong, REDIS_ENABLED: 'false' }), ['REDIS_TIMEOUT'])
})

t.test('a URL as host is rejected, before its password could be reported as a host name', async t => {
  for (const host of ['redis://:secret@h', 'h/1', 'user@h']) {
    const [problem] = errorOf({ redis: { host } }).problems
    t.match(problem, { option: 'redis.host', received: 'a URL', remedy: 'give a URL as redis.url' })
  }
})

t.test('burst is for gcra, which a route may choose or leave', async t => {
  t.match(errorOf({ burst: 5 }).problems, [{ option: 'burst', rule: "left out, unless algorithm is 'gcra'" }])
  t.same([0, 1, 1e9, 1e12].map(burst => wrongOnes({ algorithm: 'gcra', burst })), [['burst'], [], [], ['max']])
  const base = resolve({ algorithm: 'gcra', burst: 5 }).limit
  t.equal(resolveRouteLimit({ max: 3 }, base, 'GET /').burst, 5)
  t.equal(resolveRouteLimit({ algorithm: 'fixed-window' }, base, 'GET /').algorithm, 'fixed-window')
  t.throws(() => resolveRouteLimit({ algorithm: 'fixed-window', burst: 2 }, base, 'GET /'), {
    code: 'GUARD_ERR_OPTIONS'
  })
})

t.test('rejects numbers that cannot be counted exactly together', async t => {
  const together: RateLimitOptions = { algorithm: 'sliding-window', max: 1e9, timeWindow: '1 day' }
  t.match(errorOf(together).problems, [{
    option: 'max',
    received: '1000000000',
    remedy: /below 2\^51 for sliding-window/
  }])
  t.same(wrongOnes({ ...together, algorithm: 'fixed-window' }), [])
  // The function runs for each request, and its result is checked then.
  t.same(wrongOnes({ ...together, max: twice }), [])
  t.same(wrongOnes({ ...together, timeWindow: twice }), [])
})

t.test('a route', async t => {
  const place = 'GET /login config.rateLimit'

  t.test("inherits the plugin's options, except those that it sets itself", async t => {
    const base = resolve({
      max: 7,
      timeWindow: '1 hour',
      allowList: ['10.0.0.1'],
      addHeaders: { 'retry-after': false },
      onExceeded: () => {}
    }).limit
    t.same(resolveRouteLimit({}, base, place), base)
    const limit = resolveRouteLimit({ max: 5, addHeaders: { 'x-ratelimit-remaining': true } }, base, place)
    t.same(limit, {
      ...base,
      max: 5,
      limits: [{ ...base.limits[0], max: 5 }],
      addHeaders: {
        'x-ratelimit-limit': false,
        'x-ratelimit-remaining': true,
        'x-ratelimit-reset': false,
        'retry-after': false
      }
    })
    t.equal(limit.allowList, base.allowList)
  })

  t.test('replaces the allow list by its own', async t => {
    const base = resolve({ allowList: ['10.0.0.1'] }).limit
    const { addresses, keys } = resolveRouteLimit({ allowList: ['partner'] }, base, place).allowList
    t.same({ size: addresses.size, keys: [...keys] }, { size: 0, keys: ['partner'] })
  })

  t.test('does not change the inherited settings', async t => {
    const base = resolve({}).limit
    resolveRouteLimit({ max: 1, allowList: ['10.0.0.1'], addHeaders: { 'retry-after': false } }, base, place)
    t.same(base, resolve({}).limit)
    t.equal(base.allowList.addresses.size, 0)
  })

  t.test('is rejected if its own numbers do not fit the inherited ones', async t => {
    const base = resolve({ algorithm: 'gcra', timeWindow: '1 year' }).limit
    t.match(caught(() => resolveRouteLimit({ max: 1e9 }, base, place)).problems, [{
      option: `${place}.max`,
      remedy: /gcra/
    }])
  })
})

t.test('settings are frozen, and the given options stay unchanged', async t => {
  const given = {
    max: 5,
    allowList: ['10.0.0.1'],
    addHeaders: { 'retry-after': false },
    metrics: { path: '/m' },
    redis: { url: 'redis://h', tls: {} }
  }
  const copy = structuredClone(given)
  for (const part of [given, ...Object.values(given)]) Object.freeze(part)
  const settings = resolve(given)
  const route = resolveRouteLimit({ max: 1 }, settings.limit, 'GET /')
  for (const limit of [settings.limit, route]) {
    for (const part of [limit, limit.addHeaders, limit.addHeadersOnExceeding, limit.allowList]) {
      t.ok(Object.isFrozen(part))
    }
  }
  for (const part of [settings, settings.environment, settings.metrics, resolve({}).metrics]) {
    t.ok(Object.isFrozen(part))
  }
  t.same(given, copy)
})

t.test('changing an array later changes no setting', async t => {
  const allowList = ['10.0.0.1', 'partner', { key: 'friend' }]
  const { limit } = resolve({ allowList })
  allowList.push('10.0.0.2', 'other')
  t.equal(limit.allowList.addresses.size, 1)
  t.same([...limit.allowList.keys], ['partner', 'friend'])
})

const production = { NODE_ENV: 'production', REDIS_URL: 'redis://env' }
const ofEnv = { kind: 'server', options: { host: 'env', port: 6379, db: 0 } }

t.test('without a redis option, the environment decides', async t => {
  const cases: [env: Variables, redis: object][] = [
    [{}, { kind: 'none', reason: 'REDIS_URL is not set' }],
    [{ NODE_ENV: 'production' }, { kind: 'none', reason: 'REDIS_URL is not set', isAskedFor: true }],
    [{ REDIS_ENABLED: 'true' }, { kind: 'none', reason: 'REDIS_URL is not set', isAskedFor: true }],
    [{ REDIS_URL: 'redis://env' },
      { kind: 'none', reason: 'NODE_ENV is not production, and REDIS_ENABLED is not true', isAskedFor: true }],
    [{ REDIS_URL: 'redis://env', NODE_ENV: 'staging' },
      { kind: 'none', reason: 'NODE_ENV is not production, and REDIS_ENABLED is not true', isAskedFor: true }],
    [{ REDIS_URL: 'redis://env', NODE_ENV: 'test' },
      { kind: 'none', reason: 'NODE_ENV is not production, and REDIS_ENABLED is not true' }],
    [{ REDIS_URL: 'redis://env', REDIS_ENABLED: 'true' }, ofEnv],
    [production, ofEnv],
    [{ ...production, REDIS_ENABLED: 'true' }, ofEnv],
    [{ ...production, REDIS_ENABLED: 'false' }, { kind: 'none', reason: 'REDIS_ENABLED is false' }]
  ]
  for (const [env, redis] of cases) t.same(resolve({}, env).redis, redis, JSON.stringify(env))
})

t.test('the redis option wins over all variables', async t => {
  const env = { ...production, REDIS_PASSWORD: 'fromEnv', REDIS_TLS: 'true' }
  const server = (options: object) => ({ kind: 'server', options })
  const cases: [redis: unknown, settings: object][] = [
    [false, { kind: 'none', reason: 'the redis option is false' }],
    ['redis://h', server({ host: 'h', port: 6379, db: 0 })],
    ['rediss://u:p@h:1/2', server({ host: 'h', port: 1, db: 2, username: 'u', password: 'p', tls: {} })],
    [{ host: 'h' }, server({ host: 'h' })],
    [{ url: 'redis://h:1/2', db: 3, keepAlive: 9 }, server({ host: 'h', port: 1, db: 3, keepAlive: 9 })],
    [{ sentinels: [{ host: 's' }], name: 'main' }, server({ sentinels: [{ host: 's' }], name: 'main' })],
    [{ cluster: [6379] }, { kind: 'cluster', nodes: [6379], options: { redisOptions: {} } }],
    // Each node uses TLS if one of the URLs does.
    [{ cluster: ['redis://h', 'REDISS://h'] }, {
      kind: 'cluster',
      nodes: [{ host: 'h', port: 6379 }, { host: 'h', port: 6379 }],
      options: { redisOptions: { tls: {} } }
    }],
    [{ cluster: ['rediss://h'], redisOptions: { tls: { ca: 'c' } } },
      { kind: 'cluster', nodes: [{ host: 'h', port: 6379 }], options: { redisOptions: { tls: { ca: 'c' } } } }],
    // Undefined entries are left out.
    [{ url: 'rediss://:p@h', tls: undefined, password: undefined, enableOfflineQueue: undefined },
      server({ host: 'h', port: 6379, db: 0, password: 'p', tls: {} })],
    [{ cluster: ['rediss://h'], redisOptions: { tls: undefined } },
      { kind: 'cluster', nodes: [{ host: 'h', port: 6379 }], options: { redisOptions: { tls: {} } } }],
    [{ cluster: [6379], redisOptions: { enableOfflineQueue: undefined }, natMap: undefined },
      { kind: 'cluster', nodes: [6379], options: { redisOptions: {} } }],
    [{ cluster: [{ host: 'h' }, 'redis://h2', 6379], scaleReads: 'master' }, {
      kind: 'cluster',
      nodes: [{ host: 'h' }, { host: 'h2', port: 6379 }, 6379],
      options: { scaleReads: 'master', redisOptions: {} }
    }]
  ]
  for (const [redis, settings] of cases) {
    for (const enabled of ['false', undefined]) {
      t.same(resolve({ redis }, { ...env, REDIS_ENABLED: enabled }).redis, settings)
    }
  }
})

t.test('a client is used unchanged, whichever copy of ioredis it is from', async t => {
  const stranger = { evalsha () {}, on () {}, status: 'ready' }
  for (const client of [
    new Redis({ lazyConnect: true }),
    new Cluster([{ host: 'h' }], { lazyConnect: true }),
    stranger
  ]) {
    const { redis } = resolve({ redis: client }, production)
    t.equal(redis.kind, 'client')
    t.equal(redis.kind === 'client' && redis.client, client)
  }
})

t.test('connectTimeout wins over REDIS_TIMEOUT, which wins over the default', async t => {
  t.equal(resolve({ connectTimeout: 7 }, { REDIS_TIMEOUT: '8' }).connectTimeout, 7)
  t.equal(resolve({}, { REDIS_TIMEOUT: '8' }).connectTimeout, 8)
  t.equal(resolve({}, {}).connectTimeout, 5000)
})

t.test('no error contains a secret', async t => {
  const secret = 'hunter2'
  const url = `redis://user:${secret}@h:70000`
  const cases: [options: object, env?: Variables][] = [
    [{ redis: url }],
    [{ redis: `user:${secret}@h` }],
    [{ redis: [url] }],
    [{ redis: { url } }],
    [{ redis: { url: [url] } }],
    [{ redis: { cluster: url } }],
    [{ redis: { cluster: [null, { password: secret }] } }],
    [{ redis: { cluster: { password: secret } } }],
    [{ redis: { cluster: [6379], tls: { key: secret } } }],
    // A secret that the user put in the wrong place.
    [{ passwords: secret, max: 'x' }],
    [{ url, max: 'x' }],
    [{ redisOptions: { password: secret } }],
    [{ metrics: { password: secret } }],
    [{ max: 'x' }, { REDIS_URL: url, REDIS_PASSWORD: secret }],
    [{ max: 'x' }, { REDIS_URL: `${secret}@h` }]
  ]
  for (const [options, env] of cases) {
    const error = errorOf(options, env)
    t.notMatch(`${error.stack} ${JSON.stringify(error)}`, secret, JSON.stringify(options))
  }
})

t.test('redis.credentials is a function, and the only place for user and password', async t => {
  const secret = 'hunter2'
  const credentials = () => ({ password: secret })
  const nodes = [
    `redis://${secret}:${secret}@h`,
    { host: 'h', password: secret },
    'redis://h',
    6379,
    `redis://:${secret}@h`
  ]
  const wrongs: [redis: unknown, wrong: string[]][] = [
    [{ credentials: secret }, ['redis.credentials']],
    [{ credentials: null }, ['redis.credentials']],
    [{ credentials: { password: secret } }, ['redis.credentials']],
    [{ credentials, username: secret, password: secret }, ['redis.username', 'redis.password']],
    [{ credentials, url: `redis://${secret}:${secret}@h` }, ['redis.url.username', 'redis.url.password']],
    [{ credentials, host: 'h', Connector: class { connect () {} } }, ['redis.Connector']],
    [{ credentials, url: 'h' }, ['redis.url']],
    [{ credentials: secret, password: secret }, ['redis.password', 'redis.credentials']],
    [{ credentials, cluster: nodes },
      ['redis.cluster[0].username', 'redis.cluster[0].password', 'redis.cluster[1].password',
        'redis.cluster[4].password']],
    [{ credentials, cluster: [6379], redisOptions: { password: secret } }, ['redis.redisOptions.password']],
    [{ cluster: [6379], redisOptions: { credentials } }, ['redis.redisOptions.credentials']],
    [Object.assign(new Redis({ lazyConnect: true }), { credentials }), ['redis.credentials']],
    [new Redis({ lazyConnect: true, credentials } as object), ['redis.credentials']]
  ]
  for (const [redis, wrong] of wrongs) {
    const error = errorOf({ redis })
    t.same(error.problems.map(({ option }) => option), wrong)
    t.notMatch(`${error.stack} ${JSON.stringify(error)}`, secret)
  }
  for (const redis of [
    { credentials, port: 6379 },
    { credentials, url: 'redis://h' },
    { credentials, sentinels: [{ host: 'h' }], name: 'main' },
    { credentials, cluster: [6379] }
  ]) {
    t.match(resolve({ redis }, {}).redis, { credentials })
  }
})

t.test('Sentinels may not select a replica, which takes no writes', async t => {
  const sentinels = [{ host: 'h' }]
  const replica = { sentinels, name: 'main', role: 'slave' as const, preferredSlaves: [{ ip: '192.0.2.1' }] }
  t.match(errorOf({ redis: replica }).problems, [
    { option: 'redis.role', rule: "'master': a replica takes no writes", received: '"slave"' },
    { option: 'redis.preferredSlaves', rule: /^left out: the guard writes/ }
  ])
  t.same(wrongOnes({ redis: new Redis({ ...replica, lazyConnect: true } as object) }), ['redis.role'])
  for (const role of [undefined, 'master']) t.same(wrongOnes({ redis: { sentinels, name: 'main', role } }), [])
})

t.test('every option has a default and a description for the documentation', async t => {
  for (const [name, { shown, description }] of Object.entries({ ...pluginOptions, ...routeOptions, ...limitOptions })) {
    t.match(shown, /./, name)
    t.match(description, /./, name)
  }
})
