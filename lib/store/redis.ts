/**
 * The store that all instances share. Each decision is one Lua script on
 * Redis' own clock; see store/keys.ts for what lies there.
 */
import { randomUUID } from 'node:crypto'
import type { GuardedRedis } from '../redis/breaker.js'
import type { Ticket } from '../redis/batch.js'
import { isCluster, type RedisClient, Script, type ScriptCall } from '../redis/script.js'
import { StoreUnavailableError } from '../errors.js'
import { type Network, networkOf, parseAddress, parseNetwork } from '../rules/address.js'
import { carryOf } from '../rules/carry.js'
import { algorithms, excesses } from '../rules/rate-limit.js'
import type { Keys } from './keys.js'
import { Numbers } from './numbers.js'
import { RedisValues } from './redis-values.js'
import type { Block, BlockOperation, BlockRequest, CountedHere, EventBatch, Fence, Hit, NamedCheck, Peeked, RateLimitEvent, Refund, Refusals, Store, Suspect, Taken } from './store.js'

const take = new Script('take')
const countRefusals = new Script('count-refusals')
const block = new Script('block')
const unblock = new Script('unblock')
const blockChanges = new Script('block-changes')
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

/** One change of the block list, as the stream of changes tells it. */
export interface BlockChange {
  readonly ip: string
  /** undefined: the block was lifted */
  readonly block: Block | undefined
}

export interface BlockChanges {
  /** Redis' clock, ms since 1970 */
  readonly nowMs: number
  /** where to go on from */
  readonly cursor: BlockCursor
  readonly changes: readonly BlockChange[]
  /** the changes do not follow on the cursor: some are gone, or the whole list is another one */
  readonly missed: boolean
  /** empty: there is none yet */
  readonly epoch: string
}

export interface BlockCursor {
  readonly id: string
  readonly sequence: number
}

/** Behind every change: asks only for where the stream stands. */
const atEnd: BlockCursor = { id: '18446744073709551615-18446744073709551615', sequence: -1 }

/** See store.ts for what its methods do; each of them is one round trip, unless it says pages. */
export class RedisStore implements Store {
  readonly values: RedisValues
  readonly #redis: GuardedRedis
  readonly #keys: Keys
  readonly #maxEvents: number
  readonly #instance: string
  readonly #numbers: Numbers
  #lastEvents = 0

