/**
 * Counters over memory and Redis. Redis decides while it can be used, and memory
 * otherwise. Requests under way when Redis goes wait for `commandTimeout` at
 * most; later ones do not wait.
 *
 * Memory goes on from the baselines, and the journal keeps the hits that memory
 * decides until they are replayed: see outage/availability.ts.
 */
import type { Awaitable } from '../runtime/awaitable.js'
import { ruleOf } from '../rules/algorithms.js'
import { type Check, explainHit } from '../rules/rate-limit.js'
import type { CounterKeys, Keys } from '../store/keys.js'
import {
  type Answer, type CountedOutcome, type Fallback, type Hit, isFallback, type LimitStore, type Outcome, type Owner,
  type Refusals, type Taken
} from '../store/limit-store.js'
import type { Decided, DecidedOutcome, MemoryLimits } from '../store/memory/limits.js'
import type { RedisAnswer, UnansweredByRedis } from '../store/redis/limits.js'
import type { OnOutage } from '../settings/options.js'
import type { Availability, RedisSide } from './availability.js'
import { RedisCalls } from './redis-calls.js'
import type { Known, OfShare, Shared } from './shares.js'

export interface OutageLimitsOptions {
  readonly memory: MemoryLimits
  readonly redis: RedisSide
  readonly availability: Availability
  readonly keys: Keys
  /** ms since 1970, of the same clock as `memory` */
  readonly now: () => number
}

export class OutageLimits implements LimitStore {
  readonly #memory: MemoryLimits
  readonly #redis: RedisSide
  readonly #availability: Availability
  readonly #keys: Keys
  readonly #now: () => number
  readonly #calls: RedisCalls
  /** how far this process's clock was ahead of that of Redis at its last answer to a hit, ms */
  #offsetMs = 0

  constructor ({ memory, redis, availability, keys, now }: OutageLimitsOptions) {
    this.#memory = memory
    this.#redis = redis
    this.#availability = availability
    this.#keys = keys
    this.#now = now
    this.#calls = new RedisCalls(availability)
  }

  /** Memory decides before `take` returns. Redis decides all hits of this turn of the event loop in one round trip. */
  take (hit: Hit): Answer | undefined {
    const { onOutage } = hit
    if (!this.#availability.usesRedis) {
      if (isFallback(onOutage)) return this.#takeLocally(hit, onOutage, undefined)
      return { kind: 'unanswered', failure: this.#redis.guarded.failure, sentIn: undefined }
    }
    let share: Shared | undefined
    if (onOutage === 'share' && this.#availability.isWaiting) {
      share = this.#shareOf(hit)
      if (!share.accepted) return refusedBy(share)
    }
    this.#redis.store.limits.take(new SentHit(hit, share, this.#answerTo))
    return undefined
  }

  /** Makes the answer to a hit of what Redis said. */
  readonly #answerTo = (hit: SentHit, answer: RedisAnswer): Answer => {
    if (answer.kind === 'unanswered') return this.#withoutRedis(hit, answer)
    this.#offsetMs = this.#now() - answer.nowMs
    if (this.#availability.usesRedis) {
      for (const outcome of answer.outcomes) {
        if (outcome.check.cost > 0) this.#memory.adopt(hit, outcome, answer.nowMs)
      }
      if (hit.onOutage === 'share' && hit.share === undefined && answer.accepted) {
        this.#redis.shares.passed(hit, answer, this.#availability.instances)
      }
      return answer
    }
    const share = hit.onOutage === 'share' && answer.accepted ? hit.share ?? this.#shareOf(hit) : undefined
    // Redis has counted the hit, but memory has answered others since: it adds this one to its own count.
    this.#memory.take(hit)
    // The parts of the instances may be used up: together they are all that was left when Redis went.
    return share === undefined || share.accepted ? answer : refusedBy(share)
  }

