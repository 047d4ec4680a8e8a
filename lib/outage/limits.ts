/**
 * Counters over the two stores: Redis decides while it can, memory at once when
 * it cannot. Requests that are under way when Redis goes wait for the time
 * limit of a command at most; later ones do not wait.
 *
 * Memory goes on from what Redis reported last, and the journal keeps what it
 * accepts until the recovery replays it: see outage/availability.ts.
 */
import { inThisContext } from '../runtime/async-context.js'
import type { Awaitable } from '../runtime/awaitable.js'
import { Batch } from '../store/redis/batch.js'
import { ruleOf } from '../rules/rate-limit.js'
import type { Explanation, LimitState } from '../rules/rule.js'
import type { Keys } from '../store/keys.js'
import type { Hit, LimitStore, NamedCheck, Peeked, Refund, Refusals, Taken } from '../store/limit-store.js'
import type { Decided, MemoryLimits } from '../store/memory/limits.js'
import type { Availability, RedisSide } from './availability.js'
import { RedisCalls } from './redis-calls.js'
import type { OfShare, Shared } from './shares.js'

/** How memory answers for Redis: as the only instance, or as one of several. */
export type Fallback = 'memory' | 'share'

/** Called with the failure, or with what became of the hit and who decided. */
export type TakeCallback =
  (failure: Error | undefined, taken: Taken | undefined, source: 'redis' | 'memory' | 'custom') => void

/** What a request asks for, whichever stores there are. */
export interface RequestLimits extends Pick<LimitStore, 'peek' | 'forget'> {
  /**
   * Decides one hit; from memory before it returns, from Redis together with
   * all others of this turn of the event loop.
   *
   * @param fallback  how memory answers with Redis away; undefined: it does not
   * @param done      called once, in the caller's asynchronous context; with a failure only where there is no fallback
   */
  takeOne (hit: Hit, fallback: Fallback | undefined, done: TakeCallback): void
  /** Takes back a hit that is not to count after all. */
  refund (given: Refund, source: 'redis' | 'memory'): Awaitable<void>
}

/** Where no Redis is configured, memory decides. */
export function limitsOfMemory (memory: MemoryLimits): RequestLimits {
  return {
    takeOne: (hit, fallback, done) => done(undefined, memory.takeOne(hit), 'memory'),
    refund: given => memory.refund(given),
    forget: (key, checks) => memory.forget(key, checks),
    peek: (key, checks) => memory.peek(key, checks)
  }
}

export interface OutageLimitsOptions {
  readonly memory: MemoryLimits
  readonly redis: RedisSide
  readonly availability: Availability
  readonly keys: Keys
  /** ms since 1970, of the same clock as `memory` */
  readonly now: () => number
}

export class OutageLimits implements RequestLimits {
  readonly #memory: MemoryLimits
  readonly #redis: RedisSide
  readonly #availability: Availability
  readonly #keys: Keys
  readonly #batch: Batch
  readonly #calls: RedisCalls
  /** this process's clock less that of Redis, ms, at its last answer to a hit */
  #offsetMs = 0

