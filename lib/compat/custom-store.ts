/** Creates the user's store class, with the options that @fastify/rate-limit would give it. */
import { attempt } from '../runtime/awaitable.js'
import { OptionsError, show } from '../errors.js'
import type { HitStore } from '../guard/guard.js'
import type { RedisGuardOptions } from '../settings/options.js'
import type { Settings } from '../settings/settings.js'
import type { LimitSettings } from '../settings/limit-settings.js'
import { CustomLimits, type CustomLimitsParts } from './custom-limits.js'
import type { CustomStore } from '../settings/custom-store.js'

/**
 * @param config     the options of a route or limiter; undefined: the global limit
 * @param routeInfo  the route, as Fastify's hook `onRoute` gets it
 * @returns undefined: the option `store` is not given
 */
export type StoreFor = (settings: LimitSettings, config?: object, routeInfo?: object) => HitStore | undefined

export function storeMaker (
  options: RedisGuardOptions, settings: Settings, parts: Omit<CustomLimitsParts, 'store' | 'suffix'>
): StoreFor {
  const Store = settings.store
  if (Store === undefined) return () => undefined
  let root: CustomStore | undefined
  return (ofLimit, config, routeInfo) => {
    root ??= withIncr('an instance of store', new Store(parametersOf(options, settings, settings.limit)))
    const childOf = (parent: CustomStore, own: object) => {
      const parameters = parametersOf({ ...options, ...own }, settings, ofLimit)
      return withIncr('the answer of store.child', parent.child({ ...parameters, routeInfo }))
    }
    const store = config === undefined ? root : childOf(root, config)
    return new CustomLimits({ ...parts, store, suffix: ofLimit.groupId ?? '' })
  }
}

/** @throws OptionsError  if the store has no `incr`, such as the promise of a store: each request would fail */
function withIncr (option: string, store: CustomStore): CustomStore {
  if (typeof (store as Partial<CustomStore> | null | undefined)?.incr === 'function') return store
  // The rejection of a promise must not end the process.
  attempt(() => store, () => {})
  throw new OptionsError([{ option, rule: 'a store with a method incr', received: show(store) }])
}

function parametersOf (given: object, { global }: Settings, limit: LimitSettings): object {
  const { max, timeWindow, ban, excess, groupId, hook, ipv6Subnet, onOutage } = limit
  const { addHeaders, addHeadersOnExceeding, headerNames } = limit
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
    labels: {
      rateLimit: headerNames[0],
      rateRemaining: headerNames[1],
      rateReset: headerNames[2],
      retryAfter: 'retry-after'
    }
  }
}
