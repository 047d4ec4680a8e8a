/**
 * Decides whether Redis or memory answers. Redis answers from the end of a replay
 * until it fails or turns out to have lost its data; otherwise memory does. A
 * heartbeat each second counts the instances that are alive.
 */
import { AsyncResource } from 'node:async_hooks'
import { EventEmitter } from 'node:events'
import { StoreUnavailableError } from '../errors.js'
import type { BreakerState, GuardedRedis } from '../redis/breaker.js'
import { timers } from '../runtime/timers.js'
import { ClockOffset } from './clock-offset.js'
import type { Journal, JournalKind } from './journal.js'
import type { MemoryStore } from '../store/memory/memory-store.js'
import { Recovery } from './recovery.js'
import type { Heartbeat } from '../store/redis/encodings/instance.js'
import { aliveMs } from '../store/redis/instance.js'
import type { RedisStore } from '../store/redis/redis-store.js'
import type { Shares } from './shares.js'

/** Which store answers, since when, and why. */
export interface StoreStatus {
  /** which store answers now */
  readonly store: 'redis' | 'memory'
  /** `off`: no Redis is configured */
  readonly breaker: BreakerState | 'off'
  /** why memory answers; undefined while Redis answers */
  readonly reason: string | undefined
  /** since when this store answers */
  readonly since: Date
}

export interface SwitchEvents {
  /** The store that answers has changed. */
  switch: [status: StoreStatus]
}

export interface AvailabilityEvents extends SwitchEvents {
  /** Redis rejected entries of the journal, or what was restored; they are lost. */
  rejected: [what: JournalKind, count: number, error: Error]
}

/** The status where no Redis is configured. */
export function statusOfMemory (reason: string): StoreStatus {
  return { store: 'memory', breaker: 'off', reason, since: new Date() }
}

interface InnerEvents extends AvailabilityEvents {
  /** A replay has ended or failed. */
  settled: []
}

/** Redis and the parts of the outage layer that stand in for it. */
export interface RedisSide {
  readonly store: RedisStore
  readonly guarded: GuardedRedis
  readonly journal: Journal
  readonly shares: Shares
}

/** Kept over all modes. */
interface LastKnown {
  /** of Redis' data; undefined: Redis has not reported one yet */
  epoch: string | undefined
  /** instances that were alive, this one among them */
  instances: number
  /** outages so far */
  outage: number
}

/** Memory answers, and Redis is not asked. */
interface Away {
  readonly kind: 'away'
  readonly since: Date
  /** why memory answers though Redis works; undefined: Redis does not work */
  readonly why: Error | undefined
  /** when a Redis that works is tried again; undefined: the breaker says when */
  readonly retry?: NodeJS.Timeout
}

/** Memory answers while the journal is replayed. */
interface Replaying {
  readonly kind: 'replaying'
  /** since when memory answers: as in the mode before */
  readonly since: Date
  readonly why: Error | undefined
}

/** Redis answers. */
interface Back {
  readonly kind: 'back'
  readonly since: Date
  /** the next heartbeat */
  beat: NodeJS.Timeout | undefined
  /** undefined: all instances that were alive before the outage are back */
  waiting: Waiting | undefined
}

/** The wait for instances that are not back from the outage yet. */
interface Waiting {
  /** when this instance came back, by Redis' clock */
  readonly sinceMs: number
  /** when the wait ends, by the monotonic clock: Redis' clock may step */
  readonly untilMs: number
}

/** An attempt or a heartbeat is current while the mode is the very object that it began with. */
type Mode = Away | Replaying | Back

/** ms between two heartbeats, and between two replays to a Redis that works but fails them */
const heartbeatMs = 1000

export class Availability extends EventEmitter<InnerEvents> {
  readonly #redis: RedisSide
  readonly #recovery: Recovery
  readonly #now: () => number
  readonly #clock: ClockOffset
  readonly #known: LastKnown = { epoch: undefined, instances: 1, outage: 0 }
  #mode: Mode = { kind: 'away', since: new Date(), why: undefined }
  #closed = false

