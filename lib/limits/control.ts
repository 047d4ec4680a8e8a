/** The class behind `fastify.redisGuard.limits`. */
import { ArgumentError, type LimitError, show } from '../errors.js'
import { clientKey, parseAddress } from '../addresses/address.js'
import { byAddress } from '../rules/limit-name.js'
import type { Algorithm } from '../rules/algorithms.js'
import { type Check, defineLimit, type Limit, longestWindowMs } from '../rules/rate-limit.js'
import type { LimitStore } from '../store/limit-store.js'
import { isKeyHash, type KeyHash } from '../guard/key-hash.js'
import type { ChangeLog } from '../observers/change-log.js'
import { type ChangedBy, checkBy, readChange } from './change.js'
import type { LimitRegistry } from './registry.js'
import { forJson, type SetLimit } from './stored-change.js'
import { LimitSync, type LimitSyncParts } from './sync.js'

/** The counter of one client at one limit, as `limits.peek` returns it. */
export interface PeekedLimit {
  /** Name of the limit; with `@address` at its end: the counter of an address whose requests had no key. */
  readonly name: string
  /** How the limit counts. */
  readonly algorithm: Algorithm
  /** Hits that the limit allows in a window. */
  readonly max: number
  /** Length of the window, ms. */
  readonly timeWindow: number
  /** Hits of cost 1 that would still pass. */
  readonly remaining: number
  /** ms until the client has its whole quota again. */
  readonly resetMs: number
  /** ms until a hit of cost 1 passes; 0: it would pass now. */
  readonly retryAfterMs: number
}

export interface LimitControlParts extends LimitSyncParts {
  readonly counters: Pick<LimitStore, 'peek' | 'forget'>
  /** drops a client's counters from the refusal cache */
  readonly forget: (key: string, checks: readonly Check[]) => void
  /** hashes the answer of a `keyGenerator`; undefined: the answer itself is counted */
  readonly hashKey?: KeyHash | undefined
  /** throws a ClosedError once the application closes */
  readonly checkOpen?: () => void
  readonly changeLog: ChangeLog
}

/**
 * `fastify.redisGuard.limits`: changes limits at run time, and shows and resets the counters of one client. The methods
 * throw an `ArgumentError` for a wrong argument, and a `ClosedError` once the application closes.
 */
export class LimitControl {
  readonly #registry: LimitRegistry
  readonly #sync: LimitSync
  readonly #counters: Pick<LimitStore, 'peek' | 'forget'>
  readonly #forget: LimitControlParts['forget']
  readonly #hashKey: KeyHash | undefined
  readonly #checkOpen: () => void
  readonly #changeLog: ChangeLog

  constructor (parts: LimitControlParts) {
    const { registry, counters, forget, hashKey, checkOpen = () => {}, changeLog } = parts
    this.#registry = registry
    this.#sync = new LimitSync(parts)
    this.#counters = counters
    this.#forget = forget
    this.#hashKey = hashKey
    this.#checkOpen = checkOpen
    this.#changeLog = changeLog
  }

  /**
   * The names of all limits: `global`, method and path of a route (`GET:/login`), `group:<groupId>`, and `limiter:<n>`
   * for `rateLimit()` and `createRateLimit()`. A name in the option `limits` follows after a colon:
   * `GET:/search:burst`.
   *
   * @example
   * app.log.info({ limits: app.redisGuard.limits.names })
   */
  get names (): readonly string[] {
    return this.#registry.names
  }

  /**
   * Returns the limits that were changed at run time, by this instance or another, as far as this instance knows.
   *
   * @example
   * for (const { name, max, origin } of app.redisGuard.limits.list()) app.log.info({ name, max, origin })
   */
  list (): readonly SetLimit[] {
    return this.#sync.list()
  }

  /**
   * Changes a limit: on this instance when the promise resolves, on the others within `syncInterval`. The change
   * outlives restarts and outages of Redis, until `reset`.
   *
   * @param name              one of `names`
   * @param limit.max         a whole number >= 0; `Infinity`: no limit
   * @param limit.timeWindow  ms, or a text such as `1 minute`
   * @param by                `reason` and `origin`, for `list` and the log
   * @throws ArgumentError  if there is no such limit, or its numbers cannot be counted
   * @throws StoreUnavailableError  of kind `reply`, if Redis rejects the change: nothing changes
   *
   * @example
   * const limit = { max: 20, timeWindow: '1 minute' }
   * await app.redisGuard.limits.set('global', limit, { reason: 'attack', origin: 'on call' })
   */
  async set (
    name: string, limit: { readonly max: number, readonly timeWindow: number | string },
    { reason = '', origin = 'api' }: ChangedBy = {}
  ): Promise<void> {
    this.#checkOpen()
    if (this.#registry.find(name).length === 0) {
      throw new ArgumentError({
        option: 'the name of limits.set',
        rule: 'the name of a limit',
        received: show(name),
        remedy: 'limits.names lists them'
      })
    }
    const change = readChange(limit)
    checkBy('limits.set', { reason, origin })
    try {
      this.#registry.check(name, change)
    } catch (error) {
      throw new ArgumentError({
        option: 'the limit of limits.set',
        rule: 'one that can be counted',
        received: `${change.max} per ${change.windowMs} ms`,
        remedy: (error as LimitError).message
      })
    }
    await this.#sync.change(name, change, { reason, origin })
    const { max, windowMs: timeWindow } = forJson(change)
    this.#changeLog.note('limit set', { limit: name, max, timeWindow, reason, origin })
  }