  constructor (redis: GuardedRedis, { keys, maxEvents, instance }: RedisStoreOptions) {
    this.#redis = redis
    this.#keys = keys
    this.#maxEvents = maxEvents
    this.#instance = instance
    this.#numbers = new Numbers(keys.batch(instance))
    this.values = new RedisValues(redis, { keys, numbers: this.#numbers, instance, keptMs })
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
      const [told] = await Promise.all([heartbeat.run(client, keys, [this.#instance, isUpToDate ? 1 : 0, aliveMs, randomUUID(), sinceMs]), client.pexpire(this.#numbers.key, keptMs)])
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

  /** Blocks and lifts what was blocked and lifted elsewhere, save where something later has happened here. */
  async changeBlocks (operations: readonly BlockOperation[], nowMs: number): Promise<void> {
    await this.#redis.run(async client => await Promise.all(operations.map(async operation => {
      const agoMs = Math.max(1, nowMs - operation.atMs)
      if ('block' in operation) await this.#block(client, operation.block, agoMs)
      else await this.#unblock(client, operation.unblock, agoMs)
    })))
  }

  /** How many blocks there are; some may have run out. */
  async blockCount (): Promise<number> {
    return await this.#redis.run(async client => await client.hlen(this.#keys.blocks))
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
      return [algorithms.indexOf(limit.algorithm) + 1, excesses.indexOf(limit.excess), limit.windowMs, fits ? cost : 0, state.atMs]
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
    const { ip, durationMs, reason, origin } = request
    const blockedAtMs = await this.#redis.run(async client => await this.#block(client, request, 0))
    return { ip, reason, origin, blockedAtMs, expiresAtMs: blockedAtMs + durationMs }
  }

  async unblock (ip: string): Promise<boolean> {
    return await this.#redis.run(async client => await this.#unblock(client, ip, 0))
  }

  async isBlocked (address: string): Promise<boolean> {
    const candidates = networksAround(address)
    const [found, nowMs] = await this.#redis.run(async client => {
      return await Promise.all([client.hmget(this.#keys.blocks, ...candidates), timeOf(client)])
    })
    return found.some((json, i) => json !== null && (parseBlock(candidates[i]!, json)?.expiresAtMs ?? 0) > nowMs)
  }

  async blocks (): Promise<readonly Block[]> {
    const all: Block[] = []
    for await (const page of this.blockPages()) all.push(...page)
    const nowMs = await this.#redis.run(timeOf)
    return all.filter(({ expiresAtMs }) => expiresAtMs > nowMs).sort((a, b) => a.ip < b.ip ? -1 : 1)
  }

  /**
   * All blocks, some of which may have run out, a page per round trip. What
   * changes meanwhile may be missing; a block may come twice.
   */
  async * blockPages (): AsyncGenerator<readonly Block[]> {
    let cursor = '0'
    do {
      const [next, flat] = await this.#redis.run(async client => await client.hscan(this.#keys.blocks, cursor, 'COUNT', pageLength))
      const page: Block[] = []
      for (let i = 0; i < flat.length; i += 2) {
        const block = parseBlock(flat[i]!, flat[i + 1]!)
        if (block !== undefined) page.push(block)
      }
      yield page
      cursor = next
    } while (cursor !== '0')
  }

  /**
   * What has changed in the block list since `cursor`.
   *
   * @param cursor  undefined: nothing is known yet, so everything was missed
   */
  async blockChanges (cursor = atEnd): Promise<BlockChanges> {
    const { id, sequence } = cursor
    const keys = [this.#keys.blockChanges, this.#keys.blockSequence, this.#keys.epoch]
    const reply = await this.#redis.run(async client => await blockChanges.run(client, keys, [id, pageLength]))
    const [clock, last, lastId, entries, epoch] = reply as [number, number, string, [id: string, fields: string[]][], string]
    // A user's client may be set to answer numbers as texts.
    const [nowMs, lastSequence] = [Number(clock), Number(last)]
    const numbers = entries.map(([, fields]) => Number(fields[1]))
    const follows = numbers.every((number, i) => number === sequence + 1 + i)
    const complete = entries.length === pageLength || sequence + entries.length === lastSequence
    if (!follows || !complete) return { nowMs, cursor: { id: lastId, sequence: lastSequence }, changes: [], missed: true, epoch }
    const changes = entries.flatMap(([, [, , , ip, , json]]) => readChange(ip!, json!))
    return {
      nowMs,
      cursor: { id: entries.at(-1)?.[0] ?? id, sequence: sequence + entries.length },
      changes,
      missed: false,
      epoch
    }
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

  async #block (client: RedisClient, { ip, durationMs, reason, origin }: BlockRequest, agoMs: number): Promise<number> {
    const args = [ip, durationMs === Infinity ? '' : durationMs, reason, origin, maxChanges, agoMs]
    return Number(await block.run(client, this.#blockKeys(), args))
  }

  async #unblock (client: RedisClient, ip: string, agoMs: number): Promise<boolean> {
    return Number(await unblock.run(client, this.#blockKeys(), [ip, maxChanges, agoMs])) === 1
  }

  #blockKeys (): readonly string[] {
    return [this.#keys.blocks, this.#keys.blockExpiry, this.#keys.blockChanges, this.#keys.blockSequence, this.#keys.blocksLifted]
  }
}

/** What take.lua returns. @throws for any other reply: nobody is refused by accident */
function readTaken (reply: unknown, hits: readonly Hit[]): readonly Taken[] {
  const values: readonly unknown[] = Array.isArray(reply) ? reply : []
  let at = 0
  const next = () => {
    // A user's client may be set to answer numbers as texts.
    const value = Number(values[at++])
    if (!Number.isSafeInteger(value)) throw unreadable()
    return value
  }
  const nowMs = next()
  const taken = hits.map(({ checks }): Taken => {
    let accepted = true
    const outcomes = checks.map(({ limit, shadow }) => {
      const told = next()
      const fits = told >= 0
      accepted &&= fits || shadow === true
      const used = fits ? told : -1 - told
      const atMs = nowMs + next()
      return { fits, state: { used, previous: limit.algorithm === 'sliding-window' ? next() : 0, atMs } }
    })
    return { accepted, nowMs, outcomes }
  })
  if (at !== values.length) throw unreadable()
  return taken
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

/** Entries read at a time. */
const pageLength = 500

/** An instance that was away for more changes than this loads the whole list. */
const maxChanges = 10_000

/** @returns nothing for what is no change, as if it had not been written */
function readChange (ip: string, json: string): readonly BlockChange[] {
  if (json === '') return parseNetwork(ip)?.text === ip ? [{ ip, block: undefined }] : []
  const block = parseBlock(ip, json)
  return block === undefined ? [] : [{ ip, block }]
}

/** @returns undefined for what is no block: somebody else's entry is not to hide the others */
function parseBlock (ip: string, json: string): Block | undefined {
  try {
    const { reason, origin, blockedAtMs, expiresAtMs = Infinity } = JSON.parse(json) as Omit<Block, 'expiresAtMs'> & { expiresAtMs?: number }
    return parseNetwork(ip)?.text === ip && typeof expiresAtMs === 'number' ? { ip, reason, origin, blockedAtMs, expiresAtMs } : undefined
  } catch {
    return undefined
  }
}

async function timeOf (client: RedisClient): Promise<number> {
  const [seconds, microseconds] = (await client.time()).map(Number) as [number, number]
  return seconds * 1000 + Math.floor(microseconds / 1000)
}

/** The address, and every range that it lies in. */
function networksAround (address: string): string[] {
  const parts = parseAddress(address)!
  const bits = parts.length === 1 ? 32 : 128
  const networks: Network[] = []
  for (let prefixLength = bits; prefixLength >= 0; prefixLength--) networks.push(networkOf(parts, prefixLength))
  return networks.map(({ text }) => text)
}