  #withoutRedis (hit: SentHit, answer: UnansweredByRedis): Answer {
    const { onOutage, share } = hit
    const { failure, sentIn } = answer
    if (failure.kind === 'lost') this.#availability.lostData(failure)
    if (!isFallback(onOutage)) return answer
    // Redis rejected the command, or its reply was garbled: resending it would fail too, so it is not journaled.
    if (failure.kind === 'reply') return this.#decideLocally(hit, onOutage, this.#knownOf(hit), share)
    return this.#takeLocally(hit, onOutage, sentIn, share)
  }

  /** Adds refusals that were decided locally to the counters of Redis. */
  async countRefusals (refusals: readonly Refusals[]): Promise<void> {
    const { store, journal } = this.#redis
    await this.#calls.write({
      call: async () => await store.limits.countRefusals(refusals),
      keep: sentIn => {
        for (const { client, name, limit, window, count } of refusals) {
          const check = { name, limit, cost: 1 }
          const baseline = this.#memory.known({ clientKey: client }, check)
          const shiftedWindow = ruleOf(limit).shift(window, this.#offsetMs)
          const key = this.#keys.counter({ clientKey: client }, check)
          journal.addRefusals({ key, limit, window: shiftedWindow, count }, baseline, sentIn)
        }
      }
    })
  }

  async refund (owner: Owner, taken: Taken): Promise<void> {
    const isOfRedis = taken.source === 'redis'
    const local = isOfRedis ? shifted(taken, this.#offsetMs) : taken
    const remote = isOfRedis ? taken : shifted(taken, -this.#offsetMs)
    const counters = local.outcomes.map(outcome => ({ ...outcome, ...this.#find(owner, outcome.check) }))
    this.#memory.refund(owner, local)
    const { store, journal, shares } = this.#redis
    shares.refund(owner, local, this.#availability)
    let wasSent = false
    await this.#calls.write({
      call: async () => await this.#calls.ask(async () => {
        wasSent = this.#availability.usesRedis
        await store.limits.refund(owner, remote)
      }),
      keep: (sentIn, isLost) => {
        // In a Cluster it is unknown whether the refund ran: never is better than twice.
        if (wasSent && !isLost && sentIn === undefined) return
        for (const { check: { limit, cost }, fits, state, key, baseline } of counters) {
          if (fits && cost > 0) journal.addRefund({ key, limit, cost }, state, baseline, sentIn)
        }
      }
    })
  }

  async forget (client: string, checks: readonly Check[]): Promise<boolean> {
    const counters = checks.map(check => ({ limit: check.limit, ...this.#find({ clientKey: client }, check) }))
    const local = this.#memory.forget(client, checks)
    const { store, journal } = this.#redis
    const wasThere = await this.#calls.write({
      call: async () => await this.#calls.ask(async () => await store.limits.forget(client, checks)),
      keep: sentIn => {
        // In a Cluster it is unknown whether the reset ran. Twice is better than never: the client would stay limited.
        for (const { key, limit, baseline } of counters) {
          journal.addReset(key, limit, baseline && { state: baseline, sentIn })
        }
      }
    })
    return wasThere ?? local
  }

  peek (client: string, checks: readonly Check[]): Awaitable<readonly Outcome[]> {
    return this.#calls.read(
      async () => await this.#redis.store.limits.peek(client, checks),
      () => this.#memory.peek(client, checks)
    )
  }

  /**
   * Decides a hit from memory, and keeps it in the journal.
   *
   * @param batch  number of the batch that may have run it; undefined: it was not sent
   * @param share  how the shares have decided it; undefined: they were not asked yet
   */
  #takeLocally (hit: Hit, fallback: Fallback, batch: number | undefined, share?: Shared): Taken {
    const known = this.#knownOf(hit)
    const taken = this.#decideLocally(hit, fallback, known, share)
    for (const { check, left } of taken.outcomes) {
      if (left === 'nothing') continue
      const { limit, cost } = check
      const { key, state } = counterOf(check, known)
      this.#redis.journal.addHit({ key, limit, cost, nowMs: taken.nowMs, left }, state, batch)
    }
    return taken
  }

  #decideLocally (hit: Hit, fallback: Fallback, known: readonly KnownCounter[], share?: Shared): Decided {
    if (fallback === 'memory') return this.#memory.take(hit)
    return this.#takeShare(hit, known, share ?? this.#shareOf(hit, known))
  }

  #knownOf (hit: Hit): readonly KnownCounter[] {
    return hit.checks.map(check => {
      const { key, baseline: state } = this.#find(hit, check)
      return { check, key, state }
    })
  }

  #find (owner: Owner, check: Check) {
    return { key: this.#keys.counter(owner, check), baseline: this.#memory.known(owner, check) }
  }

  /**
   * Asks the shares: in an outage, and after it until all instances are back.
   * Until then Redis lacks the hits that the others let pass, so it alone would
   * let their parts pass once more.
   */
  #shareOf (hit: Hit, known: readonly KnownCounter[] = this.#knownOf(hit)): Shared {
    return this.#redis.shares.take(hit, known, this.#availability)
  }

  /** Takes the decision of the shares, and counts it in the counters of the whole limit. */
  #takeShare (hit: Hit, counters: readonly KnownCounter[], { accepted, nowMs, parts }: Shared): Decided {
    const outcomes = parts.map(({ check, fits, explanation }): DecidedOutcome => {
      const { limit, cost } = check
      // The state of now: the shares may have been asked before the hit was sent to Redis.
      const { state: known } = counterOf(check, counters)
      const rule = ruleOf(limit)
      const whole = rule.take(known, nowMs, limit, cost)
      // If only the part of this instance refuses, the whole limit counts no refusal.
      const isCounted = fits ? accepted && cost > 0 : !whole.fits
      if (!isCounted) {
        return { ...outcomeOfShare(check, { fits, state: whole.before }, nowMs, explanation), left: 'nothing' }
      }
      const state = fits ? rule.accept(known, nowMs, limit, cost) : whole.state
      this.#memory.adopt(hit, { check, state }, nowMs)
      return { ...outcomeOfShare(check, { fits, state }, nowMs, explanation), left: fits ? 'hit' : whole.left }
    })
    return { kind: 'taken', source: 'memory', accepted, nowMs, outcomes }
  }
}

