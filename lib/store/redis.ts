/**
 * The store that all instances share. Each decision is one Lua script on
 * Redis' own clock; see store/keys.ts for what lies there.
 */
import { randomUUID } from 'node:crypto'
import type { GuardedRedis } from '../redis/breaker.js'
import type { Ticket } from '../redis/batch.js'
import { isCluster, type RedisClient, Script, type ScriptCall } from '../redis/script.js'
import { StoreUnavailableError } from '../errors.js'
import { carryOf } from '../rules/carry.js'
import { type Algorithm, algorithms, excesses, type Limit } from '../rules/rate-limit.js'
import type { Keys } from './keys.js'
import { Numbers } from './numbers.js'
import { pageLength, RedisBlocks } from './redis-blocks.js'
import { RedisValues } from './redis-values.js'
import type { Block, BlockRequest, CountedHere, EventBatch, Fence, Hit, NamedCheck, Peeked, RateLimitEvent, Refund, Refusals, Store, Suspect, Taken } from './store.js'

const take = new Script('take')
const countRefusals = new Script('count-refusals')
const carry = new Script('carry')
const fence = new Script('fence')
const heartbeat = new Script('heartbeat')
const peek = new Script('peek')
const refund = new Script('refund')
const logEvents = new Script('log-events')
const clearEvents = new Script('clear-events')

export interface RedisStoreOptions {
  readonly keys: Keys
  readonly maxEvents: number
  /** tells this instance from all others; a text without braces */
  readonly instance: string
  /** tells the application that instances are of, which are counted once; default: the instance */
  readonly application?: string
}

/** What a Redis that is back has of the data that it had. */
const keptOfData = ['all', 'a part', 'nothing'] as const
export type Kept = typeof keptOfData[number]

/** What `heartbeat` tells. */
export interface Heartbeat {
  /** another one than before: Redis has lost its data */
  readonly epoch: string
  /** that are alive, this one among them */
  readonly instances: number
  /** of them, those that have said so since a moment that was asked for */
  readonly since: number
  /** Redis' clock, ms since 1970 */
  readonly nowMs: number
}

/** See store.ts for what its methods do; each of them is one round trip, unless it says pages. */
export class RedisStore implements Store {
  readonly values: RedisValues
  readonly blockList: RedisBlocks
  readonly #redis: GuardedRedis
  readonly #keys: Keys
  readonly #maxEvents: number
  readonly #instance: string
  readonly #application: string
  readonly #numbers: Numbers
  #lastEvents = 0

