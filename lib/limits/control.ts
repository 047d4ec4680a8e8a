/**
 * What `fastify.redisGuard.limits` is: limits changed at run time, and the
 * counters of one client looked at and forgotten. Changes are plain values in
 * the store, so that an outage of Redis loses none; each instance looks for
 * others' by their common version.
 */
import { randomUUID } from 'node:crypto'
import { ArgumentError, LimitError, show, ValueError } from '../errors.js'
import { duration, wrong } from '../settings/option-rules.js'
import { clientKey, parseAddress } from '../addresses/address.js'
import { byAddress } from '../rules/limit-name.js'
import { defineLimit, longestWindowMs, ruleOf, type Algorithm, type Limit } from '../rules/rate-limit.js'
import type { LimitStore, NamedCheck } from '../store/limit-store.js'
import type { ValueStore } from '../store/value-store.js'
import { isKeyHash, type KeyHash } from '../guard/key-hash.js'
import type { ChangeLog } from '../observers/change-log.js'
import type { LimitChange, LimitRegistry } from './registry.js'

/** Keys of values that begin so are the plugin's own. */
export const reservedPrefix = 'redis-guard:'
const versionKey = `${reservedPrefix}limits`
/** Limits read at once: thousands would hold up the requests, and time out. */
const pageLength = 200

/** The author of a change, and the reason for it. */
export interface ChangedBy {
  /** why; at most 1000 characters; default: none */
  reason?: string
  /** who or what; at most 1000 characters; default `api` */
  origin?: string
}

/** A limit that was set at run time. */
export interface SetLimit {
  readonly name: string
  readonly max: number
  /** ms */
  readonly timeWindow: number
  readonly reason: string
  /** who or what set it; empty: not known */
  readonly origin: string
  /** ms since 1970; undefined: not known */
  readonly setAtMs: number | undefined
}

/** The last change of a limit at run time. */
interface Decision extends Required<ChangedBy> {
  /** undefined: the limit was reset */
  readonly change: LimitChange | undefined
  /** ms since 1970, and above that of the decision before it, so that the later one stands; 0: not known */
  readonly atMs: number
  /** as it is stored */
  readonly text: string
}

/** How far a client is with one limit. */
export interface PeekedLimit {
  readonly name: string
  readonly algorithm: Algorithm
  readonly max: number
  /** ms */
  readonly timeWindow: number
  /** hits of cost 1 that would still pass */
  readonly remaining: number
  /** ms until the whole quota is there again */
  readonly resetMs: number
  /** ms until a hit of cost 1 passes; 0: it would now */
  readonly retryAfterMs: number
}

export interface LimitControlParts {
  readonly registry: LimitRegistry
  readonly counters: Pick<LimitStore, 'peek' | 'forget'>
  /** where the limits that are set at run time are kept */
  readonly values: Pick<ValueStore, 'get' | 'set'>
  /** forgets what the process knows of a client by itself */
  readonly forget: (key: string, checks: readonly NamedCheck[]) => void
  /** replaces the answer of a `keyGenerator`; undefined: the answer itself is counted */
  readonly hashKey?: KeyHash | undefined
  /** called with the key of a value that the guard did not write, each time it is read */
  readonly onForeign: (key: string) => void
  /** throws a ClosedError once the application closes */
  readonly checkOpen?: () => void
  readonly changeLog: ChangeLog
  /**
   * Called with limits that were set or reset elsewhere, or before this process began, once they are so here.
   *
   * @param reset  names of limits
   */
  readonly onTakenOver: (set: readonly SetLimit[], reset: readonly string[]) => void
  /** ms since 1970 */
  readonly now: () => number
}

export class LimitControl {
  readonly #registry: LimitRegistry
  readonly #counters: Pick<LimitStore, 'peek' | 'forget'>
  readonly #values: Pick<ValueStore, 'get' | 'set'>
  readonly #forget: LimitControlParts['forget']
  readonly #hashKey: KeyHash | undefined
  readonly #onForeign: (key: string) => void
  readonly #checkOpen: () => void
  readonly #changeLog: ChangeLog
  readonly #onTakenOver: LimitControlParts['onTakenOver']
  readonly #now: () => number
  /** when the decisions were made that are being written, by the name of the limit */
  readonly #underWay = new Map<string, number>()
  /** the last decision on each limit, by its name */
  readonly #known = new Map<string, Decision>()
  #version: string | null = null
  /** names that were read since it is the version */
  readonly #read = new Set<string>()
  #hasChanged = false
  /** how often in a row Redis went away as the version was read: it may be a huge foreign value, which is replaced */
  #unread = 0
  #looking: Promise<void> | undefined