  /**
   * Resets a limit to its configuration, or all counters of a client to zero.
   *
   * @param what  the name of a limit; or a client, by its address, its key or the hash of its key. A string that is the
   *   name of a limit means the limit; `{ name }` and `{ key }` are never ambiguous. Counters in a `store` of your own
   *   stay, and those of another registration.
   * @param by    `reason` and `origin`, for the log
   * @returns whether there was something to reset
   * @throws StoreUnavailableError  of kind `reply`, if Redis rejects the reset of a limit: nothing changes
   *
   * @example
   * await app.redisGuard.limits.reset('global')
   * await app.redisGuard.limits.reset({ key: '203.0.113.7' }, { reason: 'support ticket' })
   */
  async reset (
    what: string | { readonly name: string } | { readonly key: string }, { reason = '', origin = 'api' }: ChangedBy = {}
  ): Promise<boolean> {
    this.#checkOpen()
    const by = { reason, origin }
    checkBy('limits.reset', by)
    if (typeof what === 'string') {
      const isLimit = this.#registry.find(what).length > 0
      return await (isLimit ? this.#resetLimit(what, by) : this.#resetKey(what, by))
    }
    if (typeof what === 'object' && what !== null) {
      if ('name' in what && typeof what.name === 'string') return await this.#resetLimit(what.name, by)
      if ('key' in what && typeof what.key === 'string') return await this.#resetKey(what.key, by)
    }
    const rule = 'the name of a limit, a key, { name } or { key }'
    throw new ArgumentError({ option: 'the argument of limits.reset', rule, received: show(what) })
  }

  /**
   * Returns the counter of a client at each limit, without counting. Limits whose `max` or `timeWindow` is a function
   * are left out, and limits with `max: Infinity`.
   *
   * @param client  an address, or the text of a key that `keyGenerator` returns; with `hashKeys`, also the hash in
   *   events. `{ key }` means the same, as in `reset`
   * @throws ArgumentError  if it is no key
   *
   * @example
   * const counters = await app.redisGuard.limits.peek('203.0.113.7')
   * app.log.info({ counters })
   */
  async peek (client: string | { readonly key: string }): Promise<readonly PeekedLimit[]> {
    this.#checkOpen()
    const key = typeof client === 'object' && client !== null ? client.key : client
    const peeked = [...this.#checksOf('peek', key)].map(async ([client, checks]) => {
      const outcomes = await this.#counters.peek(client, checks)
      return outcomes.map(({ check: { name, limit }, explanation: { refusals, ...left } }) => {
        return { name, algorithm: limit.algorithm, max: limit.max, timeWindow: limit.windowMs, ...left }
      })
    })
    return (await Promise.all(peeked)).flat()
  }

  /** For the plugin itself: adopts what other instances have changed. See `LimitSync`. */
  async sync (isUsable: () => boolean): Promise<void> {
    await this.#sync.sync(isUsable)
  }

  async #resetLimit (name: string, by: Required<ChangedBy>): Promise<boolean> {
    const stored = await this.#sync.stored(name)
    const wasChanged = this.#registry.changes().has(name) || stored?.change !== undefined
    if (wasChanged) await this.#sync.change(name, undefined, by)
    this.#changeLog.note('limit reset', { limit: name, wasChanged, ...by })
    return wasChanged
  }

  async #resetKey (key: string, by: Required<ChangedBy>): Promise<boolean> {
    const forgotten = [...this.#checksOf('reset', key, anyLimit)].map(async ([client, checks]) => {
      this.#forget(client, checks)
      return await this.#counters.forget(client, checks)
    })
    const wasCounted = (await Promise.all(forgotten)).includes(true)
    // The log shows a hash wherever events do.
    const isShown = this.#hashKey === undefined || isKeyHash(key) || parseAddress(key) !== undefined
    this.#changeLog.note('counters reset', { key: isShown ? key : this.#hashKey(key), wasCounted, ...by })
    return wasCounted
  }

  /**
   * The checks of all limits, by the key with which each limit counts the client.
   *
   * @param computed  makes a stand-in for a limit whose numbers are computed; undefined: such limits are left out
   */
  #checksOf (
    method: string, key: unknown, computed?: (algorithm: Algorithm) => Limit
  ): ReadonlyMap<string, readonly Check[]> {
    if (typeof key !== 'string' || key === '') {
      const rule = 'a non-empty string'
      throw new ArgumentError({ option: `the key of limits.${method}`, rule, received: show(key) })
    }
    const address = parseAddress(key)
    const counted = this.#hashKey === undefined || isKeyHash(key) ? key : this.#hashKey(key)
    const checks = new Map<string, Map<string, Check>>()
    const add = (client: string, name: string, limit: Limit) => {
      const ofClient = checks.get(client) ?? new Map<string, Check>()
      checks.set(client, ofClient)
      const counter = `${limit.algorithm} ${name}`
      if (!ofClient.has(counter)) ofClient.set(counter, { name, limit, cost: 1 })
    }
    for (const { name, inForce, definition: { algorithm }, clients } of this.#registry.all()) {
      const { ipv6Subnet, hasKeyGenerator } = clients
      const limit = inForce === undefined || inForce.max === Infinity ? computed?.(algorithm) : inForce
      if (limit === undefined) continue
      const byAddressKey = address === undefined ? key : clientKey(address, ipv6Subnet)
      // With a `keyGenerator`, the client is counted by the answer or its hash, or by its address if there is no
      // answer.
      add(hasKeyGenerator ? counted : byAddressKey, name, limit)
      if (hasKeyGenerator && address !== undefined) add(byAddressKey, byAddress(name), limit)
    }
    return new Map([...checks].map(([client, ofClient]) => [client, [...ofClient.values()]]))
  }
}

/** Stands for a limit whose counter is deleted: only its algorithm matters. */
function anyLimit (algorithm: Algorithm): Limit {
  return defineLimit(algorithm, 1, longestWindowMs)
}
