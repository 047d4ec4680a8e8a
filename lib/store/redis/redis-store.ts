/**
 * The store that all instances share. Each decision is one Lua script on
 * Redis' own clock; see store/keys.ts for what lies there.
 */
import { randomUUID } from 'node:crypto'
import type { GuardedRedis } from '../../redis/breaker.js'
import type { Ticket } from './batch.js'
import { type Arguments, isCluster, type RedisClient, Script } from '../../redis/script.js'
import { parseNetwork } from '../../addresses/address.js'
import { ruleOf } from '../../rules/rate-limit.js'
import type { Keys } from '../keys.js'
import { Numbers } from './sequence.js'
import { asFailure, type OnForeign, OwnKeys } from './foreign-values.js'
import { pageLength, RedisBlocks } from './blocks.js'
import { RedisValues } from './values.js'
import { clockOf, listOf, parseJson, streamIdOf, textOf, unreadable, wholeOf } from './replies.js'
import type { CountedHere, Hit, NamedCheck, Peeked, Refund, Refusals, Taken } from '../limit-store.js'
import type { Block, BlockRequest } from '../block-store.js'
import type { RateLimitEvent, Suspect } from '../event-store.js'
import type { Store } from '../store.js'
import type { Fence } from './sequence.js'
import { countRefusals, forget, merge, peek, refund, take } from './encodings/limits.js'
import { scripts } from './lua/scripts.js'

const fence = new Script(scripts.fence)
const heartbeat = new Script(scripts.heartbeat)
const logEvents = new Script(scripts['log-events'])
const clearEvents = new Script(scripts['clear-events'])

export interface RedisStoreOptions {
  readonly keys: Keys
  readonly maxEvents: number
  /** tells this instance from all others; a text without braces */
  readonly instance: string
  /** tells the application that instances are of, which are counted once; default: the instance */
  readonly application?: string
  /** called for foreign values at the guard's own keys; default: a no-op */
  readonly onForeign?: OnForeign
}

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

/** See store/store.ts for what its methods do; each of them is one round trip, unless it says pages. */
export class RedisStore implements Store {
  readonly values: RedisValues
  readonly blockList: RedisBlocks
  readonly #redis: GuardedRedis
  readonly #ofBlocks: OwnKeys
  readonly #ofEvents: OwnKeys
  readonly #keys: Keys
  readonly #maxEvents: number
  readonly #instance: string
  readonly #application: string
  readonly #numbers: Numbers