  constructor (parts: LimitControlParts) {
    const { registry, counters, values, forget, hashKey, onForeign, checkOpen = () => {}, changeLog, onTakenOver, now } = parts
    this.#registry = registry
    this.#counters = counters
    this.#values = values
    this.#forget = forget
    this.#hashKey = hashKey
    this.#onForeign = onForeign
    this.#checkOpen = checkOpen
    this.#changeLog = changeLog
    this.#onTakenOver = onTakenOver
    this.#now = now
  }

  /** Names of all limits: `global`, `GET:/login`, `GET:/login:burst`, `group:<groupId>`, `limiter:<n>`. */
  get names (): readonly string[] {
    return this.#registry.names
  }

  /** The limits that are as they were set at run time, here or elsewhere, as far as this process knows. */
  list (): readonly SetLimit[] {
    return [...this.#registry.changes()].map(([name, change]) => describe(name, change, this.#known.get(name)!))
  }

  /**
   * Changes a limit: here when the promise resolves, on other instances within
   * `syncInterval`. It stays changed, over restarts too, until it is reset.
   *
   * @param limit.max         Infinity: no limit
   * @param limit.timeWindow  ms, or a text such as `1 minute`
   * @param by  who sets it, and why: for `list` and the log
   * @throws ArgumentError  when there is no such limit, or it cannot be such a one
   * @throws StoreUnavailableError  of kind `reply`, when Redis rejects the change: nothing changes
   */
  async set (
    name: string, limit: { readonly max: number, readonly timeWindow: number | string },
    { reason = '', origin = 'api' }: ChangedBy = {}
  ): Promise<void> {
    this.#checkOpen()
    if (this.#registry.find(name).length === 0) {
      throw new ArgumentError({ option: 'the name of limits.set', rule: 'that of a limit', received: show(name), remedy: 'limits.names lists them' })
    }
    const change = readChange(limit)
    checkBy('limits.set', { reason, origin })
    try {
      this.#registry.check(name, change)
    } catch (error) {
      throw new ArgumentError({ option: 'the limit of limits.set', rule: 'one that can be counted', received: `${change.max} per ${change.windowMs} ms`, remedy: (error as LimitError).message })
    }
    await this.#decide(name, change, { reason, origin })
    const { max, windowMs: timeWindow } = forJson(change)
    this.#changeLog.note('limit set', { limit: name, max, timeWindow, reason, origin })
  }

  /**
   * Sets a limit back to what is configured, by its name; or forgets all
   * counters of a client, by its key, its key's hash or its address. A string
   * that is the name of a limit means that limit; `{ key }` and `{ name }` say
   * which is meant.
   *
   * @param by  who resets it, and why: for the log
   * @returns whether there was something to reset
   * @throws StoreUnavailableError  as for `set`
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
    throw new ArgumentError({ option: 'the argument of limits.reset', rule: 'the name of a limit, a key, { name } or { key }', received: show(what) })
  }

  /**
   * How far a client is with each limit; nothing is counted. Limits whose
   * numbers are computed for each request, and those without an end, are left out.
   *
   * @param key  an address, or an answer of a `keyGenerator`; with `hashKeys`, also the hash that events show
   */
  async peek (key: string): Promise<readonly PeekedLimit[]> {
    this.#checkOpen()
    const peeked = [...this.#checksOf('peek', key)].map(async ([client, checks]) => {
      const { nowMs, states } = await this.#counters.peek(client, checks)
      return checks.map(({ name, limit }, i) => ({
        name,
        algorithm: limit.algorithm,
        max: limit.max,
        timeWindow: limit.windowMs,
        ...ruleOf(limit).explain(states[i], nowMs, limit)
      }))
    })
    return (await Promise.all(peeked)).flat()
  }

  /**
   * Takes over what others have changed, and tells a Redis that has lost its
   * data, or came back with older data, what is known here. While one look is
   * under way, others join it.
   */
  async sync (isUsable: () => boolean): Promise<void> {
    this.#looking ??= this.#look(isUsable).finally(() => { this.#looking = undefined })
    await this.#looking
  }

