/** Functions of the options that fail: what the request gets, for every way to fail and every place to count. */
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { RouteRateLimitOptions } from '../../lib/settings/options.js'
import { guardedApp, logTo } from '../support/app.js'
import { failingAtOnce, failingLater, failingWhenRead } from '../support/failing.js'
import { RedisServer } from '../../tools/redis-server.js'
import { until } from '../../tools/until.js'

const server = await RedisServer.start()
t.teardown(async () => await server.stop())

interface Expected {
  /** status of a request that fits the limit */
  readonly first: number
  /** status of a request that exceeds it */
  readonly second: number
  /** message that is logged */
  readonly logged: string | undefined
}

const fails: Expected = { first: 500, second: 500, logged: undefined }
const callbackFailed = 'onExceeding, onExceeded or onBanReach failed; the request goes on'
const builderFailed = 'errorResponseBuilder must return an object, and not a promise; ' +
  'the default error is sent instead'
const countWhenFailed: Expected = { first: 200, second: 429, logged: 'countWhen failed, the request counts' }

/** The answers to two requests of a client: with a function that fails at once, and with one that fails later. */
const functions: readonly (readonly [name: keyof RouteRateLimitOptions, atOnce: Expected, later: Expected])[] = [
  ['keyGenerator', fails, fails],
  ['skip', fails, fails],
  ['allowList', fails, fails],
  ['max', fails, fails],
  ['timeWindow', fails, fails],
  ['cost', fails, fails],
  ['onExceeding', { first: 500, second: 429, logged: undefined }, { first: 200, second: 429, logged: callbackFailed }],
  ['onExceeded', { first: 200, second: 500, logged: undefined }, { first: 200, second: 429, logged: callbackFailed }],
  ['onBanReach', { first: 200, second: 500, logged: undefined }, { first: 200, second: 403, logged: callbackFailed }],
  [
    'errorResponseBuilder',
    { first: 200, second: 500, logged: undefined },
    { first: 200, second: 429, logged: builderFailed }
  ],
  ['countWhen', countWhenFailed, countWhenFailed]
]

for (const [where, redis] of [['in memory', false], ['on Redis', server.url]] as const) {
  for (const [name, atOnce, later] of functions) {
    t.test(`a ${name} that fails affects no other request, ${where}`, async t => {
      const lines: Record<string, unknown>[] = []
      const app = await guardedApp(
        t,
        { redis, nameSpace: `${name}:`, commandTimeout: 20_000, max: 1, global: false },
        logTo(lines)
      )
      const ways = [
        ...Object.entries({ ...failingAtOnce, ...failingWhenRead }).map(way => [...way, atOnce] as const),
        ...Object.entries(failingLater).map(way => [...way, later] as const)
      ]
      for (const [i, [, fail]] of ways.entries()) {
        const ban = name === 'onBanReach' ? { ban: 0 } : {}
        const rateLimit = { [name]: () => fail(), ...ban } as RouteRateLimitOptions
        app.get(`/${i}`, { config: { rateLimit } }, async () => 'ok')
      }
      for (const [i, [how, , { first, second, logged }]] of ways.entries()) {
        lines.length = 0
        t.same([(await app.inject(`/${i}`)).statusCode, (await app.inject(`/${i}`)).statusCode], [first, second], how)
        if (logged !== undefined) await until(() => lines.some(({ msg }) => msg === logged))
      }
      // An unhandled rejection would have ended the process by now: what rejects after 5 ms began before.
      await sleep(5)
      await nextTurn()
    })
  }
}
