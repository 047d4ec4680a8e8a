/**
 * The contract again, over the two stores: Redis answers while it can, memory
 * at once when it cannot. Requests that are under way when Redis goes wait for
 * the time limit of a command at most; later ones do not wait.
 *
 * Memory goes on from what Redis told last, and keeps a journal of what it
 * accepts. When Redis is back it is told all of that, while memory goes on
 * answering. What has come meanwhile is told at last, and in the same moment
 * Redis answers again: a connection keeps the order, so that no hit falls
 * between the two.
 */
import { EventEmitter } from 'node:events'
import { inThisContext } from '../runtime/async-context.js'
import type { Awaitable } from '../runtime/awaitable.js'
import { StoreUnavailableError } from '../errors.js'
import { Batch } from '../store/redis/batch.js'
import { CallQueue, SingleCallQueue } from './call-queue.js'
import { count, current, refusalsOf, ruleOf, take, type Limit } from '../rules/rate-limit.js'
import type { LimitState } from '../rules/rule.js'
import { Availability, type AvailabilityEvents, type RedisSide, type StoreStatus } from './availability.js'
import type { BeforeReset, HitHere } from './counter-journal.js'
import { FailoverValues } from './values.js'
import type { Keys } from '../store/keys.js'
import type { MemoryStore } from '../store/memory/memory-store.js'
import type { RedisStore } from '../store/redis/redis-store.js'
import type { ChangedBlock } from '../store/redis/blocks.js'
import type { Shared } from './shares.js'
import type { Hit, NamedCheck, Peeked, Refund, Refusals, Taken } from '../store/limit-store.js'
import { type Block, blockedIn, type BlockOperation, type BlockRequest } from '../store/block-store.js'
import type { RateLimitEvent, Suspect } from '../store/event-store.js'
import type { Store } from '../store/store.js'

export interface FailoverOptions {
  readonly memory: MemoryStore
  /** undefined: none is configured */
  readonly redis: RedisSide | undefined
  /** why there is no Redis, where there is none */
  readonly unconfigured?: string
  readonly keys: Keys
  /** ms since 1970, of the same clock as `memory` */
  readonly now: () => number
}

/** The part of a store that plain values are. */
type Values = Pick<Store, 'get' | 'set' | 'incr' | 'expire' | 'del'>

/** How memory answers for Redis: as the only instance, or as one of several. */
export type Fallback = 'memory' | 'share'

/** Called with the failure, or with what became of the hit and who decided. */
export type TakeCallback = (failure: Error | undefined, taken: Taken | undefined, source: 'redis' | 'memory' | 'custom') => void

/**
 * The most calls of one kind under way: they take Redis some 5 ms. Decisions about requests come between them, and each
 * kind has a queue of its own.
 */
const callsAtOnce = 256

/** Operations on the block list in one call, which takes Redis about a millisecond, and the most calls under way. */
const blocksInCall = 50
const blockCallsAtOnce = 8

export class FailoverStore extends EventEmitter<AvailabilityEvents> implements Store {
  readonly #memory: MemoryStore
  readonly #redis: RedisSide | undefined
  readonly #unconfigured: string
  readonly #since = new Date()
  readonly #keys: Keys
  readonly #now: () => number
  readonly #batch: Batch
  readonly #values: Values
  readonly #blockCalls: CallQueue<BlockOperation, ChangedBlock>
  readonly #calls = new SingleCallQueue(callsAtOnce)
  /** undefined: no Redis is configured */
  readonly #availability: Availability | undefined
  /** by address: the order of the last change of a block, while it is under way */
  readonly #blockOrders = new Map<string, number>()
  /** this process's clock less that of Redis, ms */
  #offsetMs = 0