/** A counter of a hit as memory knows it, with its key. */
interface KnownCounter extends Known {
  readonly key: string
}

function counterOf (check: Check, counters: readonly KnownCounter[]): KnownCounter {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- all checks of one hit are among them
  return counters.find(of => of.check === check)!
}

/** A hit on its way to Redis. */
class SentHit implements Hit {
  readonly clientKey: string
  readonly fromAddress: string | undefined
  readonly counterKeys: CounterKeys | undefined
  readonly checks: readonly Check[]
  readonly onOutage: OnOutage
  /** how the shares decided it before it was sent; undefined: they were not asked */
  readonly share: Shared | undefined
  readonly #hit: Hit
  readonly #answerTo: (hit: SentHit, answer: RedisAnswer) => Answer

  constructor (hit: Hit, share: Shared | undefined, answerTo: (hit: SentHit, answer: RedisAnswer) => Answer) {
    this.clientKey = hit.clientKey
    this.fromAddress = hit.fromAddress
    this.counterKeys = hit.counterKeys
    this.checks = hit.checks
    this.onOutage = hit.onOutage
    this.share = share
    this.#hit = hit
    this.#answerTo = answerTo
  }

  answered (answer: RedisAnswer): void {
    this.#hit.answered(this.#answerTo(this, answer))
  }
}

/** The outcome of a hit that the shares decided. `explainHit` looks at the whole limit, and so do the refusals. */
function outcomeOfShare (
  check: Check, { fits, state }: Pick<CountedOutcome, 'fits' | 'state'>, nowMs: number, explanation: OfShare
): CountedOutcome {
  const { limit, cost } = check
  const { refusals } = ruleOf(limit).explain(state, nowMs, limit)
  return { check, fits, state, explanation: explainHit({ ...explanation, refusals }, limit, cost) }
}

/** The hit by a clock that is ahead by `aheadMs`. */
function shifted (taken: Taken, aheadMs: number): Taken {
  const outcomes = taken.outcomes.map(outcome => {
    return { ...outcome, state: ruleOf(outcome.check.limit).shift(outcome.state, aheadMs) }
  })
  return { ...taken, nowMs: taken.nowMs + aheadMs, outcomes }
}

/** The answer to a hit that the shares refused. It leaves the counters of the whole limit as they are. */
function refusedBy ({ nowMs, parts }: Shared): Taken {
  const outcomes = parts.map(({ check, state, fits, explanation }) => {
    const { before } = ruleOf(check.limit).take(state, nowMs, check.limit, 0)
    return outcomeOfShare(check, { fits, state: before }, nowMs, explanation)
  })
  return { kind: 'taken', source: 'memory', accepted: false, nowMs, outcomes }
}