  constructor ({ memory, redis, availability, keys, now }: OutageLimitsOptions) {
    this.#memory = memory
    this.#redis = redis
    this.#availability = availability
    this.#keys = keys
    this.#calls = new RedisCalls(availability)
    this.#batch = new Batch(async (hits, ticket) => {
      const taken = await redis.store.limits.take(hits, ticket)
      availability.answered(ticket.number)
      // A batch has one hit at least.
      this.#offsetMs = now() - taken[0]!.nowMs
      return taken
    })
  }

  takeOne (hit: Hit, fallback: Fallback | undefined, done: TakeCallback): void {
    const redis = this.#redis
    if (!this.#availability.usesRedis) {
      if (fallback === undefined) done(redis.guarded.failure, undefined, 'redis')
      else done(undefined, this.#takeHere(hit, fallback, undefined), 'memory')
      return
    }
    let share: Shared | undefined
    if (fallback === 'share' && this.#availability.isWaiting) {
      const known = this.#knownOf(hit)
      share = this.#shareOf(hit, known)
      if (!share.accepted) return done(undefined, refusedBy(share, hit, known), 'memory')
    }
    const answer = inThisContext(done)
    this.#batch.add(hit, (error, taken, ticket) => {
      if (taken !== undefined) {
        const { nowMs, outcomes } = taken
        if (this.#availability.usesRedis) {
          for (const [i, check] of hit.checks.entries()) {
            // A hit has one outcome for each check.
            if (check.cost > 0) this.#memory.adopt(hit, check, outcomes[i]!.state, nowMs)
          }
          if (fallback === 'share' && share === undefined && taken.accepted) {
            redis.shares.passed(hit, taken, this.#availability.instances)
          }
        } else {
          const known = this.#knownOf(hit)
          // Memory has counted on by itself meanwhile: this comes on top, and Redis has it.
          this.#memory.takeOne(hit)
          // The instances may have shared out all that was left when Redis went.
          if (fallback === 'share' && taken.accepted) {
            share ??= this.#shareOf(hit, known)
            if (!share.accepted) return answer(undefined, refusedBy(share, hit, known), 'memory')
          }
        }
        return answer(undefined, taken, 'redis')
      }
      const failure = redis.guarded.report(error)
      if (failure.kind === 'lost') this.#availability.lostData(failure)
      if (fallback === undefined) return answer(failure, undefined, 'redis')
      // Redis rejected the command, or its reply was garbled: resending it would fail too, so it is not journaled.
      if (failure.kind === 'reply') {
        return answer(undefined, this.#decideHere(hit, fallback, this.#knownOf(hit), share), 'memory')
      }
      const mayHaveRun = ticket.number > 0 && failure.kind !== 'lost'
      answer(undefined, this.#takeHere(hit, fallback, mayHaveRun ? ticket.number : undefined, share), 'memory')
    })
  }

  /** Adds refusals that were decided without a store to Redis' counters. */
  async countRefusals (refusals: readonly Refusals[]): Promise<void> {
    const { store, journal } = this.#redis
    await this.#calls.write({
      call: async ticket => await store.limits.countRefusals(refusals, ticket),
      keep: sentIn => {
        for (const { client, name, limit, window, count } of refusals) {
          const key = this.#keys.limit(limit.algorithm, name, client)
          const baseline = this.#memory.known(client, { name, limit, cost: 1 })
          const shiftedWindow = ruleOf(limit).shift(window, this.#offsetMs)
          journal.addRefusals({ key, limit, window: shiftedWindow, count }, baseline, sentIn)
        }
      }
    })
  }

  async refund (given: Refund, source: 'redis' | 'memory'): Promise<void> {
    const { hit } = given
    const local = source === 'redis' ? shifted(given, this.#offsetMs) : given
    const remote = source === 'redis' ? given : shifted(given, -this.#offsetMs)
    const known = this.#knownOf(hit)
    this.#memory.refund(local)
    const { store, journal, shares } = this.#redis
    const { instances, outage } = this.#availability
    shares.refund(local, source, instances, outage)
    let wasSent = false
    await this.#calls.write({
      call: async ticket => await this.#calls.ask(async () => {
        wasSent = this.#availability.usesRedis
        await store.limits.refund(remote, ticket)
      }),
      keep: (sentIn, isLost) => {
        // In a Cluster nobody can tell whether it ran: once too few is better than once too many.
        if (wasSent && !isLost && sentIn === undefined) return
        for (const [i, { name, limit, cost }] of hit.checks.entries()) {
          // A hit has one outcome for each check.
          const { fits, state } = local.taken.outcomes[i]!
          const key = this.#keys.limit(limit.algorithm, name, hit.counterKeys ?? hit.key)
          if (fits && cost > 0) journal.addRefund({ key, limit, cost }, state, known[i], sentIn)
        }
      }
    })
  }

  async forget (key: string, checks: readonly NamedCheck[]): Promise<boolean> {
    const known = checks.map(check => this.#memory.known(key, check))
    const local = this.#memory.forget(key, checks)
    const { store, journal } = this.#redis
    const wasThere = await this.#calls.write({
      call: async ticket => await this.#calls.ask(async () => await store.limits.forget(key, checks, ticket)),
      keep: sentIn => {
        // In a Cluster nobody can tell whether it ran. Twice is better than never: the client would stay limited.
        for (const [i, { name, limit }] of checks.entries()) {
          const before = known[i] && { state: known[i], sentIn }
          journal.addReset(this.#keys.limit(limit.algorithm, name, key), limit, before)
        }
      }
    })
    return wasThere ?? local
  }

  peek (key: string, checks: readonly NamedCheck[]): Awaitable<Peeked> {
    return this.#calls.read(
      async () => await this.#redis.store.limits.peek(key, checks),
      () => this.#memory.peek(key, checks)
    )
  }

  /**
   * @param batch  in which it was sent to Redis, that may have run it
   * @param share  what the shares have said of it already
   */
  #takeHere (hit: Hit, fallback: Fallback, batch: number | undefined, share?: Shared): Taken {
    const known = this.#knownOf(hit)
    const taken = this.#decideHere(hit, fallback, known, share)
    for (const [i, { name, limit, cost }] of hit.checks.entries()) {
      // A hit has one outcome for each check.
      const { left } = taken.outcomes[i]!
      if (left === 'nothing') continue
      const key = this.#keys.limit(limit.algorithm, name, hit.counterKeys ?? hit.key)
      this.#redis.journal.addHit({ key, limit, cost, nowMs: taken.nowMs, left }, known[i], batch)
    }
    return taken
  }

  #decideHere (hit: Hit, fallback: Fallback, known: readonly (LimitState | undefined)[], share?: Shared): Decided {
    if (fallback === 'memory') return this.#memory.takeOne(hit)
    return this.#takeShare(hit, known, share ?? this.#shareOf(hit, known))
  }

  #knownOf (hit: Hit): readonly (LimitState | undefined)[] {
    return hit.checks.map(check => this.#memory.known(hit.key, check))
  }

  /**
   * Asked in an outage, and after it until all instances are back: what the
   * others let pass Redis does not know before they have told it, so that its
   * word alone would let their parts pass once more.
   */
  #shareOf (hit: Hit, known: readonly (LimitState | undefined)[]): Shared {
    return this.#redis.shares.take(hit, known, this.#availability.instances, this.#availability.outage)
  }

  /** The counters are those of all instances, as far as they are known, whatever the shares have decided. */
  #takeShare (hit: Hit, known: readonly (LimitState | undefined)[], share: Shared): Decided {
    const { accepted, nowMs, fits, explanations } = share
    const outcomes = hit.checks.map((check, i) => {
      const { limit, cost } = check
      const rule = ruleOf(limit)
      const whole = rule.take(known[i], nowMs, limit, cost)
      // The shares have one answer for each check.
      const fit = fits[i]!
      // A refusal by this instance's part alone is none of the whole limit.
      const isCounted = fit ? accepted && cost > 0 : !whole.fits
      if (!isCounted) return { fits: fit, state: whole.before, left: 'nothing' as const }
      const state = fit ? rule.accept(known[i], nowMs, limit, cost) : whole.state
      this.#memory.adopt(hit, check, state, nowMs)
      return { fits: fit, state, left: fit ? 'hit' as const : whole.left }
    })
    return { accepted, nowMs, outcomes, explanations: explanationsOf(explanations, hit, outcomes, nowMs) }
  }
}

