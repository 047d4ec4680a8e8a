/** The class of the user's that counts, made with the options that @fastify/rate-limit gives it. */
import type { Counter } from '../guard/guard.js'
import type { RedisGuardOptions } from '../options.js'
import type { LimitSettings, Settings } from '../settings.js'
import { CustomCounter, type CustomCounterParts } from '../store/custom.js'
import type { CustomStore } from '../store/store.js'

/**
 * @param config     what a route or limiter has of its own; undefined: the plugin's limit
 * @param routeInfo  the route, as Fastify's hook `onRoute` has it
 * @returns undefined: the user has no store
 */
export type CounterFor = (settings: LimitSettings, config?: object, routeInfo?: object) => Counter | undefined

export function counterMaker (options: RedisGuardOptions, settings: Settings, parts: Omit<CustomCounterParts, 'store' | 'suffix'>): CounterFor {
  const Store = settings.store
  if (Store === undefined) return () => undefined
  let root: CustomStore | undefined
  return (ofLimit, config, routeInfo) => {
    root ??= new Store(parametersOf(options, settings, settings.limit))
    const store = config === undefined ? root : root.child({ ...parametersOf({ ...options, ...config }, settings, ofLimit), routeInfo })
    return new CustomCounter({ ...parts, store, suffix: ofLimit.groupId ?? '' }) as Counter
  }
}

function parametersOf (given: object, { global }: Settings, limit: LimitSettings): object {
  const { max, timeWindow, ban, excess, groupId, hook, ipv6Subnet, onOutage, addHeaders, addHeadersOnExceeding, headerNames } = limit
  return {
    ...given,
    global,
    max,
    timeWindow,
    ban,
    groupId,
    hook,
    ipv6Subnet,
    continueExceeding: excess === 'restart',
    exponentialBackoff: excess === 'backoff',
    skipOnError: onOutage === 'allow',
    addHeaders,
    addHeadersOnExceeding,
    labels: { rateLimit: headerNames[0], rateRemaining: headerNames[1], rateReset: headerNames[2], retryAfter: 'retry-after' }
  }
}
