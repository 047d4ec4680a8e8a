/** The block list in Redis: a hash of all blocks, and a stream of the last changes. */
import type { GuardedRedis } from '../redis/breaker.js'
import { type RedisClient, Script } from '../redis/script.js'
import { type Network, networkOf, parseAddress, parseNetwork } from '../rules/address.js'
import type { Keys } from './keys.js'
import type { Block, BlockOperation, BlockRequest } from './store.js'

const block = new Script('block')
const unblock = new Script('unblock')
const blockChanges = new Script('block-changes')

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

export class RedisBlocks {
  readonly #redis: GuardedRedis
  readonly #keys: Keys

  constructor (redis: GuardedRedis, keys: Keys) {
    this.#redis = redis
    this.#keys = keys
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

  async all (): Promise<readonly Block[]> {
    const all: Block[] = []
    for await (const page of this.pages()) all.push(...page)
    const nowMs = await this.#redis.run(timeOf)
    return all.filter(({ expiresAtMs }) => expiresAtMs > nowMs).sort((a, b) => a.ip < b.ip ? -1 : 1)
  }

  /**
   * All blocks, some of which may have run out, a page per round trip. What
   * changes meanwhile may be missing; a block may come twice.
   */
  async * pages (): AsyncGenerator<readonly Block[]> {
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
  async changes (cursor = atEnd): Promise<BlockChanges> {
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

  /** Blocks and lifts what was blocked and lifted elsewhere, save where something later has happened here. */
  async apply (operations: readonly BlockOperation[], nowMs: number): Promise<void> {
    await this.#redis.run(async client => await Promise.all(operations.map(async operation => {
      const agoMs = Math.max(1, nowMs - operation.atMs)
      if ('block' in operation) await this.#block(client, operation.block, agoMs)
      else await this.#unblock(client, operation.unblock, agoMs)
    })))
  }

  /** How many blocks there are; some may have run out. */
  async count (): Promise<number> {
    return await this.#redis.run(async client => await client.hlen(this.#keys.blocks))
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

/** Entries read at a time. */
export const pageLength = 500

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
