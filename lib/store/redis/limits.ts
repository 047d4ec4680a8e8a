/** The counters of clients in Redis. Each call of a Lua script decides a batch of hits, on Redis' own clock. */
import type { StoreUnavailableError } from '../../errors.js'
import type { GuardedRedis } from '../../redis/breaker.js'
import { isCluster, type RedisClient } from '../../redis/script.js'
import { ruleOf } from '../../rules/algorithms.js'
import type { Check } from '../../rules/rate-limit.js'
import type { Keys } from '../keys.js'
import type {
  CounterBaseline, Hit, LimitStore, LocalCounter, Owner, Peeked, Refusals, Taken, Unanswered
} from '../limit-store.js'
import { Batch } from './batch.js'
import { countRefusals, forget, merge, peek, refund, restore, take } from './encodings/limits.js'
import { keptMs, SentError, type Sequence } from './sequence.js'

export interface RedisLimitsOptions {
  readonly keys: Keys
  readonly sequence: Sequence
  /** unique id of this instance; a text without braces */
  readonly instance: string
}

/** The data that counters are merged into. */
export interface MergedInto {
  /** the last epoch that Redis reported */
  readonly epoch: string
  /**
   * whether Redis surely has all baselines. If so, a counter below its baseline stands: another instance has refunded
   * hits or reset it. Otherwise the larger of counter and baseline counts
   */
  readonly hasBaselines: boolean
}

/** No decision, because Redis failed. */
export interface UnansweredByRedis extends Unanswered {
  readonly failure: StoreUnavailableError
}

/** The answer to a hit. */
export type RedisAnswer = Taken | UnansweredByRedis

/**
 * Each method is one round trip, in a Cluster one for each node. The hits of one turn of the event loop share a round
 * trip.
 */
export class RedisLimits implements LimitStore {
  readonly #redis: GuardedRedis
  readonly #keys: Keys
  readonly #sequence: Sequence
  readonly #instance: string
  readonly #batch = new Batch(async hits => await this.#answer(hits))

  constructor (redis: GuardedRedis, { keys, sequence, instance }: RedisLimitsOptions) {
    this.#redis = redis
    this.#keys = keys
    this.#sequence = sequence
    this.#instance = instance
  }

  /** @returns undefined, since the hit is always answered later */
  take (hit: Hit): undefined {
    this.#batch.add(hit)
  }