  /** One that is cut short goes on next time where it ended. */
  async #look (isUsable: () => boolean): Promise<void> {
    if (!isUsable()) return
    if (this.#hasChanged || this.#unread > 1) {
      this.#hasChanged = false
      await this.#tellVersion()
    }
    const version = await this.#stored(versionKey)
    this.#unread = isUsable() ? 0 : this.#unread + 1
    if (this.#unread > 0) return
    if (version !== this.#version) this.#read.clear()
    this.#version = version
    const names = this.#registry.names.filter(name => !this.#read.has(name))
    for (let i = 0; i < names.length; i += pageLength) {
      if (!await this.#lookAt(names.slice(i, i + pageLength), isUsable)) return
    }
  }

  /** @returns whether the limits were read as they are */
  async #lookAt (names: readonly string[], isUsable: () => boolean): Promise<boolean> {
    const changedBefore = this.#registry.version
    const decisions = await Promise.all(names.map(async name => await this.#storedDecision(name)))
    // A limit may have been set here meanwhile, and the values read be older: they are read again next time.
    if (!isUsable() || this.#registry.version !== changedBefore) return false
    const set: SetLimit[] = []
    const reset: string[] = []
    // All at once: while one is written, another may be set here.
    for (const [i, name] of names.entries()) {
      this.#read.add(name)
      const decision = decisions[i]
      const known = this.#known.get(name)
      if (decision === undefined || (known !== undefined && decision.atMs < known.atMs)) continue
      this.#known.set(name, decision)
      const { change } = decision
      if (!this.#takeOver(name, this.#registry.changes().get(name), change)) continue
      if (change === undefined) reset.push(name)
      else set.push(describe(name, change, decision))
    }
    if (set.length + reset.length > 0) this.#onTakenOver(set, reset)
    // Redis has lost these, or has older ones.
    for (const [i, name] of names.entries()) {
      const known = this.#known.get(name)
      const isNewest = (this.#underWay.get(name) ?? 0) <= (known?.atMs ?? 0)
      if (known !== undefined && decisions[i] !== known && isNewest) await this.#write(name, known.text)
    }
    return true
  }

  /** @returns whether the limit is another one now */
  #takeOver (name: string, known: LimitChange | undefined, change: LimitChange | undefined): boolean {
    if (change?.max === known?.max && change?.windowMs === known?.windowMs) return false
    try {
      this.#registry.change(name, change)
      return true
    } catch {
      // Another release of the application has a limit of this name that can be so; this one's cannot.
      return false
    }
  }

  /** The stored decision on a limit; undefined: there is none, or the stored value is not the guard's. */
  async #storedDecision (name: string): Promise<Decision | undefined> {
    const key = keyOf(name)
    const text = await this.#stored(key)
    if (text === null) return undefined
    const decision = parseDecision(text)
    if (decision === undefined) this.#onForeign(key)
    return decision
  }

  /** A value of another type than text is not the guard's and counts as missing: the next change replaces it. */
  async #stored (key: string): Promise<string | null> {
    try {
      return await this.#values.get(key)
    } catch (error) {
      if (!(error instanceof ValueError)) throw error
      this.#onForeign(key)
      return null
    }
  }

  async #resetLimit (name: string, by: Required<ChangedBy>): Promise<boolean> {
    const stored = await this.#storedDecision(name)
    const wasChanged = this.#registry.changes().has(name) || stored?.change !== undefined
    if (wasChanged) await this.#decide(name, undefined, by)
    this.#changeLog.note('limit reset', { limit: name, wasChanged, ...by })
    return wasChanged
  }

  async #resetKey (key: string, by: Required<ChangedBy>): Promise<boolean> {
    const forgotten = [...this.#checksOf('reset', key, anyLimit)].map(async ([client, checks]) => {
      this.#forget(client, checks)
      return await this.#counters.forget(client, checks)
    })
    const wasCounted = (await Promise.all(forgotten)).includes(true)
    // What is hashed elsewhere is hashed in the log, too.
    const isShown = this.#hashKey === undefined || isKeyHash(key) || parseAddress(key) !== undefined
    this.#changeLog.note('counters reset', { key: isShown ? key : this.#hashKey(key), wasCounted, ...by })
    return wasCounted
  }

