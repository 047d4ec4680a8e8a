/** The counters of clients in Redis. Each decision is one Lua script on Redis' own clock. */
import type { GuardedRedis } from '../../redis/breaker.js'
import { isCluster, type RedisClient } from '../../redis/script.js'
import { ruleOf } from '../../rules/rate-limit.js'
import type { CounterKeys, Keys } from '../keys.js'
import type { CountedHere, Hit, LimitStore, NamedCheck, Peeked, Refund, Refusals, Taken } from '../limit-store.js'
import type { Ticket } from './batch.js'
import { countRefusals, forget, merge, peek, refund, take } from './encodings/limits.js'
import { keptMs, type Sequence } from './sequence.js'

export interface RedisLimitsOptions {
  readonly keys: Keys
  readonly sequence: Sequence
  /** tells this instance from all others; a text without braces */
  readonly instance: string
}

/**
 * Each method is one round trip; in a Cluster one for each node. A `ticket` notes the number of a call, so that a fence
 * tells whether it ran; in a Cluster there are no numbers.
 */
export class RedisLimits implements Pick<LimitStore, 'peek'> {
  readonly #redis: GuardedRedis
  readonly #keys: Keys
  readonly #sequence: Sequence
  readonly #instance: string

  constructor (redis: GuardedRedis, { keys, sequence, instance }: RedisLimitsOptions) {
    this.#redis = redis
    this.#keys = keys
    this.#sequence = sequence
    this.#instance = instance
  }

  /** Decides hits in their order. Atomic over the hits; in a Cluster over those of one client. */
  async take (hits: readonly Hit[], ticket: Ticket): Promise<readonly Taken[]> {
    return await this.#redis.run(async client => {
      if (isCluster(client)) return await this.#takeByClient(client, hits)
      const call = { keys: this.#keysOfHits(hits), args: take.args({ hits }) }
      const reply = await this.#sequence.run(client, take.script, call, ticket)
      return take.read(reply, { hits, number: ticket.number })
    })
  }

  async peek (client: string, checks: readonly NamedCheck[]): Promise<Peeked> {
    const keys = this.#keysOf(client, checks)
    return await this.#redis.run(async redis =>
      peek.read(await peek.script.run(redis, keys, peek.args(checks)), checks))
  }

  /** @returns whether there was a counter */
  async forget (client: string, checks: readonly NamedCheck[], ticket: Ticket): Promise<boolean> {
    if (checks.length === 0) return false
    const call = { keys: this.#keysOf(client, checks), args: forget.args(checks) }
    const reply = await this.#redis.run(async redis => await this.#sequence.run(redis, forget.script, call, ticket))
    return forget.read(reply, checks) > 0
  }

  /** Takes back a hit that is not to count after all. */
  async refund (given: Refund, ticket: Ticket): Promise<void> {
    const call = { keys: this.#keysOf(given.hit.key, given.hit.checks), args: refund.args(given) }
    await this.#redis.run(async client => await this.#sequence.run(client, refund.script, call, ticket))
  }

  /** Adds refusals to the counters that they belong to; those of windows that are over are left out. */
  async countRefusals (refusals: readonly Refusals[], ticket: Ticket): Promise<void> {
    const { script } = countRefusals
    const callOf = (some: readonly Refusals[]) => ({
      keys: some.map(({ client, name, limit }) => this.#keys.limit(limit.algorithm, name, client)),
      args: countRefusals.args(some)
    })
    await this.#redis.run(async client => {
      if (!isCluster(client)) return await this.#sequence.run(client, script, callOf(refusals), ticket)
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
  async merge (id: string, counters: readonly CountedHere[], nowMs: number, isIntact: boolean): Promise<void> {
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

  /** The counters of different clients lie in different slots: a script call for each client, all sent at once. */
  async #takeByClient (client: RedisClient, hits: readonly Hit[]): Promise<readonly Taken[]> {
    const groups = [...groupedBy(hits, ({ key }) => key).entries()]
    const replies = await take.script.runAll(client, groups.map(([, hits]) => ({
      keys: this.#keysOfHits(hits), args: [0, ...take.args({ hits })]
    })))
    const taken = new Map(groups.map(([key, hits], i) => [key, take.read(replies[i], { hits }).values()]))
    return hits.map(({ key }) => taken.get(key)!.next().value!)
  }

  #keysOfHits (hits: readonly Hit[]): readonly string[] {
    return hits.flatMap(({ key, counterKeys, checks }) => this.#keysOf(counterKeys ?? key, checks))
  }

  #keysOf (client: string | CounterKeys, checks: readonly NamedCheck[]): readonly string[] {
    return checks.map(({ name, limit }) => this.#keys.limit(limit.algorithm, name, client))
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