  constructor (redis: GuardedRedis, options: RedisStoreOptions) {
    const { keys, maxEvents, instance, application = instance, onForeign = () => {} } = options
    this.#redis = redis
    this.#ofBlocks = new OwnKeys(redis, {
      [keys.blocks]: 'hash',
      [keys.blockExpiry]: 'zset',
      [keys.blockChanges]: 'stream',
      [keys.blockSequence]: 'number',
      [keys.blocksLifted]: 'zset',
      [keys.instances]: 'zset',
      [keys.epoch]: 'text'
    }, onForeign)
    this.#ofEvents = new OwnKeys(redis, {
      [keys.events]: 'stream',
      [keys.suspects]: 'zset'
    }, onForeign)
    this.#keys = keys
    this.#maxEvents = maxEvents
    this.#instance = instance
    this.#application = application
    this.#numbers = new Numbers(keys.batch(instance))
    this.values = new RedisValues(redis, { keys, numbers: this.#numbers, instance, keptMs })
    this.blockList = new RedisBlocks(this.#ofBlocks, keys)
  }

  /** @param ticket  to number the batch, so that `fence` tells whether it ran; in a Cluster there are no numbers */
  async take (hits: readonly Hit[], ticket?: Ticket): Promise<readonly Taken[]> {
    return await this.#runNumbered(async client =>
      isCluster(client) ? await this.#takeByClient(client, hits) : await this.#takeBatch(client, hits, ticket))
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
      const keys = [this.#numbers.key, this.#keys.fence(this.#instance)]
      const last = wholeOf(await fence.run(client, keys, [next, keptMs]), -1)
      // A number above `next` is foreign, but only batches with larger numbers run.
      const from = Math.max(next, last)
      this.#numbers.goOnFrom(from)
      return { last, next: from }
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
    const args = [this.#application, isUpToDate ? 1 : 0, aliveMs, randomUUID(), sinceMs]
    return await this.#ofBlocks.run(async client => {
      const [reply] = await Promise.all([heartbeat.run(client, keys, args), client.pexpire(this.#numbers.key, keptMs)])
      const [epoch, instances, since, nowMs] = listOf(reply, 4)
      return { epoch: textOf(epoch), instances: wholeOf(instances, 1), since: wholeOf(since), nowMs: clockOf(nowMs) }
    })
  }

  /**
   * Adds what was counted elsewhere; once for each id, however often it is sent.
   *
   * @param id      of these counters: no call of `values.carry` may have it, too
   * @param nowMs   of the clock that the counters are on
   * @param isIntact  batch numbers prove that Redis has lost nothing, so a counter that is lower than its baseline was
   *   given back or reset by another instance; otherwise the larger of the two counts
   */
  async carry (id: string, counters: readonly CountedHere[], nowMs: number, isIntact: boolean): Promise<void> {
    const merges = counters.flatMap(({ key, limit, known, counted }) => {
      const merge = ruleOf(limit).merge(known, counted, nowMs, limit)
      return merge === undefined ? [] : [{ key, limit, merge }]
    })
    if (merges.length === 0) return
    await asFailure(this.#redis.run(async client => {
      // In a Cluster those of different clients lie in different slots; those of one client have one marker. Elsewhere
      // the marker has no client's name: when these are sent again, the first of them may be missing.
      const hasSlots = isCluster(client)
      const markerOf = ({ key }: typeof merges[number]) =>
        this.#keys.carried(hasSlots ? key : undefined, `${this.#instance}:${id}`)
      const groups = hasSlots ? groupedBy(merges, markerOf) : [merges]
      await merge.script.runAll(client, groups.map(counters => ({
        keys: [markerOf(counters[0]!), ...counters.map(({ key }) => key)],
        args: merge.args({ keptMs, isIntact, counters, nowMs })
      })))
    }), 'reply')
  }

  /**
   * Adds refusals to the counters that they belong to; those of windows that are over are left out.
   *
   * @param ticket  to number the call, as for `take`
   */
  async countRefusals (refusals: readonly Refusals[], ticket: Ticket): Promise<void> {
    const keys = refusals.map(({ client, name, limit }) => this.#keys.limit(limit.algorithm, name, client))
    await this.#runNumbered(async client => {
      const { script } = countRefusals
      // In a Cluster they lie in different slots.
      if (isCluster(client)) {
        await script.runAll(client, refusals.map((one, i) => ({ keys: [keys[i]!], args: [0, ...countRefusals.args([one])] })))
      } else {
        await script.run(client, [...keys, this.#numbers.key], this.#numbers.before(countRefusals.args(refusals), ticket))
      }
    })
  }

  /**
   * Takes back a hit that is not to count after all.
   *
   * @param ticket  to number the call, as for `take`
   */
  async refund (given: Refund, ticket: Ticket): Promise<void> {
    const { hit } = given
    const keys = hit.checks.map(({ name, limit }) => this.#keys.limit(limit.algorithm, name, hit.key))
    await this.#runNumbered(async client => {
      if (isCluster(client)) await refund.script.run(client, keys, [0, ...refund.args(given)])
      else await refund.script.run(client, [...keys, this.#numbers.key], this.#numbers.before(refund.args(given), ticket))
    })
  }

  /** @param ticket  to number the call, as for `take` */
  async forget (client: string, checks: readonly NamedCheck[], ticket?: Ticket): Promise<boolean> {
    if (checks.length === 0) return false
    const keys = checks.map(({ name, limit }) => this.#keys.limit(limit.algorithm, name, client))
    return await this.#runNumbered(async redis => {
      const reply = ticket === undefined || isCluster(redis)
        ? await forget.script.run(redis, keys, [0])
        : await forget.script.run(redis, [...keys, this.#numbers.key], this.#numbers.before([], ticket))
      return forget.read(reply, checks)
    }) > 0
  }

  async peek (client: string, checks: readonly NamedCheck[]): Promise<Peeked> {
    const keys = checks.map(({ name, limit }) => this.#keys.limit(limit.algorithm, name, client))
    return await this.#redis.run(async redis => peek.read(await peek.script.run(redis, keys, peek.args(checks)), checks))
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

  /** @param ticket  to number the call, as for `take` */
  async logEvents (events: readonly RateLimitEvent[], ticket?: Ticket): Promise<void> {
    if (events.length === 0) return
    const keys = [this.#keys.events, this.#keys.suspects]
    const args = [0, this.#maxEvents, ...events.flatMap(rowOf)]
    await this.#ofEvents.run(async client => ticket === undefined || isCluster(client)
      ? await logEvents.run(client, keys, [0, ...args])
      : await logEvents.run(client, [...keys, this.#numbers.key], this.#numbers.before(args, ticket)))
  }

  /** Records events once for each id, however often they are sent. */
  async replayEvents (id: string, events: readonly RateLimitEvent[]): Promise<void> {
    const marker = this.#keys.carried(this.#keys.events, `${this.#instance}:${id}`)
    const keys = [this.#keys.events, this.#keys.suspects, marker]
    const args = [0, keptMs, this.#maxEvents, ...events.flatMap(rowOf)]
    await this.#ofEvents.run(async client => await logEvents.run(client, keys, args))
  }

  /** One page; more if there are foreign entries. */
  async events (limit: number): Promise<readonly RateLimitEvent[]> {
    const key = this.#keys.events
    const events: RateLimitEvent[] = []
    let from = '+'
    let isFirst = true
    for (;;) {
      // A later page begins with the last entry of the page before: Redis 6.0 cannot leave it out.
      const count = isFirst ? limit : pageLength
      const entries = await this.#ofEvents.run(async client =>
        readEntries(await client.xrevrange(key, from, '-', 'COUNT', count)))
      for (const { id, event } of entries) {
        if (!isFirst && id === from) continue
        if (event === undefined) this.#ofEvents.passedOver(key)
        else if (events.length < limit) events.push(event)
      }
      if (entries.length < count || events.length === limit) return events
      from = entries.at(-1)!.id
      isFirst = false
    }
  }

  async clearEvents (olderThanMs: number): Promise<number> {
    let removed = 0
    let from = '-'
    let nowMs: number | '' = ''
    do {
      const args: Arguments = [olderThanMs, from, pageLength, nowMs]
      const keys = [this.#keys.events, this.#keys.suspects]
      const page = await this.#ofEvents.run(async client => readCleared(await clearEvents.run(client, keys, args)))
      // A page that leads back to itself would come for ever.
      if (page.next === from) throw unreadable()
      removed += page.removed
      from = page.next
      nowMs = page.nowMs
    } while (from !== '')
    return removed
  }

  async suspects (limit: number): Promise<readonly Suspect[]> {
    const key = this.#keys.suspects
    const suspects: Suspect[] = []
    let from = 0
    for (;;) {
      const count = from === 0 ? limit : pageLength
      const page = await this.#ofEvents.run(async client =>
        readRanks(await client.zrevrange(key, from, from + count - 1, 'WITHSCORES')))
      for (const { ip, count } of page) {
        if (parseNetwork(ip)?.text !== ip || !Number.isSafeInteger(count)) this.#ofEvents.passedOver(key)
        else if (suspects.length < limit) suspects.push({ ip, count })
      }
      if (page.length < count || suspects.length === limit) return suspects
      from += count
    }
  }

  async block (request: BlockRequest): Promise<Block> {
    const [changed] = await this.blockList.change([{ atMs: 0, block: request }])
    if (changed!.standing === undefined) throw unreadable()
    return changed!.standing
  }

  async unblock (ip: string): Promise<boolean> {
    const [changed] = await this.blockList.change([{ atMs: 0, unblock: ip }])
    return changed!.wasBlocked
  }

  async isBlocked (address: string): Promise<boolean> {
    return await this.blockList.isBlocked(address)
  }

  async blocks (): Promise<readonly Block[]> {
    return await this.blockList.all()
  }

  /**
   * Runs a command on counters and on the number of this instance's batches. The scripts replace counters of a wrong
   * type. A number of a wrong type counts as lost data.
   */
  async #runNumbered<T> (command: (client: RedisClient) => Promise<T>): Promise<T> {
    return await asFailure(this.#redis.run(command), 'lost')
  }

  /** In a Cluster the counters of different clients lie in different slots: a script call for each client, all sent at once. */
  async #takeByClient (client: RedisClient, hits: readonly Hit[]): Promise<readonly Taken[]> {
    const groups = groupedBy(hits, ({ key }) => key)
    const replies = await take.script.runAll(client, groups.map(hits => ({
      keys: this.#keysOf(hits), args: [0, ...take.args({ hits })]
    })))
    const taken = new Map(groups.map((hits, i) => [hits[0]!.key, take.read(replies[i], { hits }).values()]))
    return hits.map(({ key }) => taken.get(key)!.next().value!)
  }

  async #takeBatch (client: RedisClient, hits: readonly Hit[], ticket: Ticket | undefined): Promise<readonly Taken[]> {
    const keys = this.#keysOf(hits)
    const args = take.args({ hits })
    if (ticket === undefined) return take.read(await take.script.run(client, keys, [0, ...args]), { hits })
    const reply = await take.script.run(client, [...keys, this.#numbers.key], this.#numbers.before(args, ticket))
    return take.read(reply, { hits, number: ticket.number })
  }

  #keysOf (hits: readonly Hit[]): readonly string[] {
    return hits.flatMap(({ key, counterKeys, checks }) => {
      return checks.map(({ name, limit }) => this.#keys.limit(limit.algorithm, name, counterKeys ?? key))
    })
  }
}

/** Reads the reply of clear-events.lua. */
function readCleared (reply: unknown): { readonly removed: number, readonly next: string, readonly nowMs: number } {
  const [count, id, clock] = listOf(reply, 3)
  const removed = wholeOf(count, 0, pageLength)
  return { removed, next: id === '' ? id : streamIdOf(id), nowMs: clockOf(clock) }
}

/** An event as log-events.lua takes it. */
function rowOf (event: RateLimitEvent): Arguments {
  return [event.type === 'limited' ? event.ip ?? '' : '', event.count, event.atMs, JSON.stringify(event)]
}

/** Reads entries of the stream of events; a foreign entry has an id and no event. */
function readEntries (reply: unknown): readonly { readonly id: string, readonly event: RateLimitEvent | undefined }[] {
  return listOf(reply).map(entry => {
    const [id, fields] = listOf(entry, 2)
    return { id: streamIdOf(id), event: parseEvent(listOf(fields).at(-1)) }
  })
}

function parseEvent (json: unknown): RateLimitEvent | undefined {
  const event = (parseJson(json) ?? {}) as Partial<Record<keyof RateLimitEvent, unknown>>
  const { type, count, atMs, ip, key, limit, method, route } = event
  const isEvent = (type === 'limited' || type === 'blocked') && [count, atMs].every(Number.isSafeInteger) &&
    [ip, key, limit, method, route].every(text => text === undefined || typeof text === 'string')
  return isEvent ? event as unknown as RateLimitEvent : undefined
}

/** Reads members and scores: pairs in RESP3, one flat list in RESP2. A foreign member may have any score. */
function readRanks (reply: unknown): readonly { readonly ip: string, readonly count: number }[] {
  const rows = listOf(reply)
  const pairs = Array.isArray(rows[0])
    ? rows
    : Array.from({ length: Math.ceil(rows.length / 2) }, (_, i) => rows.slice(2 * i, 2 * i + 2))
  return pairs.map(pair => {
    const [ip, score] = listOf(pair, 2)
    if (typeof score !== 'string' && typeof score !== 'number') throw unreadable()
    return { ip: textOf(ip), count: parseFloat(String(score)) }
  })
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

/** In a Cluster batches have no numbers: whether one ran cannot be told. */
export const noNumbers: Fence = { last: 0, next: 0 }

/** ms that Redis keeps what it knows of an instance that is gone; an outage may be as long. */
const keptMs = 86_400_000

/** ms since the last heartbeat; one a second is sent. */
export const aliveMs = 5000
