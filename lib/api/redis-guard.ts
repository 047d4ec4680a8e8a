/**
 * `fastify.redisGuard`: blocks, values, events and status. The methods check their arguments here. The stores do the
 * rest, from memory while Redis is away, so no method fails because of an outage.
 */
import { EventEmitter } from 'node:events'
import { attempt } from '../runtime/awaitable.js'
import { ArgumentError, NoCredentialsError, show } from '../errors.js'
import type { RedisClient } from '../redis/script.js'
import { parseAddress } from '../addresses/address.js'
import type { Availability, StoreStatus, SwitchEvents } from '../outage/availability.js'
import type { Block, BlockStore } from '../store/block-store.js'
import type { EventStore, RateLimitEvent, Suspect } from '../store/event-store.js'
import type { ValueStore } from '../store/value-store.js'
import type { ChangeLog } from '../observers/change-log.js'
import type { EventLog } from '../observers/event-log.js'
import { type ChangedBy, checkBy } from '../limits/change.js'
import type { LimitControl } from '../limits/control.js'
import {
  checkKey, checkLimit, checkNetwork, type RateLimitEventInput, readEvent, toMs
} from './arguments.js'
import type { GuardWarning } from './warning.js'

/** Options of `blockIP`. */
export interface BlockOptions extends ChangedBy {
  /**
   * `true`: the new block replaces one that ends later.
   *
   * @default false
   */
  replace?: boolean
}

export interface RedisGuardParts {
  /** undefined: no Redis is configured */
  readonly availability: Availability | undefined
  readonly status: () => StoreStatus
  readonly blocks: BlockStore
  readonly events: Pick<EventStore, 'events' | 'clearEvents' | 'suspects'>
  readonly values: ValueStore
  readonly eventLog: EventLog
  readonly changeLog: ChangeLog
  readonly client: RedisClient | undefined
  readonly warnings: readonly GuardWarning[]
  readonly limits: LimitControl
  /** undefined: no Redis is configured */
  readonly rotate: (() => Promise<void>) | undefined
  /** ms since 1970, by the wall clock */
  readonly now: () => number
  /** throws a ClosedError once the application closes */
  readonly checkOpen: () => void
  /** called with an error or rejection of a user's listener; must not throw */
  readonly onListenerError: (error: unknown) => void
}

/**
 * The decorator `fastify.redisGuard`. Its methods work the same on Redis and in memory, and none fails because Redis is
 * away. Each throws an `ArgumentError` for a wrong argument, and a `ClosedError` once the application closes.
 *
 * The event `switch` reports, with a `StoreStatus`, that another store answers. Errors of listeners are logged.
 *
 * @example
 * app.redisGuard.on('switch', ({ store, reason }) => app.log.warn({ reason }, `${store} answers`))
 */
export class RedisGuard extends EventEmitter<SwitchEvents> {
  /**
   * The ioredis client, for commands of your own. They bypass the circuit breaker and `commandTimeout`. `undefined`: no
   * Redis is configured.
   */
  readonly client: RedisClient | undefined
  /**
   * The warnings since the start, each once, in the order in which they were first found. docs/api.md explains their
   * codes.
   *
   * @example
   * const codes = app.redisGuard.warnings.map(({ code }) => code)
   */
  readonly warnings: readonly GuardWarning[]
  /** Changes limits at run time, and shows and resets the counters of one client. */
  readonly limits: LimitControl
  readonly #status: () => StoreStatus
  readonly #blocks: BlockStore
  readonly #events: RedisGuardParts['events']
  readonly #values: ValueStore
  readonly #eventLog: EventLog
  readonly #changeLog: ChangeLog
  readonly #rotate: (() => Promise<void>) | undefined
  readonly #now: () => number
  readonly #checkOpen: () => void

