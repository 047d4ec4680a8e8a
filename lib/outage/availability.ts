/**
 * Which of the two stores answers: Redis, from the moment it has been told all
 * that it missed until it fails, or turns out to have lost its data; else
 * memory. And who else is there: a heartbeat a second tells the other
 * instances of this one, and this one how many they are.
 */
import { AsyncResource } from 'node:async_hooks'
import { EventEmitter } from 'node:events'
import { StoreUnavailableError } from '../errors.js'
import type { BreakerState, GuardedRedis } from '../redis/breaker.js'
import { timers } from '../runtime/timers.js'
import { ClockOffset } from './clock-offset.js'
import type { Carried, Journal } from './journal.js'
import type { MemoryStore } from '../store/memory/memory-store.js'
import { Recovery } from './recovery.js'
import { aliveMs, type RedisStore } from '../store/redis/redis-store.js'
import type { Shares } from './shares.js'

export interface StoreStatus {
  /** which store answers now */
  readonly store: 'redis' | 'memory'
  /** `off`: no Redis is configured */
  readonly breaker: BreakerState | 'off'
  /** why memory answers; undefined while Redis does */
  readonly reason: string | undefined
  /** since when this store answers */
  readonly since: Date
}

export interface SwitchEvents {
  /** The store that answers has changed. */
  switch: [status: StoreStatus]
}

export interface AvailabilityEvents extends SwitchEvents {
  /** Redis would not take a piece of what it was told. */
  refused: [what: Carried, count: number, error: Error]
}

interface InnerEvents extends AvailabilityEvents {
  /** Redis has been told what it missed, or could not be told. */
  settled: []
}

/** Redis as the failover needs it: the store, the breaker in front of it, what is to be told to it, and what may pass without it. */
export interface RedisSide {
  readonly store: RedisStore
  readonly guarded: GuardedRedis
  readonly journal: Journal
  readonly shares: Shares
}

/** ms between two heartbeats, and between two attempts to tell a Redis that would not listen. */
const heartbeatMs = 1000

export class Availability extends EventEmitter<InnerEvents> {
  readonly #redis: RedisSide
  readonly #recovery: Recovery
  readonly #now: () => number
  readonly #clock: ClockOffset
  #mode: 'memory' | 'telling' | 'redis' = 'memory'
  #since = new Date()
  /** why memory answers though Redis works */
  #why: Error | undefined
  /** counts the attempts to tell: what an earlier one brings to its end late is over */
  #attempt = 0
  #timer: NodeJS.Timeout | undefined
  #closed = false
  #epoch: string | undefined
  #instances = 1
  #outage = 0
  /** when this instance came back, by Redis' clock, while others are waited for */
  #waitingSinceMs: number | undefined
  /** until when others are waited for, by the monotonic clock: that of Redis may step */
  #waitingUntilMs = 0
  #lastAnswered = 0

