/**
 * The public object `fastify.redisGuard.limits`: changes limits at run time, and shows and resets counters of a client.
 */
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

/** Where a client stands with one limit. */
export interface PeekedLimit {
  /** name of the limit; ends with `@address` for the counter of an address whose requests had no key */
  readonly name: string
  readonly algorithm: Algorithm
  /** hits allowed per window */
  readonly max: number
  /** ms */
  readonly timeWindow: number
  /** hits of cost 1 that would still pass */
  readonly remaining: number
  /** ms until the client has its whole quota again */
  readonly resetMs: number
  /** ms until a hit of cost 1 passes; 0: it would pass now */
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

  /** Names of all limits, such as `global`, `GET:/login`, `GET:/login:burst`, `group:<groupId>`, `limiter:<number>`. */
  get names (): readonly string[] {
    return this.#registry.names
  }

  /** The limits that were set at run time on any instance, as far as this process knows. */
  list (): readonly SetLimit[] {
    return this.#sync.list()
  }

  /**
   * Changes a limit. The change is in force on this instance when the promise resolves, and on others within
   * `syncInterval`. It outlasts restarts, and holds until the limit is reset.
   *
   * @param name              one of `names`
   * @param limit.max         hits per window, a whole number >= 0; Infinity: no limit
   * @param limit.timeWindow  ms, or a string such as `'1 minute'`
   * @param by                who changes it, and why, for `list` and the log
   * @throws ArgumentError  if there is no such limit, or it cannot have these numbers
   * @throws StoreUnavailableError  of kind `reply`: Redis rejected the change, and nothing has changed
   * @throws ClosedError  once the application closes
   *
   * @example
   * await app.redisGuard.limits.set('POST:/login', { max: 3, timeWindow: '1 minute' }, { reason: 'stuffing' })
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
   * Resets a limit to its configured numbers, or deletes all counters of a client.
   *
   * @param what  the name of a limit; or the key of a client, its hash, or its address. A string that is the name of a
   *   limit means the limit; `{ name }` and `{ key }` are unambiguous
   * @param by  who resets it, and why, for the log
   * @returns whether there was anything to reset
   * @throws ArgumentError  if `what` is none of these
   * @throws StoreUnavailableError  as `set` does
   * @throws ClosedError  once the application closes
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
   * Shows where a client stands with each limit, without counting anything. Limits whose numbers are computed for each
   * request, and limits with `max: Infinity`, are left out.
   *
   * @param key  an address, or an answer of a `keyGenerator`; with `hashKeys`, also the hash that events show
   * @throws ArgumentError  if `key` is no non-empty string
   * @throws ClosedError  once the application closes
   */
  async peek (key: string): Promise<readonly PeekedLimit[]> {
    this.#checkOpen()
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