  /** Writes a decision, and applies it once it is written. */
  async #decide (name: string, change: LimitChange | undefined, by: Required<ChangedBy>): Promise<void> {
    // The clocks of two instances may differ: what is decided with another decision in sight is later than it.
    const inSight = Math.max(this.#known.get(name)?.atMs ?? 0, this.#underWay.get(name) ?? 0)
    const atMs = Math.max(this.#now(), inSight + 1)
    const decided = change === undefined ? { isReset: true } : forJson(change)
    const text = JSON.stringify({ ...decided, atMs, ...by })
    this.#underWay.set(name, atMs)
    try {
      await this.#write(name, text, true)
    } finally {
      if (this.#underWay.get(name) === atMs) this.#underWay.delete(name)
    }
    // A later decision may be in force already.
    if ((this.#known.get(name)?.atMs ?? -1) >= atMs) return
    this.#known.set(name, { change, atMs, text, ...by })
    this.#registry.change(name, change)
  }

  /** @param mustReach  a value that Redis rejects is an error */
  async #write (name: string, text: string, mustReach = false): Promise<void> {
    await this.#values.set(keyOf(name), text, undefined, mustReach)
    await this.#tellVersion()
    // Where this was in an outage, the two may reach Redis in any order: others look again when both are there.
    this.#hasChanged = true
  }

  async #tellVersion (): Promise<void> {
    await this.#values.set(versionKey, randomUUID(), undefined)
  }

  /**
   * All limits, by what each of them counts the client by.
   *
   * @param computed  what stands for limits whose numbers are computed; undefined: they are left out
   */
  #checksOf (method: string, key: unknown, computed?: (algorithm: Algorithm) => Limit): ReadonlyMap<string, readonly NamedCheck[]> {
    if (typeof key !== 'string' || key === '') throw new ArgumentError({ option: `the key of limits.${method}`, rule: 'a text that is not empty', received: show(key) })
    const address = parseAddress(key)
    const counted = this.#hashKey === undefined || isKeyHash(key) ? key : this.#hashKey(key)
    const checks = new Map<string, Map<string, NamedCheck>>()
    const add = (client: string, name: string, limit: Limit) => {
      const ofClient = checks.get(client) ?? new Map<string, NamedCheck>()
      checks.set(client, ofClient)
      if (!ofClient.has(`${limit.algorithm} ${name}`)) ofClient.set(`${limit.algorithm} ${name}`, { name, limit, cost: 1 })
    }
    for (const { name, inForce, definition: { algorithm }, clients: { ipv6Subnet, hasKeyGenerator } } of this.#registry.all()) {
      const limit = inForce === undefined || inForce.max === Infinity ? computed?.(algorithm) : inForce
      if (limit === undefined) continue
      const byAddressKey = address === undefined ? key : clientKey(address, ipv6Subnet)
      // The answer of a `keyGenerator` is counted itself, or by its hash.
      add(hasKeyGenerator ? counted : byAddressKey, name, limit)
      if (hasKeyGenerator && address !== undefined) add(byAddressKey, byAddress(name), limit)
    }
    return new Map([...checks].map(([client, ofClient]) => [client, [...ofClient.values()]]))
  }
}

/** Of which only the algorithm matters: its counter is forgotten. */
function anyLimit (algorithm: Algorithm): Limit {
  return defineLimit(algorithm, 1, longestWindowMs)
}

/** Of a reason or origin. */
export const longestText = 1000

/** @throws ArgumentError  when the reason or origin is no text, or too long */
export function checkBy (method: string, { reason, origin }: Required<ChangedBy>): void {
  for (const [name, value] of Object.entries({ reason, origin })) {
    if (typeof value === 'string' && value.length <= longestText) continue
    const rule = `a text of at most ${longestText} characters`
    throw new ArgumentError({ option: `the ${name} of ${method}`, rule, received: show(value) })
  }
}

function describe (name: string, { max, windowMs }: LimitChange, { reason, origin, atMs }: Decision): SetLimit {
  return { name, max, timeWindow: windowMs, reason, origin, setAtMs: atMs === 0 ? undefined : atMs }
}

function keyOf (name: string): string {
  return `${reservedPrefix}limit:${name}`
}

function readChange (limit: unknown): LimitChange {
  const { max, timeWindow } = (typeof limit === 'object' && limit !== null ? limit : {}) as { max?: unknown, timeWindow?: unknown }
  if (max !== Infinity && (!Number.isSafeInteger(max) || (max as number) < 0)) {
    throw new ArgumentError({ option: 'max of limits.set', rule: 'a whole number >= 0, or Infinity', received: show(max) })
  }
  const windowMs = duration.read(timeWindow)
  if (windowMs === wrong) throw new ArgumentError({ option: 'timeWindow of limits.set', rule: duration.rule, received: show(timeWindow) })
  return { max: max as number, windowMs }
}

/** JSON has no Infinity. */
export function forJson<T extends { readonly max: number }> (limit: T): Omit<T, 'max'> & { readonly max: number | string } {
  return { ...limit, max: limit.max === Infinity ? unlimited : limit.max }
}

const unlimited = 'Infinity'

/** The text that an earlier release stored for a limit that was reset. */
const resetBefore = 'as configured'

/** @returns undefined for any other text: a foreign value must not change a limit */
function parseDecision (text: string): Decision | undefined {
  if (text === resetBefore) return { change: undefined, atMs: 0, text, reason: '', origin: '' }
  try {
    const read = JSON.parse(text) as { max?: unknown, windowMs?: unknown, isReset?: boolean, atMs?: number } & ChangedBy
    const { max, windowMs, isReset, atMs, reason, origin } = read
    const change = isReset === true ? undefined : readChange({ max: max === unlimited ? Infinity : max, timeWindow: windowMs })
    const textOf = (value: unknown) => typeof value === 'string' ? value : ''
    return { change, atMs: Number.isFinite(atMs) ? atMs! : 0, text, reason: textOf(reason), origin: textOf(origin) }
  } catch {
    return undefined
  }
}