  constructor ({ memory, redis, unconfigured = '', keys, now }: FailoverOptions) {
    super()
    this.#memory = memory
    this.#redis = redis
    this.#unconfigured = unconfigured
    this.#keys = keys
    this.#now = now
    this.#batch = new Batch(async (hits, ticket) => {
      const taken = await redis!.store.take(hits, ticket)
      this.#availability!.answered(ticket.number)
      this.#offsetMs = now() - taken[0]!.nowMs
      return taken
    })
    this.#blockCalls = new CallQueue({
      send: async operations => {
        // Later, the call has failed here, and memory has gone on.
        const promptUntilMs = now() + redis!.guarded.commandTimeout
        return await redis!.store.blockList.change(operations, this.#availability!.aheadMs, promptUntilMs)
      },
      inCall: blocksInCall,
      atOnce: blockCallsAtOnce
    })
    if (redis === undefined) {
      this.#values = memory.values
      return
    }
    const availability = new Availability(redis, memory, now)
    this.#availability = availability
    const valueCalls = new SingleCallQueue(callsAtOnce)
    this.#values = new FailoverValues({ memory: memory.values, redis, now, availability, calls: valueCalls })
    availability.on('switch', status => {
      if (status.store === 'memory') {
        // None may run once the recovery has begun: by then memory has gone on.
        const error = new StoreUnavailableError('connection', 'Redis went away before the call was sent')
        for (const queue of [this.#blockCalls, this.#calls, valueCalls]) queue.empty(error)
      }
      this.emit('switch', status)
    })
    availability.on('refused', (what, count, error) => this.emit('refused', what, count, error))
  }

  get status (): StoreStatus {
    return this.#availability?.status ?? { store: 'memory', breaker: 'off', reason: this.#unconfigured, since: this.#since }
  }

  /** Whether Redis answers now. */
  get usesRedis (): boolean {
    return this.#availability !== undefined && this.#availability.usesRedis
  }

  /** Instances that were alive when Redis last told, this one among them. */
  get instances (): number {
    return this.#availability?.instances ?? 1
  }

  /** What Redis has yet to be told. */
  get journalSize (): number {
    return this.#redis?.journal.size ?? 0
  }

  /** Another epoch than the known one: Redis has lost its data. */
  knowsEpoch (epoch: string): boolean {
    return this.#availability?.knowsEpoch(epoch) === true
  }

  /** Resolves when Redis answers, has refused to listen, or cannot be used. */
  async settle (): Promise<void> {
    await this.#availability?.settle()
  }

  /** Redis works, but is not what it was: it is told all that is known here. */
  lostData (failure: StoreUnavailableError): void {
    this.#availability?.lostData(failure)
  }

  /** See Availability. */
  async drain (tryUntilMs: number): Promise<void> {
    await this.#availability?.drain(tryUntilMs)
  }

  close (): void {
    this.#availability?.close()
  }

  /**
   * Decides one hit; from memory before it returns, from Redis together with
   * all others of this turn of the event loop.
   *
   * @param fallback  how memory answers with Redis away; undefined: it does not
   * @param done      called once, in the caller's asynchronous context; with a failure only where there is no fallback
   */
  takeOne (hit: Hit, fallback: Fallback | undefined, done: TakeCallback): void {
    const redis = this.#redis
    if (redis === undefined) return done(undefined, this.#memory.limits.takeOne(hit), 'memory')
    if (!this.usesRedis) {
      if (fallback === undefined) done(redis.guarded.failure, undefined, 'redis')
      else done(undefined, this.#takeHere(hit, fallback, undefined), 'memory')
      return
    }
    let share: Shared | undefined
    if (fallback === 'share' && this.#availability!.isWaiting) {
      const known = this.#knownOf(hit)
      share = this.#shareOf(hit, known)
      if (!share.accepted) return done(undefined, refusedBy(share, hit, known), 'memory')
    }
    const answer = inThisContext(done)
    this.#batch.add(hit, (error, taken, ticket) => {
      if (taken !== undefined) {
        const { nowMs, outcomes } = taken
        if (this.usesRedis) {
          hit.checks.forEach((check, i) => {
            if (check.cost > 0) this.#memory.limits.adopt(hit, check, outcomes[i]!.state, nowMs)
          })
          if (fallback === 'share' && share === undefined && taken.accepted) redis.shares.passed(hit, taken, this.instances)
        } else {
          const known = this.#knownOf(hit)
          // Memory has counted on by itself meanwhile: this comes on top, and Redis has it.
          this.#memory.limits.takeOne(hit)
          // The instances may have shared out all that was left when Redis went.
          if (fallback === 'share' && taken.accepted) {
            share ??= this.#shareOf(hit, known)
            if (!share.accepted) return answer(undefined, refusedBy(share, hit, known), 'memory')
          }
        }
        return answer(undefined, taken, 'redis')
      }
      const failure = redis.guarded.report(error)
      if (failure.kind === 'lost') this.lostData(failure)
      if (fallback === undefined) return answer(failure, undefined, 'redis')
      // Redis rejected the command, or its reply was garbled: resending it would fail too, so it is not journaled.
      if (failure.kind === 'reply') return answer(undefined, this.#decideHere(hit, fallback, this.#knownOf(hit), share), 'memory')
      const mayHaveRun = ticket.number > 0 && failure.kind !== 'lost'
      answer(undefined, this.#takeHere(hit, fallback, mayHaveRun ? ticket.number : undefined, share), 'memory')
    })
  }

  /**
   * Adds refusals that were decided without a store to Redis' counters.
   */
  async countRefusals (refusals: readonly Refusals[]): Promise<void> {
    if (this.#redis === undefined) return
    const { store, journal } = this.#redis
    const ticket = { number: 0 }
    await this.#told(async () => await store.countRefusals(refusals, ticket), isLost => {
      const batch = ticket.number > 0 && !isLost ? ticket.number : undefined
      for (const { client, name, limit, window, count } of refusals) {
        const key = this.#keys.limit(limit.algorithm, name, client)
        const known = this.#memory.limits.known(client, { name, limit, cost: 1 })
        journal.addRefusals({ key, limit, window: ruleOf(limit).shift(window, this.#offsetMs), count }, known, batch)
      }
    })
  }

  /** Takes back a hit that is not to count after all. */
  async refund (given: Refund, source: 'redis' | 'memory'): Promise<void> {
    const { hit } = given
    const [here, there] = source === 'redis' ? [shifted(given, this.#offsetMs), given] : [given, shifted(given, -this.#offsetMs)]
    const known = this.#knownOf(hit)
    this.#memory.limits.refund(here)
    if (this.#redis === undefined) return
    const { store, journal, shares } = this.#redis
    shares.refund(here, source, this.instances, this.#availability!.outage)
    const ticket = { number: 0 }
    let wasSent = false
    const call = async () => {
      wasSent = this.usesRedis
      await store.refund(there, ticket)
    }
    await this.#told(async () => await this.#calls.ask(call), isLost => {
      // In a Cluster nobody can tell whether it ran: once too few is better than once too many.
      if (wasSent && !isLost && ticket.number === 0) return
      const batch = isLost ? undefined : ticket.number || undefined
      hit.checks.forEach(({ name, limit, cost }, i) => {
        const { fits, state } = here.taken.outcomes[i]!
        if (fits && cost > 0) journal.addRefund({ key: this.#keys.limit(limit.algorithm, name, hit.key), limit, cost }, state, known[i], batch)
      })
    })
  }

  async take (hits: readonly Hit[]): Promise<readonly Taken[]> {
    return await Promise.all(hits.map(async hit => await new Promise<Taken>(resolve => this.takeOne(hit, 'memory', (failure, taken) => resolve(taken!)))))
  }

  async forget (key: string, checks: readonly NamedCheck[]): Promise<boolean> {
    const known = checks.map(check => this.#memory.limits.known(key, check))
    const local = this.#memory.limits.forget(key, checks)
    if (this.#redis === undefined) return local
    const { store, journal } = this.#redis
    let wasThere = local
    const ticket = { number: 0 }
    const call = async () => await store.forget(key, checks, ticket)
    await this.#told(async () => { wasThere = await this.#calls.ask(call) }, isLost => {
      // In a Cluster nobody can tell whether it ran: twice is better than never, which would leave the client limited.
      const sentIn = isLost ? undefined : ticket.number || undefined
      checks.forEach(({ name, limit }, i) => {
        const before: BeforeReset | undefined = known[i] && { state: known[i], sentIn }
        journal.addReset(this.#keys.limit(limit.algorithm, name, key), limit, before)
      })
    })
    return wasThere
  }

  peek (key: string, checks: readonly NamedCheck[]): Awaitable<Peeked> {
    return this.#either(store => store.peek(key, checks), () => this.#memory.limits.peek(key, checks))
  }

  get (key: string): Awaitable<string | null> {
    return this.#values.get(key)
  }

  set (key: string, value: string, ttlMs: number | undefined, mustReach = false): Awaitable<void> {
    return this.#values.set(key, value, ttlMs, mustReach)
  }

  incr (key: string): Awaitable<number> {
    return this.#values.incr(key)
  }

  expire (key: string, ttlMs: number): Awaitable<boolean> {
    return this.#values.expire(key, ttlMs)
  }

  del (key: string): Awaitable<boolean> {
    return this.#values.del(key)
  }

  async logEvents (events: readonly RateLimitEvent[]): Promise<void> {
    if (this.#redis === undefined) return this.#memory.events.logEvents(events)
    const { store, journal } = this.#redis
    const ticket = { number: 0 }
    // In a Cluster nobody can tell whether a write ran: twice is better than never.
    const isTold = await this.#told(async () => await store.logEvents(events, ticket), isLost => {
      journal.addEvents(events, isLost ? undefined : ticket.number || undefined)
    })
    if (!isTold) this.#memory.events.logEvents(events)
  }

  events (limit: number): Awaitable<readonly RateLimitEvent[]> {
    return this.#either(store => store.events(limit), () => this.#memory.events.events(limit))
  }

  clearEvents (olderThanMs: number): Awaitable<number> {
    return this.#either(store => store.clearEvents(olderThanMs), () => this.#memory.events.clearEvents(olderThanMs))
  }

  suspects (limit: number): Awaitable<readonly Suspect[]> {
    return this.#either(store => store.suspects(limit), () => this.#memory.events.suspects(limit))
  }

  /** In force here when it returns, and on the other instances as soon as they look. */
  async block (request: BlockRequest): Promise<Block> {
    const atMs = this.#now()
    const local = this.#memory.blocks.block(request)
    const changed = await this.#changeBlock({ atMs, block: request })
    return changed?.standing ?? local
  }

  async unblock (ip: string): Promise<boolean> {
    const atMs = this.#now()
    const local = this.#memory.blocks.unblock(ip)
    const changed = await this.#changeBlock({ atMs, unblock: ip })
    return changed?.wasBlocked ?? local
  }

  /** @returns what Redis told; undefined: memory has the last word */
  async #changeBlock (operation: BlockOperation): Promise<ChangedBlock | undefined> {
    if (this.#redis === undefined) return undefined
    const { journal } = this.#redis
    const ip = blockedIn(operation)
    const order = journal.nextBlockOrder()
    this.#blockOrders.set(ip, order)
    let changed: ChangedBlock | undefined
    const call = async () => {
      changed = await this.#blockCalls.ask(operation)
      // A later change of this instance says what holds here.
      if (this.#blockOrders.get(ip) === order) this.#holdBlock(ip, changed)
    }
    await this.#told(call, () => {
      journal.addBlock(operation, order)
      // An older change of another instance may have come in between.
      if ('block' in operation) this.#memory.blocks.block(operation.block, operation.atMs)
      else this.#memory.blocks.unblock(operation.unblock, operation.atMs)
    }).finally(() => {
      if (this.#blockOrders.get(ip) === order) this.#blockOrders.delete(ip)
    })
    return changed
  }

  /** An older change of another instance may have come in between; a newer one that has come already holds. */
  #holdBlock (ip: string, { standing, sequence }: ChangedBlock): void {
    if (this.#redis!.store.blockList.hasSeenMore(sequence)) return
    const { aheadMs } = this.#availability!
    this.#memory.blocks.adoptStanding(ip, standing && {
      ...standing, blockedAtMs: standing.blockedAtMs + aheadMs, expiresAtMs: standing.expiresAtMs + aheadMs
    })
  }

  isBlocked (address: string): Awaitable<boolean> {
    return this.#either(store => store.isBlocked(address), () => this.#memory.blocks.isBlocked(address))
  }

  blocks (): Awaitable<readonly Block[]> {
    return this.#either(store => store.blocks(), () => this.#memory.blocks.blocks())
  }

  #either<T> (there: (store: RedisStore) => Promise<T>, here: () => T): Awaitable<T> {
    return this.usesRedis ? this.#onRedis(there, here) : here()
  }

  async #onRedis<T> (there: (store: RedisStore) => Promise<T>, here: () => T): Promise<T> {
    try {
      return await this.#calls.ask(async () => await there(this.#redis!.store))
    } catch (error) {
      if (error instanceof StoreUnavailableError) return here()
      throw error
    }
  }

  /**
   * Tells Redis something that holds here already.
   *
   * @param keep  called where Redis is away: keeps it in the journal; `isLost`: Redis has not run it, and will not
   * @returns whether Redis has it
   */
  async #told (call: () => Promise<void>, keep: (isLost: boolean) => void): Promise<boolean> {
    let isLost = false
    if (this.usesRedis) {
      try {
        await call()
        return true
      } catch (error) {
        if (!(error instanceof StoreUnavailableError)) throw error
        // Redis rejected the command; resending it would fail too, so it is not journaled.
        if (error.kind === 'reply') return false
        isLost = error.kind === 'lost'
        if (isLost) this.lostData(error)
      }
    }
    keep(isLost)
    return false
  }

  /**
   * @param batch  in which it was sent to Redis, that may have run it
   * @param share  what the shares have said of it already
   */
  #takeHere (hit: Hit, fallback: Fallback, batch: number | undefined, share?: Shared): Taken {
    const known = this.#knownOf(hit)
    const taken = this.#decideHere(hit, fallback, known, share)
    hit.checks.forEach(({ name, limit, cost }, i) => {
      const outcome = outcomeOf(taken, i, known[i], limit)
      if (outcome === undefined || cost === 0) return
      const key = this.#keys.limit(limit.algorithm, name, hit.key)
      this.#redis!.journal.addHit({ key, limit, cost, nowMs: taken.nowMs, outcome }, known[i], batch)
    })
    return taken
  }

  #decideHere (hit: Hit, fallback: Fallback, known: readonly (LimitState | undefined)[], share?: Shared): Taken {
    if (fallback === 'memory') return this.#memory.limits.takeOne(hit)
    return this.#takeShare(hit, known, share ?? this.#shareOf(hit, known))
  }

  #knownOf (hit: Hit): readonly (LimitState | undefined)[] {
    return hit.checks.map(check => this.#memory.limits.known(hit.key, check))
  }

  /**
   * Asked in an outage, and after it until all instances are back: what the
   * others let pass Redis does not know before they have told it, so that its
   * word alone would let their parts pass once more.
   */
  #shareOf (hit: Hit, known: readonly (LimitState | undefined)[]): Shared {
    return this.#redis!.shares.take(hit, known, this.instances, this.#availability!.outage)
  }

  /** The counters are those of all instances, as far as they are known, whatever the shares have decided. */
  #takeShare (hit: Hit, known: readonly (LimitState | undefined)[], { accepted, nowMs, fits, explanations }: Shared): Taken {
    const outcomes = hit.checks.map((check, i) => {
      const whole = take(known[i], nowMs, check.limit, check.cost)
      // A refusal by this instance's part alone is none of the whole limit.
      const isCounted = fits[i]! ? accepted && check.cost > 0 : !whole.fits
      if (!isCounted) return { fits: fits[i]!, state: current(known[i], nowMs, check.limit) }
      const state = fits[i]! ? count(known[i], nowMs, check.limit, check.cost, true) : whole.state
      this.#memory.limits.adopt(hit, check, state, nowMs)
      return { fits: fits[i]!, state }
    })
    return { accepted, nowMs, outcomes, explanations }
  }
}

/** The same on another clock. */
function shifted ({ hit, taken }: Refund, aheadMs: number): Refund {
  const outcomes = taken.outcomes.map(({ fits, state }) => ({ fits, state: { ...state, atMs: state.atMs + aheadMs } }))
  return { hit, taken: { ...taken, nowMs: taken.nowMs + aheadMs, outcomes } }
}

/** What one check of a hit leaves behind; undefined: nothing, as where another one refused. */
function outcomeOf ({ accepted, outcomes, nowMs }: Taken, check: number, known: LimitState | undefined, limit: Limit): HitHere['outcome'] | undefined {
  const { fits, state } = outcomes[check]!
  if (fits) return accepted ? 'accepted' : undefined
  return refusalsOf(state, limit) > refusalsOf(current(known, nowMs, limit), limit) ? 'noted' : undefined
}

/** A hit that Redis is not asked about, and that leaves its counters as they are. */
function refusedBy ({ nowMs, fits, explanations }: Shared, { checks }: Hit, known: readonly (LimitState | undefined)[]): Taken {
  const outcomes = checks.map(({ limit }, i) => ({ fits: fits[i]!, state: current(known[i], nowMs, limit) }))
  return { accepted: false, nowMs, outcomes, explanations }
}