  constructor (redis: GuardedRedis, { keys, maxEvents, instance, application = instance }: RedisStoreOptions) {
    this.#redis = redis
    this.#keys = keys
    this.#maxEvents = maxEvents
    this.#instance = instance
    this.#application = application
    this.#numbers = new Numbers(keys.batch(instance))
    this.values = new RedisValues(redis, { keys, numbers: this.#numbers, instance, keptMs })
    this.blockList = new RedisBlocks(redis, keys)
  }

  /** @param ticket  to number the batch, so that `fence` tells whether it ran; in a Cluster there are no numbers */
  async take (hits: readonly Hit[], ticket?: Ticket): Promise<readonly Taken[]> {
    return await this.#redis.run(async client => isCluster(client) ? await this.#takeByClient(client, hits) : await this.#takeBatch(client, hits, ticket))
  }

  /**
   * Sees to it that batches which were sent and have not run yet never will.
   *
   * @returns `noNumbers` in a Cluster
   */
  async fence (): Promise<Fence> {
    return await this.#redis.run(async client => {
      if (isCluster(client)) return noNumbers
      const next = this.#numbers.leap()
      const last = Number(await fence.run(client, [this.#numbers.key, this.#keys.fence(this.#instance)], [next, keptMs]))
      this.#numbers.goOnFrom(next)
      return { last, next }
    })
  }

  /**
   * Says that this instance is alive.
   *
   * @param isUpToDate  Redis has been told all that this instance knows; else it is not among those that are counted
   * @param sinceMs     a moment by Redis' clock, ms since 1970
   */
  async heartbeat (isUpToDate: boolean, sinceMs: number): Promise<Heartbeat> {
    const keys = [this.#keys.instances, this.#keys.epoch]
    const reply = await this.#redis.run(async client => {
      const [told] = await Promise.all([heartbeat.run(client, keys, [this.#application, isUpToDate ? 1 : 0, aliveMs, randomUUID(), sinceMs]), client.pexpire(this.#numbers.key, keptMs)])
      return told
    })
    const [epoch, ...numbers] = reply as [string, number, number, number]
    // A user's client may be set to answer numbers as texts.
    const [instances, since, nowMs] = numbers.map(Number) as [number, number, number]
    return { epoch, instances, since, nowMs }
  }

  /**
   * Adds what was counted elsewhere; once for each id, however often it is sent.
   *
   * @param nowMs   of the clock that the counters are on
   * @param kept    of its data, since it told what is known
   */
  async carry (id: string, counters: readonly CountedHere[], nowMs: number, kept: Kept = 'all'): Promise<void> {
    const rows = counters.flatMap(({ key, limit, known, counted, isRestored }) => {
      const carried = carryOf(known, counted, nowMs, limit)
      if (carried === undefined) return []
      const { algorithm, max, windowMs, burst, excess } = limit
      const { known: before, used, previous, atMs } = carried
      return [{ key, args: [keptOfData.indexOf(isRestored ? 'all' : kept), algorithms.indexOf(algorithm) + 1, max, windowMs, burst, excesses.indexOf(excess), before.used, before.previous, used, previous, atMs - nowMs] }]
    })
    if (rows.length === 0) return
    await this.#redis.run(async client => {
      const markerOf = ({ key }: typeof rows[number]) => this.#keys.carried(key, `${this.#instance}:${id}`)
      // In a Cluster those of different clients lie in different slots; those of one client have one marker.
      const groups = isCluster(client) ? groupedBy(rows, markerOf) : [rows]
      await carry.runAll(client, groups.map(some => ({
        keys: [markerOf(some[0]!), ...some.flatMap(({ key }) => [key, this.#keys.known(key)])],
        args: [keptMs, ...some.flatMap(({ args }) => args)]
      })))
    })
  }

  /**
   * Adds refusals to the counters that they belong to; those of windows that are over are left out.
   *
   * @param ticket  to number the call, as for `take`
   */
  async countRefusals (refusals: readonly Refusals[], ticket: Ticket): Promise<void> {
    const keys = refusals.map(({ client, name, limit }) => this.#keys.limit(limit.algorithm, name, client))
    const args = refusals.map(({ windowEndsAtMs, count }) => [windowEndsAtMs, count])
    await this.#redis.run(async client => {
      // In a Cluster they lie in different slots.
      if (isCluster(client)) await countRefusals.runAll(client, keys.map((key, i) => ({ keys: [key], args: [0, ...args[i]!] })))
      else await countRefusals.run(client, [...keys, this.#numbers.key], this.#numbers.before(args.flat(), ticket))
    })
  }

  /**
   * Takes back a hit that is not to count after all.
   *
   * @param ticket  to number the call, as for `take`
   */
  async refund ({ hit, taken }: Refund, ticket: Ticket): Promise<void> {
    const keys = hit.checks.map(({ name, limit }) => this.#keys.limit(limit.algorithm, name, hit.key))
    const rows = hit.checks.flatMap(({ limit, cost }, i) => {
      const { fits, state } = taken.outcomes[i]!
      return [algorithms.indexOf(limit.algorithm) + 1, excesses.indexOf(limit.excess), limit.max, limit.windowMs, fits ? cost : 0, state.used, state.atMs]
    })
    await this.#redis.run(async client => {
      if (isCluster(client)) await refund.run(client, keys, [0, ...rows])
      else await refund.run(client, [...keys, this.#numbers.key], this.#numbers.before(rows, ticket))
    })
  }

  async forget (client: string, checks: readonly NamedCheck[]): Promise<boolean> {
    if (checks.length === 0) return false
    const keys = checks.map(({ name, limit }) => this.#keys.limit(limit.algorithm, name, client))
    return await this.#redis.run(async redis => await redis.del(...keys)) > 0
  }

  async peek (client: string, checks: readonly NamedCheck[]): Promise<Peeked> {
    const keys = checks.map(({ name, limit }) => this.#keys.limit(limit.algorithm, name, client))
    const args = checks.map(({ limit }) => algorithms.indexOf(limit.algorithm) + 1)
    const [clock, ...told] = await this.#redis.run(async redis => await peek.run(redis, keys, args)) as (string | number)[]
    const nowMs = Number(clock)
    return {
      nowMs,
      states: checks.map((_, i) => {
        const [used, previous, offsetMs] = told.slice(3 * i, 3 * i + 3)
        return used === '' ? undefined : { used: Number(used), previous: Number(previous), atMs: nowMs + Number(offsetMs) }
      })
    }
  }

  async get (key: string): Promise<string | null> {
    return (await this.values.get(key))?.text ?? null
  }

  async set (key: string, value: string, ttlMs = Infinity): Promise<void> {
    await this.values.change({ kind: 'set', key, atMs: 0, text: value, expiresAtMs: ttlMs }, 0)
  }

  async incr (key: string): Promise<number> {
    return Number((await this.values.change({ kind: 'incr', key, atMs: 0, by: 1 }, 0)).told!.text)
  }

  async expire (key: string, ttlMs: number): Promise<boolean> {
    return (await this.values.change({ kind: 'expire', key, atMs: 0, expiresAtMs: ttlMs }, 0)).existed
  }

  async del (key: string): Promise<boolean> {
    return (await this.values.change({ kind: 'del', key, atMs: 0 }, 0)).existed
  }

  async logEvents (events: readonly RateLimitEvent[]): Promise<void> {
    await this.writeEvents({ number: this.#lastEvents + 1, events })
  }

  /** Records events; once for each number, and only with rising ones, however often they are sent. */
  async writeEvents ({ number, events }: EventBatch): Promise<void> {
    if (events.length === 0) return
    this.#lastEvents = Math.max(this.#lastEvents, number)
    const args = [this.#maxEvents, number, keptMs, ...events.flatMap(event => {
      const suspect = event.type === 'limited' ? event.ip ?? '' : ''
      return [suspect, event.count, event.atMs, JSON.stringify(event)]
    })]
    await this.#redis.run(async client => await logEvents.run(client, [this.#keys.events, this.#keys.suspects, this.#keys.writer(this.#instance)], args))
  }

  async events (limit: number): Promise<readonly RateLimitEvent[]> {
    const entries = await this.#redis.run(async client => await client.xrevrange(this.#keys.events, '+', '-', 'COUNT', limit))
    return entries.map(([, fields]) => JSON.parse(fields.at(-1)!) as RateLimitEvent)
  }

  async clearEvents (olderThanMs: number): Promise<number> {
    let removed = 0
    let from = '-'
    let nowMs: number | '' = ''
    do {
      const args = [olderThanMs, from, pageLength, nowMs]
      const reply = await this.#redis.run(async client => await clearEvents.run(client, [this.#keys.events, this.#keys.suspects], args))
      const [removedHere, next, moment] = reply as [number, string, number]
      removed += Number(removedHere)
      from = next
      nowMs = moment
    } while (from !== '')
    return removed
  }

  async suspects (limit: number): Promise<readonly Suspect[]> {
    const reply: readonly unknown[] = await this.#redis.run(async client => await client.zrevrange(this.#keys.suspects, 0, limit - 1, 'WITHSCORES'))
    // Pairs in RESP3, one flat list in RESP2.
    const flat = reply.flat() as readonly (string | number)[]
    return Array.from({ length: flat.length / 2 }, (_, i) => ({ ip: String(flat[2 * i]), count: Number(flat[2 * i + 1]) }))
  }

  async block (request: BlockRequest): Promise<Block> {
    return await this.blockList.block(request)
  }

  async unblock (ip: string): Promise<boolean> {
    return await this.blockList.unblock(ip)
  }

  async isBlocked (address: string): Promise<boolean> {
    return await this.blockList.isBlocked(address)
  }

  async blocks (): Promise<readonly Block[]> {
    return await this.blockList.all()
  }

  /** In a Cluster the counters of different clients lie in different slots: a script call for each client, all sent at once. */
  async #takeByClient (client: RedisClient, hits: readonly Hit[]): Promise<readonly Taken[]> {
    const groups = groupedBy(hits, ({ key }) => key)
    const replies = await take.runAll(client, groups.map(ofKey => this.#takeCall(ofKey)))
    const taken = new Map(groups.map((ofKey, i) => [ofKey[0]!.key, readTaken(replies[i], ofKey).values()]))
    return hits.map(({ key }) => taken.get(key)!.next().value!)
  }

  async #takeBatch (client: RedisClient, hits: readonly Hit[], ticket: Ticket | undefined): Promise<readonly Taken[]> {
    const { keys, args } = this.#takeCall(hits)
    if (ticket === undefined) return readTaken(await take.run(client, keys, args), hits)
    return readTaken(await take.run(client, [...keys, this.#numbers.key], this.#numbers.before(args.slice(1), ticket)), hits)
  }

  #takeCall (hits: readonly Hit[]): ScriptCall {
    const keys: string[] = []
    const shapes = new Map<readonly NamedCheck[], number>()
    const described: number[] = []
    const runs: number[] = []
    for (const { key, checks } of hits) {
      for (const { name, limit } of checks) keys.push(this.#keys.limit(limit.algorithm, name, key))
      let shape = shapes.get(checks)
      if (shape === undefined) {
        shapes.set(checks, shape = shapes.size + 1)
        described.push(checks.length)
        for (const { limit, cost, shadow } of checks) {
          described.push(algorithms.indexOf(limit.algorithm) + 1, limit.max, limit.windowMs, limit.burst, excesses.indexOf(limit.excess), cost, shadow === true ? 1 : 0)
        }
      }
      if (runs.at(-2) === shape) runs[runs.length - 1]!++
      else runs.push(shape, 1)
    }
    return { keys, args: [0, shapes.size, ...described, ...runs] }
  }
}

/** What take.lua returns. @throws for any other reply: nobody is refused by accident */
function readTaken (reply: unknown, hits: readonly Hit[]): readonly Taken[] {
  const values: readonly unknown[] = Array.isArray(reply) ? reply : []
  let at = 0
  const next = () => whole(values[at++])
  const listed = (): readonly [number, number] => {
    const value = values[at]
    if (!Array.isArray(value)) return [next(), 0]
    at++
    return [whole(value[0]), whole(value[1])]
  }
  const nowMs = next()
  const taken = hits.map(({ checks }): Taken => {
    let accepted = true
    const outcomes = checks.map(({ limit, shadow }) => {
      const told = next()
      const fits = told >= 0
      accepted &&= fits || shadow === true
      const used = fits ? told : -1 - told
      const [offsetMs, refused] = listed()
      const previous = previousOf[limit.algorithm](limit, refused, next)
      return { fits, state: { used, previous, atMs: nowMs + offsetMs } }
    })
    return { accepted, nowMs, outcomes }
  })
  if (at !== values.length) throw unreadable()
  return taken
}

/** Where the reply has `previous` of a state: behind the offset, in a list with it, or nowhere, since it is known. */
const previousOf: Readonly<Record<Algorithm, (limit: Limit, refused: number, next: () => number) => number>> = {
  'fixed-window': (limit, refused) => refused,
  'sliding-window': (limit, refused, next) => next(),
  gcra: ({ max }) => max
}

function whole (value: unknown): number {
  // A user's client may be set to answer numbers as texts.
  const number = Number(value)
  if (!Number.isSafeInteger(number)) throw unreadable()
  return number
}

function groupedBy<T> (items: readonly T[], nameOf: (item: T) => string): (readonly T[])[] {
  const groups = new Map<string, T[]>()
  for (const item of items) {
    const group = groups.get(nameOf(item))
    if (group === undefined) groups.set(nameOf(item), [item])
    else group.push(item)
  }
  return [...groups.values()]
}

function unreadable (): StoreUnavailableError {
  return new StoreUnavailableError('reply', 'Redis answered a script with something else than the numbers it returns')
}

/** In a Cluster batches have no numbers: whether one ran cannot be told. */
export const noNumbers: Fence = { last: 0, next: 0 }

/** ms that Redis keeps what it knows of an instance that is gone; an outage may be as long. */
const keptMs = 86_400_000

/** ms since the last heartbeat; one a second is sent. */
export const aliveMs = 5000