  async peek (client: string, checks: readonly Check[]): Promise<readonly Peeked[]> {
    const keys = this.#keysOf({ clientKey: client }, checks)
    return await this.#redis.run(async redis =>
      peek.read(await peek.script.run(redis, keys, peek.args(checks)), checks))
  }

  /** @throws SentError  if the call was sent with a number, and failed */
  async forget (client: string, checks: readonly Check[]): Promise<boolean> {
    if (checks.length === 0) return false
    const call = { keys: this.#keysOf({ clientKey: client }, checks), args: forget.args(checks) }
    return await this.#sequence.run(this.#redis, async (client, sent) =>
      forget.read(await sent.send(client, forget.script, call), checks) > 0)
  }

  /** @throws SentError  if the call was sent with a number, and failed */
  async refund (owner: Owner, taken: Taken): Promise<void> {
    const keys = taken.outcomes.map(({ check }) => this.#keys.counter(owner, check))
    const call = { keys, args: refund.args(taken) }
    await this.#sequence.run(this.#redis, async (client, sent) => await sent.send(client, refund.script, call))
  }

  /**
   * Adds refusals to their counters. Refusals of a window that is over are left out.
   *
   * @throws SentError  if the call was sent with a number, and failed
   */
  async countRefusals (refusals: readonly Refusals[]): Promise<void> {
    const { script } = countRefusals
    const callOf = (some: readonly Refusals[]) => ({
      keys: some.map(({ client, ...of }) => this.#keys.counter({ clientKey: client }, of)),
      args: countRefusals.args(some)
    })
    await this.#sequence.run(this.#redis, async (client, sent) => {
      if (!isCluster(client)) return await sent.send(client, script, callOf(refusals))
      // In a Cluster the counters lie in different slots, so each needs its own call.
      const calls = refusals.map(one => callOf([one]))
      return await script.runAll(client, calls.map(({ keys, args }) => ({ keys, args: [0, ...args] })))
    })
  }

  /**
   * Merges local counters into those of Redis: once for each id, however often they are sent.
   *
   * @param id     id of this merge; no replay of events or values may have the same
   * @param nowMs  now, by the clock of the counters
   * @throws StoreUnavailableError  of kind `lost`, if Redis has lost its data since it reported `into.epoch`
   */
  async merge (id: string, counters: readonly LocalCounter[], nowMs: number, into: MergedInto): Promise<void> {
    const merges = counters.flatMap(({ key, limit, baseline, counted }) => {
      const merge = ruleOf(limit).merge(baseline, counted, nowMs, limit)
      return merge === undefined ? [] : [{ key, limit, merge }]
    })
    if (merges.length === 0) return
    await this.#redis.run(async client => {
      // In a Cluster the counters of each client have their own slot, and so their own marker. Without slots there is
      // one marker, which must not name a client: on the next attempt the first counter may be missing.
      const hasSlots = isCluster(client)
      const markerOf = ({ key }: typeof merges[number]) =>
        this.#keys.replayed(hasSlots ? key : undefined, `${this.#instance}:${id}`)
      const groups = groupedBy(merges, markerOf)
      const { hasBaselines } = into
      const epoch = hasSlots ? '' : into.epoch
      const epochKey = hasSlots ? [] : [this.#keys.epoch]
      await merge.script.runAll(client, [...groups].map(([marker, counters]) => ({
        keys: [marker, ...counters.map(({ key }) => key), ...epochKey],
        args: merge.args({ keptMs, epoch, hasBaselines, counters, nowMs })
      })))
    })
  }

  /**
   * Restores counters after Redis has lost all of its data; not in a Cluster. For each counter, the largest baseline of
   * all instances counts once, however often the instances send theirs.
   *
   * @param nowMs  now, by the clock of the counters
   * @param epoch  as Redis reported it after the loss
   * @throws StoreUnavailableError  of kind `lost`, if Redis has lost its data again
   */
  async restore (baselines: readonly CounterBaseline[], nowMs: number, epoch: string): Promise<void> {
    const counters = baselines.flatMap(({ key, limit, baseline }) => {
      const merge = ruleOf(limit).merge(baseline, baseline, nowMs, limit)
      return merge === undefined ? [] : [{ key, limit, baseline: merge.counted }]
    })
    if (counters.length === 0) return
    const keys = counters.flatMap(({ key }) => [key, this.#keys.restored(key)])
    await this.#redis.run(async client => {
      await restore.script.run(client, [...keys, this.#keys.epoch], restore.args({ epoch, counters, nowMs }))
    })
  }

  async #answer (hits: readonly Hit[]): Promise<readonly Taken[] | UnansweredByRedis> {
    try {
      return await this.#decide(hits)
    } catch (error) {
      const failure = this.#redis.report(error)
      // The call has not run if it found that Redis has lost its data.
      const mayHaveRun = failure instanceof SentError && failure.kind !== 'lost'
      return { kind: 'unanswered', failure, sentIn: mayHaveRun ? failure.sentIn : undefined }
    }
  }

  /** Decides hits in their order. Atomic over all hits; in a Cluster over the hits of each client. */
  async #decide (hits: readonly Hit[]): Promise<readonly Taken[]> {
    return await this.#sequence.run(this.#redis, async (client, sent) => {
      if (isCluster(client)) return await this.#takeByClient(client, hits)
      const reply = await sent.send(client, take.script, { keys: this.#keysOfHits(hits), args: take.args({ hits }) })
      return take.read(reply, { hits, number: sent.number })
    })
  }

  /** In a Cluster each client's counters lie in one slot, so each client gets its own call. All are sent at once. */
  async #takeByClient (client: RedisClient, hits: readonly Hit[]): Promise<readonly Taken[]> {
    const groups = [...groupedBy(hits, ({ clientKey }) => clientKey).values()]
    const replies = await take.script.runAll(client, groups.map(hits => ({
      keys: this.#keysOfHits(hits), args: [0, ...take.args({ hits })]
    })))
    const takenOf = new Map<Hit, Taken>()
    for (const [i, hits] of groups.entries()) {
      for (const [at, taken] of take.read(replies[i], { hits }).entries()) {
        // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- one answer for each hit, in their order
        takenOf.set(hits[at]!, taken)
      }
    }
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- each hit is in a group
    return hits.map(hit => takenOf.get(hit)!)
  }

  #keysOfHits (hits: readonly Hit[]): readonly string[] {
    const keys: string[] = []
    // Loops, not flatMap, since this runs for each hit.
    for (const hit of hits) for (const check of hit.checks) keys.push(this.#keys.counter(hit, check))
    return keys
  }

  #keysOf (owner: Owner, checks: readonly Check[]): readonly string[] {
    return checks.map(check => this.#keys.counter(owner, check))
  }
}

function groupedBy<T> (items: readonly T[], nameOf: (item: T) => string): Map<string, readonly T[]> {
  const groups = new Map<string, T[]>()
  for (const item of items) {
    const group = groups.get(nameOf(item))
    if (group === undefined) groups.set(nameOf(item), [item])
    else group.push(item)
  }
  return groups
}