  /** @param now  ms since 1970 */
  constructor (redis: RedisSide, memory: MemoryStore, now: () => number) {
    super()
    this.#redis = redis
    this.#now = now
    this.#clock = new ClockOffset(now)
    this.#recovery = new Recovery(redis, memory, now, this.#clock, (what, count, error) => {
      this.emit('refused', what, count, error)
    })
    redis.guarded.on('up', () => this.#tell())
    redis.guarded.on('down', () => this.#leave())
    if (redis.guarded.usable) this.#tell()
  }

  get status (): StoreStatus {
    const { usesRedis } = this
    return {
      store: usesRedis ? 'redis' : 'memory',
      breaker: this.#redis.guarded.state,
      reason: usesRedis ? undefined : this.#reason(),
      since: this.#since
    }
  }

  /** Whether Redis answers now. */
  get usesRedis (): boolean {
    return this.#mode === 'redis' && this.#redis.guarded.usable
  }

  /** Instances that were alive when Redis last told, this one among them. */
  get instances (): number {
    return this.#instances
  }

  /** This process's clock less that of Redis, ms; known from the first recovery on. */
  get aheadMs (): number {
    return this.#clock.ms
  }

  /** Outages so far. */
  get outage (): number {
    return this.#outage
  }

  /** This instance is back from an outage, and others are not yet. */
  get isWaiting (): boolean {
    return this.#waitingSinceMs !== undefined
  }

  /** Another epoch than the known one: Redis has lost its data. */
  knowsEpoch (epoch: string): boolean {
    return epoch === this.#epoch
  }

  /** Resolves when Redis answers, has refused to listen, or cannot be used. */
  async settle (): Promise<void> {
    while (this.#mode === 'telling') await new Promise<void>(resolve => this.once('settled', resolve))
  }

  /**
   * Redis works but has lost data, so everything known here is replayed. It is
   * bound to no request, since a request may have found the loss.
   */
  readonly lostData = AsyncResource.bind((failure: StoreUnavailableError): void => {
    if (this.#mode !== 'redis') return
    this.#leave(failure)
    this.#tell()
  })

  /** Takes note of a numbered batch that Redis has answered. */
  answered (number: number): void {
    this.#lastAnswered = Math.max(this.#lastAnswered, number)
  }

  /**
   * Sends what waits for Redis, and resolves when nothing is under way. A Redis that is away is tried once more.
   *
   * @param tryUntilMs  when that try ends, by `timers.monotonicMs()`
   */
  async drain (tryUntilMs: number): Promise<void> {
    const { guarded, journal } = this.#redis
    await guarded.idle()
    if (journal.size === 0) return
    // The calls under way may have taken all of the time.
    const withinMs = tryUntilMs - timers.monotonicMs()
    if (!guarded.usable && withinMs > 0) await guarded.connect(withinMs)
    this.#tell()
    await this.settle()
    if (this.usesRedis) this.#recovery.tellLate()
    await guarded.idle()
  }

  close (): void {
    this.#closed = true
    timers.clearTimeout(this.#timer)
  }

  #reason (): string {
    const { guarded } = this.#redis
    if (!guarded.usable) return guarded.failure.message
    return this.#why?.message ?? 'Redis is back, and is told what it has missed'
  }

  /** @param lost  what Redis has lost, where it works all the same */
  #leave (lost?: StoreUnavailableError): void {
    timers.clearTimeout(this.#timer)
    const answered = this.#mode === 'redis'
    this.#mode = 'memory'
    this.#waitingSinceMs = undefined
    this.#why = lost
    this.emit('settled')
    if (!answered) return
    this.#outage++
    this.#switched()
  }

  #tell (): void {
    if (this.#mode !== 'memory' || this.#closed) return
    this.#mode = 'telling'
    const attempt = ++this.#attempt
    const isCurrent = () => this.#mode === 'telling' && this.#attempt === attempt
    this.#recovery.tellAll(this.#epoch, this.#lastAnswered).then(({ epoch, instances, nowMs }) => {
      if (!isCurrent()) return
      this.#recovery.tellRest()
      this.#epoch = epoch
      if (this.#outage > 0) this.#waitingSinceMs = nowMs
      this.#waitingUntilMs = timers.monotonicMs() + aliveMs
      // Those that are not back yet are not among the ones that Redis tells of.
      this.#instances = this.#outage > 0 ? Math.max(this.#instances, instances) : instances
      this.#mode = 'redis'
      this.#why = undefined
      this.#switched()
      this.emit('settled')
      this.#beat(0)
    }, (error: Error) => {
      if (!isCurrent()) return
      // Where Redis is gone again, the breaker says when it is back; this is one that does not listen.
      this.#mode = 'memory'
      this.#why = error
      this.emit('settled')
      if (this.#redis.guarded.usable && !this.#closed) this.#timer = timers.setTimeout(() => this.#tell(), heartbeatMs).unref()
    })
  }

  /** From then on, every second; more often while others are waited for. */
  #beat (afterMs = this.#waitingSinceMs === undefined ? heartbeatMs : heartbeatMs / 4): void {
    if (this.#closed) return
    this.#timer = timers.setTimeout(() => {
      const askedAtMs = this.#now()
      this.#redis.store.heartbeat(true, this.#waitingSinceMs ?? 0).then(({ epoch, instances, since, nowMs }) => {
        this.#clock.note(askedAtMs, nowMs)
        if (this.#mode !== 'redis') return
        const isWaiting = this.#waitingSinceMs !== undefined && since < this.#instances &&
          timers.monotonicMs() <= this.#waitingUntilMs
        if (!isWaiting) {
          this.#waitingSinceMs = undefined
          this.#instances = instances
        }
        if (epoch !== this.#epoch) return this.lostData(new StoreUnavailableError('lost', 'Redis has lost its data'))
        this.#recovery.tellLate()
        this.#beat()
      }, () => {
        // The breaker has seen it as well, unless Redis only dislikes this.
        if (this.#mode === 'redis') this.#beat()
      })
    }, afterMs).unref()
  }

  #switched (): void {
    this.#since = new Date()
    this.emit('switch', this.status)
  }
}