function explanationsOf (
  ofShares: readonly OfShare[], { checks }: Hit, outcomes: Taken['outcomes'], nowMs: number
): readonly Explanation[] {
  return ofShares.map((explanation, i) => {
    // Shares, checks and outcomes are as many.
    const [{ limit }, { state }] = [checks[i]!, outcomes[i]!]
    return { ...explanation, refusals: ruleOf(limit).explain(state, nowMs, limit).refusals }
  })
}

/** The same on another clock. */
function shifted ({ hit, taken }: Refund, aheadMs: number): Refund {
  const outcomes = hit.checks.map(({ limit }, i) => {
    // A hit has one outcome for each check.
    const { fits, state } = taken.outcomes[i]!
    return { fits, state: ruleOf(limit).shift(state, aheadMs) }
  })
  return { hit, taken: { ...taken, nowMs: taken.nowMs + aheadMs, outcomes } }
}

/** A hit that Redis is not asked about, and that leaves its counters as they are. */
function refusedBy (share: Shared, hit: Hit, known: readonly (LimitState | undefined)[]): Taken {
  const { nowMs, fits, explanations } = share
  const outcomes = hit.checks.map(({ limit }, i) => {
    const { before } = ruleOf(limit).take(known[i], nowMs, limit, 0)
    // The shares have one answer for each check.
    return { fits: fits[i]!, state: before }
  })
  return { accepted: false, nowMs, outcomes, explanations: explanationsOf(explanations, hit, outcomes, nowMs) }
}
