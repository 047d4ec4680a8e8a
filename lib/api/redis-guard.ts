/**
 * What `fastify.redisGuard` is: the guarded client and the security API. Here
 * arguments are checked; the store does the rest, from memory where Redis is
 * away, so none of the methods fails for that.
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

export interface BlockOptions extends ChangedBy {
  /** the block stands even where a longer one is in force; default `false` */
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
  /** called with the error or rejection of a user's listener; must not throw */
  readonly onListenerError: (error: unknown) => void
}

/** The decorator `fastify.redisGuard`; see above. */
export class RedisGuard extends EventEmitter<SwitchEvents> {
  /** The ioredis client, without the breaker and its time limit; undefined where no Redis is configured. */
  readonly client: RedisClient | undefined
  /**
   * The warnings so far, from start-up and later: each once, in the order in
   * which they were first found. The README explains their codes in "Warnings".
   */
  readonly warnings: readonly GuardWarning[]
  /** Limits at run time. */
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
    // In a promise's turn: a test may have faked queueMicrotask.
    availability?.on('switch', status => { Promise.resolve().then(() => this.#notify(status, onListenerError)) })
  }

  /** Which store answers, since when, and why. */
  get status (): StoreStatus {
    return this.#status()
  }

  /** @returns the value; null when there is none */
  async get (key: string): Promise<string | null> {
    this.#checkOpen()
    return await this.#values.get(checkKey('get', key))
  }

  /** @param options.ttlSeconds  until it is forgotten; left out: never */
  async set (key: string, value: string | number, options: { ttlSeconds?: number } = {}): Promise<void> {
    this.#checkOpen()
    checkKey('set', key)
    if (typeof value !== 'string' && !Number.isFinite(value)) {
      throw new ArgumentError({ option: 'the value of set', rule: 'a text or a finite number', received: show(value) })
    }
    const { ttlSeconds } = options
    const ttlMs = ttlSeconds === undefined ? undefined : toMs('ttlSeconds of set', ttlSeconds)
    await this.#values.set(key, String(value), ttlMs)
  }

  /**
   * Adds one; a key that is not there counts as 0.
   *
   * @throws ValueError  when the value is no whole number, or leaves 64 bits
   */
  async incr (key: string): Promise<number> {
    this.#checkOpen()
    return await this.#values.incr(checkKey('incr', key))
  }

  /** @returns whether there was such a key */
  async expire (key: string, seconds: number): Promise<boolean> {
    this.#checkOpen()
    return await this.#values.expire(checkKey('expire', key), toMs('the seconds of expire', seconds))
  }

  /** @returns whether there was such a key */
  async del (key: string): Promise<boolean> {
    this.#checkOpen()
    return await this.#values.del(checkKey('del', key))
  }

  /**
   * Records an event; it is in the store when the promise resolves. If Redis
   * is so slow that it cannot be written within a second, it is counted as
   * dropped. Refused requests are recorded without this.
   */
  async logRateLimitEvent (event: RateLimitEventInput): Promise<void> {
    this.#checkOpen()
    await this.#eventLog.log(readEvent(event, this.#now()))
  }

  /**
   * The latest events, newest first. Like each method that reads events, it
   * waits half a second at most for refusals that are still being written.
   */
  async getRateLimitEvents (limit = 100): Promise<readonly RateLimitEvent[]> {
    this.#checkOpen()
    checkLimit('getRateLimitEvents', limit)
    await this.#eventLog.settle()
    return await this.#events.events(limit)
  }

  /**
   * Removes events older than this many ms; 0 removes all.
   *
   * @returns how many were removed
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
   * Blocks an address, or a range in CIDR form: its requests get a 403, here
   * at once, on other instances within `syncInterval`. A block never shortens
   * another: the one that ends last stands, with its reason and origin. An
   * address and a range around it are blocked separately.
   *
   * @param durationSeconds  Infinity: until it is unblocked
   * @param options.replace  true: this block stands, also where a longer one is in force
   * @returns the block that stands: an earlier one, where that ends later
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

  /** Whether the address is blocked, by itself or by a range around it; the allow list does not count. */
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
   * Unblocks an address or range, however long it was blocked.
   *
   * @param by  who unblocks, and why: for the log
   * @returns whether exactly this address or range was blocked; one inside a blocked range stays blocked
   */
  async unblockIP (ip: string, { reason = '', origin = 'api' }: ChangedBy = {}): Promise<boolean> {
    this.#checkOpen()
    const network = checkNetwork('unblockIP', ip)
    checkBy('unblockIP', { reason, origin })
    const wasBlocked = await this.#blocks.unblock(network)
    this.#changeLog.note('unblocked', { ip: network, wasBlocked, reason, origin })
    return wasBlocked
  }

  /** All blocks in force. */
  async getBlockedIPs (): Promise<readonly Block[]> {
    this.#checkOpen()
    return await this.#blocks.blocks()
  }

  /** The addresses that were limited most often in the recorded events, most limited first. */
  async getSuspiciousIPs (limit = 10): Promise<readonly Suspect[]> {
    this.#checkOpen()
    checkLimit('getSuspiciousIPs', limit)
    await this.#eventLog.settle()
    return await this.#events.suspects(limit)
  }

  /**
   * Asks `redis.credentials` again, and authenticates every open connection
   * anew with its answer, without dropping one. With Redis away it has asked,
   * and so does the next connect.
   *
   * @throws NoCredentialsError  without `redis.credentials`
   * @throws StoreUnavailableError  of kind `auth`, when the function fails or Redis refuses its answer
   */
  async rotate (): Promise<void> {
    this.#checkOpen()
    if (this.#rotate === undefined) throw new NoCredentialsError()
    await this.#rotate()
  }

  /**
   * Calls each listener by itself, and outside the decision that caused the switch. A listener that fails neither
   * fails a request, nor keeps other listeners from being called. `emit` would leave rejections unhandled.
   */
  #notify (status: StoreStatus, onListenerError: (error: unknown) => void): void {
    for (const listener of this.rawListeners('switch')) {
      attempt(() => Reflect.apply(listener, this, [status]) as unknown, onListenerError)
    }
  }
}