  constructor (parts: RedisGuardParts) {
    super()
    const { availability, eventLog, changeLog, client, warnings } = parts
    const { limits, rotate, now, checkOpen, onListenerError } = parts
    this.client = client
    this.warnings = warnings
    this.limits = limits
    this.#status = parts.status
    this.#blocks = parts.blocks
    this.#events = parts.events
    this.#values = parts.values
    this.#eventLog = eventLog
    this.#changeLog = changeLog
    this.#rotate = rotate
    this.#now = now
    this.#checkOpen = checkOpen
    // A promise, since a test may have faked queueMicrotask.
    availability?.on('switch', status => { Promise.resolve().then(() => this.#notify(status, onListenerError)) })
  }

  /**
   * Which store answers, since when, and why.
   *
   * @example
   * if (app.redisGuard.status.store === 'memory') app.log.warn(app.redisGuard.status.reason)
   */
  get status (): StoreStatus {
    return this.#status()
  }

  /**
   * Reads a value that `set` or `incr` stored. While Redis is away, it returns the last value that this instance knew.
   *
   * @param key  any non-empty text that does not begin with `redis-guard:`
   * @returns the value as text; `null`: there is none
   *
   * @example
   * const theme = await app.redisGuard.get('theme:42') ?? 'light'
   */
  async get (key: string): Promise<string | null> {
    this.#checkOpen()
    return await this.#values.get(checkKey('get', key))
  }

  /**
   * Stores a value, in place of an earlier one.
   *
   * @param value               text, or a finite number, which is stored as text
   * @param options.ttlSeconds  seconds until the value expires, such as `0.5`; default: never
   *
   * @example
   * await app.redisGuard.set('theme:42', 'dark', { ttlSeconds: 3600 })
   */
  async set (key: string, value: string | number, options: { ttlSeconds?: number } = {}): Promise<void> {
    this.#checkOpen()
    checkKey('set', key)
    if (typeof value !== 'string' && !Number.isFinite(value)) {
      const rule = 'a string or a finite number'
      throw new ArgumentError({ option: 'the value of set', rule, received: show(value) })
    }
    const { ttlSeconds } = options
    const ttlMs = ttlSeconds === undefined ? undefined : toMs('ttlSeconds of set', ttlSeconds)
    await this.#values.set(key, String(value), ttlMs)
  }

  /**
   * Adds 1 to a value. A key without a value counts as 0.
   *
   * @returns the sum
   * @throws ValueError  if the value is not a whole number, or the sum has more than 64 bits
   *
   * @example
   * const visits = await app.redisGuard.incr('visits')
   */
  async incr (key: string): Promise<number> {
    this.#checkOpen()
    return await this.#values.incr(checkKey('incr', key))
  }

  /**
   * Lets a value expire.
   *
   * @param seconds  from now on; more than 0, fractions too
   * @returns whether there was such a key
   *
   * @example
   * await app.redisGuard.expire('visits', 86_400)
   */
  async expire (key: string, seconds: number): Promise<boolean> {
    this.#checkOpen()
    return await this.#values.expire(checkKey('expire', key), toMs('the seconds of expire', seconds))
  }

  /**
   * Deletes a value.
   *
   * @returns whether there was such a key
   *
   * @example
   * await app.redisGuard.del('visits')
   */
  async del (key: string): Promise<boolean> {
    this.#checkOpen()
    return await this.#values.del(checkKey('del', key))
  }

  /**
   * Records an event of your own. The guard records refused requests by itself.
   *
   * The event is stored when the promise resolves. If Redis is too slow to store it within a second, it is dropped, and
   * the metric `redis_guard_events_total{type="dropped"}` counts it.
   *
   * @example
   * await app.redisGuard.logRateLimitEvent({ ip: '203.0.113.7', route: '/webhook', count: 3 })
   */
  async logRateLimitEvent (event: RateLimitEventInput): Promise<void> {
    this.#checkOpen()
    await this.#eventLog.log(readEvent(event, this.#now()))
  }

  /**
   * Returns the latest events, newest first. It waits for refusals that are still being written, for at most half a
   * second.
   *
   * @param limit  the most events to return; a whole number >= 1; default 100
   *
   * @example
   * for (const { ip, route, count } of await app.redisGuard.getRateLimitEvents(20)) app.log.info({ ip, route, count })
   */
  async getRateLimitEvents (limit = 100): Promise<readonly RateLimitEvent[]> {
    this.#checkOpen()
    checkLimit('getRateLimitEvents', limit)
    await this.#eventLog.settle()
    return await this.#events.events(limit)
  }

  /**
   * Removes old events.
   *
   * @param olderThanMs  age in whole ms; 0: all events
   * @returns how many events were removed
   *
   * @example
   * await app.redisGuard.clearOldRateLimitEvents(7 * 86_400_000)
   */
  async clearOldRateLimitEvents (olderThanMs: number): Promise<number> {
    this.#checkOpen()
    if (!Number.isSafeInteger(olderThanMs) || olderThanMs < 0) {
      const rule = 'a whole number of ms >= 0'
      throw new ArgumentError({ option: 'the age of clearOldRateLimitEvents', rule, received: show(olderThanMs) })
    }
    await this.#eventLog.settle()
    return await this.#events.clearEvents(olderThanMs)
  }

  /**
   * Blocks an address or a CIDR range: its requests get a 403 on every route. The block holds on this instance at once,
   * and on the others within `syncInterval`.
   *
   * A block never shortens another one of the same address or range: the one that ends last stands, with its reason and
   * origin. An address and a range around it are blocked separately.
   *
   * @param ip               such as `203.0.113.7`, `2001:db8::7` or `203.0.113.0/24`
   * @param durationSeconds  more than 0, at most a hundred years; `Infinity`: until it is unblocked
   * @param options.reason   why, for the log and `getBlockedIPs`; at most 1000 characters; default: empty
   * @param options.origin   who or what blocks; at most 1000 characters; default `api`
   * @param options.replace  `true`: this block replaces one that ends later; default `false`
   * @returns the block that stands: an earlier one if it ends later
   *
   * @example
   * const { expiresAtMs } = await app.redisGuard.blockIP('203.0.113.7', 3600, { reason: 'credential stuffing' })
   */
  async blockIP (
    ip: string, durationSeconds: number, { reason = '', origin = 'api', replace = false }: BlockOptions = {}
  ): Promise<Block> {
    this.#checkOpen()
    const network = checkNetwork('blockIP', ip)
    const durationMs = durationSeconds === Infinity
      ? Infinity
      : toMs('the duration of blockIP', durationSeconds, ', or Infinity')
    checkBy('blockIP', { reason, origin })
    if (typeof replace !== 'boolean') {
      throw new ArgumentError({ option: 'replace of blockIP', rule: 'true or false', received: show(replace) })
    }
    const block = await this.#blocks.block({ ip: network, durationMs, reason, origin, replace })
    const { expiresAtMs } = block
    const until = expiresAtMs === Infinity ? 'for good' : new Date(expiresAtMs).toISOString()
    const isOther = block.reason !== reason || block.origin !== origin
    const stands = isOther ? { reason: block.reason, origin: block.origin } : undefined
    this.#changeLog.note('blocked', { ip: network, until, reason, origin, stands })
    return block
  }

  /**
   * Whether an address is blocked, by its own block or by that of a range around it. The allow list is not considered.
   *
   * @param ip  an address, not a range
   *
   * @example
   * const isBlocked = await app.redisGuard.isIPBlocked('203.0.113.7')
   */
  async isIPBlocked (ip: string): Promise<boolean> {
    this.#checkOpen()
    const address = parseAddress(ip)
    if (address === undefined) {
      const rule = 'an IPv4 or IPv6 address'
      throw new ArgumentError({ option: 'the address of isIPBlocked', rule, received: show(ip) })
    }
    return await this.#blocks.isBlocked(address.text)
  }

  /**
   * Removes the block of an address or range, however long it would have lasted. An address inside a blocked range
   * stays blocked.
   *
   * @param by  `reason` and `origin`, for the log
   * @returns whether exactly this address or range was blocked
   *
   * @example
   * await app.redisGuard.unblockIP('203.0.113.7', { reason: 'false alarm', origin: 'support' })
   */
  async unblockIP (ip: string, { reason = '', origin = 'api' }: ChangedBy = {}): Promise<boolean> {
    this.#checkOpen()
    const network = checkNetwork('unblockIP', ip)
    checkBy('unblockIP', { reason, origin })
    const wasBlocked = await this.#blocks.unblock(network)
    this.#changeLog.note('unblocked', { ip: network, wasBlocked, reason, origin })
    return wasBlocked
  }

  /**
   * Returns all blocks in force, those of ranges too, sorted by the text of the address.
   *
   * @example
   * for (const { ip, reason } of await app.redisGuard.getBlockedIPs()) app.log.info({ ip, reason })
   */
  async getBlockedIPs (): Promise<readonly Block[]> {
    this.#checkOpen()
    return await this.#blocks.blocks()
  }

  /**
   * Returns the addresses with the most limited requests among the recorded events, the most limited first. Of IPv6
   * clients it names the prefix (by default a /64), which `blockIP` takes.
   *
   * @param limit  the most addresses to return; a whole number >= 1; default 10
   *
   * @example
   * const suspects = await app.redisGuard.getSuspiciousIPs()
   * for (const { ip, count } of suspects) if (count > 10_000) await app.redisGuard.blockIP(ip, 3600)
   */
  async getSuspiciousIPs (limit = 10): Promise<readonly Suspect[]> {
    this.#checkOpen()
    checkLimit('getSuspiciousIPs', limit)
    await this.#eventLog.settle()
    return await this.#events.suspects(limit)
  }

  /**
   * Calls the function `redis.credentials` again, and authenticates every open connection with its answer. No
   * connection is dropped. While Redis is away there is nothing to authenticate; each new connection calls the function
   * anyway.
   *
   * @throws NoCredentialsError     without `redis.credentials`
   * @throws StoreUnavailableError  of kind `auth`, if the function fails or Redis refuses its answer; the connections
   *   stay as they were
   *
   * @example
   * const timer = setInterval(() => { app.redisGuard.rotate().catch(error => app.log.error(error)) }, 3_600_000)
   */
  async rotate (): Promise<void> {
    this.#checkOpen()
    if (this.#rotate === undefined) throw new NoCredentialsError()
    await this.#rotate()
  }

  /**
   * Calls each listener separately, and outside the decision that caused the switch. So a listener that fails neither
   * fails a request nor prevents the calls of other listeners. `emit` would leave rejections unhandled.
   */
  #notify (status: StoreStatus, onListenerError: (error: unknown) => void): void {
    for (const listener of this.rawListeners('switch')) {
      attempt(() => Reflect.apply(listener, this, [status]) as unknown, onListenerError)
    }
  }
}