  /** @param now  ms since 1970 */
  constructor (redis: RedisSide, memory: MemoryStore, now: () => number) {
    super()
    this.#redis = redis
    this.#now = now
    this.#clock = new ClockOffset(now)
    const { store, journal } = redis
    const onRejected = (what: JournalKind, count: number, error: Error) => { this.emit('rejected', what, count, error) }
    this.#recovery = new Recovery({ store, journal, memory, now, clock: this.#clock, onRejected })
    redis.guarded.on('up', () => this.#replay())
    redis.guarded.on('down', () => this.#leave())
    if (redis.guarded.usable) this.#replay()
  }

  get status (): StoreStatus {
    const { usesRedis } = this
    return {
      store: usesRedis ? 'redis' : 'memory',
      breaker: this.#redis.guarded.state,
      reason: usesRedis ? undefined : this.#reason(),
      since: this.#mode.since
    }
  }

  /** Whether Redis answers now. */
  get usesRedis (): boolean {
    return this.#mode.kind === 'back' && this.#redis.guarded.usable
  }

  /** Instances that were alive at Redis' last report, this one among them. */
  get instances (): number {
    return this.#known.instances
  }

  /** This process's clock less that of Redis, ms; known from the first recovery on. */
  get aheadMs (): number {
    return this.#clock.ms
  }

  /** Outages so far. */
  get outage (): number {
    return this.#known.outage
  }

  /** Whether this instance is back from an outage, and others are not yet. */
  get isWaiting (): boolean {
    return this.#mode.kind === 'back' && this.#mode.waiting !== undefined
  }

  /** Whether Redis has reported this epoch last. Under another epoch, Redis has lost its data. */
  knowsEpoch (epoch: string): boolean {
    return epoch === this.#known.epoch
  }

  /** Resolves when no replay runs: Redis answers, has failed the replay, or cannot be used. */
  async settle (): Promise<void> {
    while (this.#mode.kind === 'replaying') await new Promise<void>(resolve => this.once('settled', resolve))
  }

  /**
   * Redis works but has lost data: leaves it, restores what this instance knows,
   * and replays the journal. Bound to the asynchronous context of no request,
   * though the call of a request may have found the loss.
   */
  readonly lostData = AsyncResource.bind((failure: StoreUnavailableError): void => {
    if (this.#mode.kind !== 'back') return
    this.#leave(failure)
    this.#replay()
  })

  /**
   * Replays the journal, and resolves when no call is under way. If Redis is away, it is tried once more.
   *
   * @param tryUntilMs  when that try ends, by `timers.monotonicMs()`
   */
  async drain (tryUntilMs: number): Promise<void> {
    const { guarded, journal } = this.#redis
    await guarded.idle()
    if (journal.size === 0) return
    // The calls under way may have taken all of that time.
    const withinMs = tryUntilMs - timers.monotonicMs()
    if (!guarded.usable && withinMs > 0) await guarded.connect(withinMs)
    this.#replay()
    await this.settle()
    if (this.usesRedis) this.#recovery.replayLate()
    await guarded.idle()
  }

  close (): void {
    this.#closed = true
    clearTimer(this.#mode)
  }

  #reason (): string {
    const { guarded } = this.#redis
    const mode = this.#mode
    // Memory answers in the mode `back` only if the breaker is open.
    if (!guarded.usable || mode.kind === 'back') return guarded.failure.message
    return mode.why?.message ?? 'Redis is back, and the journal is replayed'
  }

  /** @param lost  why memory answers though Redis works */
  #leave (lost?: StoreUnavailableError): void {
    const before = this.#mode
    clearTimer(before)
    const since = before.kind === 'back' ? new Date() : before.since
    this.#mode = { kind: 'away', since, why: lost }
    this.emit('settled')
    if (before.kind !== 'back') return
    this.#known.outage++
    this.emit('switch', this.status)
  }

  #replay (): void {
    if (this.#mode.kind !== 'away' || this.#closed) return
    clearTimer(this.#mode)
    const { since, why } = this.#mode
    const mode: Replaying = { kind: 'replaying', since, why }
    this.#mode = mode
    this.#recovery.replayAll(this.#known.epoch).then(heartbeat => {
      if (this.#mode === mode) this.#comeBack(heartbeat)
    }, (error: Error) => {
      if (this.#mode !== mode) return
      // If Redis is gone again, the breaker says when it is back. If it works, nobody else would start the next try.
      const triesAgain = this.#redis.guarded.usable && !this.#closed
      this.#mode = {
        kind: 'away',
        since,
        why: error,
        ...triesAgain && { retry: timers.setTimeout(() => this.#replay(), heartbeatMs).unref() }
      }
      this.emit('settled')
    })
  }

  #comeBack ({ epoch, instances, nowMs }: Heartbeat): void {
    this.#recovery.replayRest()
    const known = this.#known
    const isAfterOutage = known.outage > 0
    known.epoch = epoch
    // Redis does not report those that are not back yet.
    known.instances = isAfterOutage ? Math.max(known.instances, instances) : instances
    const waiting = isAfterOutage ? { sinceMs: nowMs, untilMs: timers.monotonicMs() + aliveMs } : undefined
    const mode: Back = { kind: 'back', since: new Date(), beat: undefined, waiting }
    this.#mode = mode
    this.emit('switch', this.status)
    this.emit('settled')
    this.#beat(mode, 0)
  }

  /** Sends the next heartbeat, and from then on one each second; more often while it waits for other instances. */
  #beat (mode: Back, afterMs = mode.waiting === undefined ? heartbeatMs : heartbeatMs / 4): void {
    if (this.#closed) return
    mode.beat = timers.setTimeout(() => {
      const askedAtMs = this.#now()
      const { instance } = this.#redis.store
      instance.heartbeat(this.#known.epoch, mode.waiting?.sinceMs).then(({ epoch, instances, since, nowMs }) => {
        this.#clock.note(askedAtMs, nowMs)
        if (this.#mode !== mode) return
        // A Redis without its data does not know the other instances either.
        if (epoch !== this.#known.epoch) {
          this.lostData(new StoreUnavailableError('lost', 'Redis has lost its data'))
          return
        }
        const { waiting } = mode
        if (waiting === undefined || since >= this.#known.instances || timers.monotonicMs() > waiting.untilMs) {
          mode.waiting = undefined
          this.#known.instances = instances
        }
        this.#recovery.replayLate()
        this.#beat(mode)
      }, () => {
        // The breaker has seen this failure too, unless Redis only rejected the command.
        if (this.#mode === mode) this.#beat(mode)
      })
    }, afterMs).unref()
  }
}

function clearTimer (mode: Mode): void {
  if (mode.kind === 'away') timers.clearTimeout(mode.retry)
  if (mode.kind === 'back') timers.clearTimeout(mode.beat)
}
