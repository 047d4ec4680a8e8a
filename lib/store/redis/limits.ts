/** The counters of clients in Redis. Each decision is one Lua script on Redis' own clock. */
import type { StoreUnavailableError } from '../../errors.js'
import type { GuardedRedis } from '../../redis/breaker.js'
import { isCluster, type RedisClient } from '../../redis/script.js'
import { ruleOf } from '../../rules/algorithms.js'
import type { Check } from '../../rules/rate-limit.js'
import type { Keys } from '../keys.js'
import type {
  LocalCounter, Hit, LimitStore, Owner, Peeked, Refusals, Taken, Unanswered
} from '../limit-store.js'
import { Batch } from './batch.js'
import { countRefusals, forget, merge, peek, refund, take } from './encodings/limits.js'
import { keptMs, SentError, type Sequence } from './sequence.js'

export interface RedisLimitsOptions {
  readonly keys: Keys
  readonly sequence: Sequence
  /** tells this instance from all others; a text without braces */
  readonly instance: string
}

/** A hit that was not answered, and why. */
export interface UnansweredByRedis extends Unanswered {
  readonly failure: StoreUnavailableError
}

/** What Redis answers to a hit. */
export type RedisAnswer = Taken | UnansweredByRedis

/** Each method is one round trip; in a Cluster one for each node. Hits of one turn of the event loop share theirs. */
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

  /** @returns undefined: the hit is always answered later */
  take (hit: Hit): undefined {
    this.#batch.add(hit)
  }

  async peek (client: string, checks: readonly Check[]): Promise<readonly Peeked[]> {
    const keys = this.#keysOf({ key: client }, checks)
    return await this.#redis.run(async redis =>
      peek.read(await peek.script.run(redis, keys, peek.args(checks)), checks))
  }

  /** @throws SentError  see Sequence */
  async forget (client: string, checks: readonly Check[]): Promise<boolean> {
    if (checks.length === 0) return false
    const call = { keys: this.#keysOf({ key: client }, checks), args: forget.args(checks) }
    return await this.#sequence.run(this.#redis, async (client, sent) =>
      forget.read(await sent.send(client, forget.script, call), checks) > 0)
  }

  /** @throws SentError  see Sequence */
  async refund (owner: Owner, taken: Taken): Promise<void> {
    const keys = taken.outcomes.map(({ check }) => this.#keys.counter(owner, check))
    const call = { keys, args: refund.args(taken) }
    await this.#sequence.run(this.#redis, async (client, sent) => await sent.send(client, refund.script, call))
  }

  /**
   * Adds refusals to the counters that they belong to; those of windows that are over are left out.
   *
   * @throws SentError  see Sequence
   */
  async countRefusals (refusals: readonly Refusals[]): Promise<void> {
    const { script } = countRefusals
    const callOf = (some: readonly Refusals[]) => ({
      keys: some.map(({ client, ...of }) => this.#keys.counter({ key: client }, of)),
      args: countRefusals.args(some)
    })
    await this.#sequence.run(this.#redis, async (client, sent) => {
      if (!isCluster(client)) return await sent.send(client, script, callOf(refusals))
      // The counters lie in different slots.
      const calls = refusals.map(one => callOf([one]))
      return await script.runAll(client, calls.map(({ keys, args }) => ({ keys, args: [0, ...args] })))
    })
  }

  /**
   * Adds what was counted elsewhere; once for each id, however often it is sent.
   *
   * @param id        of these counters: no replay of events or values may have it, too
   * @param nowMs     of the clock that the counters are on
   * @param isIntact  batch numbers prove that Redis has lost nothing, so a counter that is lower than its baseline was
   *   given back or reset by another instance; otherwise the larger of the two counts
   */
  async merge (id: string, counters: readonly LocalCounter[], nowMs: number, isIntact: boolean): Promise<void> {
    const merges = counters.flatMap(({ key, limit, baseline, counted }) => {
      const merge = ruleOf(limit).merge(baseline, counted, nowMs, limit)
      return merge === undefined ? [] : [{ key, limit, merge }]
    })
    if (merges.length === 0) return
    await this.#redis.run(async client => {
      // In a Cluster those of different clients lie in different slots; those of one client have one marker. Elsewhere
      // the marker has no client's name: when these are sent again, the first of them may be missing.
      const hasSlots = isCluster(client)
      const markerOf = ({ key }: typeof merges[number]) =>
        this.#keys.replayed(hasSlots ? key : undefined, `${this.#instance}:${id}`)
      const groups = groupedBy(merges, markerOf)
      await merge.script.runAll(client, [...groups].map(([marker, counters]) => ({
        keys: [marker, ...counters.map(({ key }) => key)],
        args: merge.args({ keptMs, isIntact, counters, nowMs })
      })))
    })
  }

  async #answer (hits: readonly Hit[]): Promise<readonly Taken[] | UnansweredByRedis> {
    try {
      return await this.#decide(hits)
    } catch (error) {
      const failure = this.#redis.report(error)
      // What has found that Redis has lost its data has not run.
      const mayHaveRun = failure instanceof SentError && failure.kind !== 'lost'
      return { kind: 'unanswered', failure, sentIn: mayHaveRun ? failure.sentIn : undefined }
    }
  }

  /** Decides hits in their order. Atomic over the hits; in a Cluster over those of one client. */
  async #decide (hits: readonly Hit[]): Promise<readonly Taken[]> {
    return await this.#sequence.run(this.#redis, async (client, sent) => {
      if (isCluster(client)) return await this.#takeByClient(client, hits)
      const reply = await sent.send(client, take.script, { keys: this.#keysOfHits(hits), args: take.args({ hits }) })
      return take.read(reply, { hits, number: sent.number })
    })
  }

  /** The counters of different clients lie in different slots: a script call for each client, all sent at once. */
  async #takeByClient (client: RedisClient, hits: readonly Hit[]): Promise<readonly Taken[]> {
    const groups = [...groupedBy(hits, ({ key }) => key).values()]
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
    // Loops: this is done for each hit.
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
