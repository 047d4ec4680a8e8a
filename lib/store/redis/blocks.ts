/** The block list in Redis: a hash of all blocks, and a stream of the last changes. */
import { lengthOf, type Network, networkOf, parseAddress } from '../../addresses/address.js'
import { StoreUnavailableError } from '../../errors.js'
import type { GuardedRedis } from '../../redis/breaker.js'
import type { RedisClient } from '../../redis/script.js'
import type { Block, BlockOperation, BlockStore } from '../block-store.js'
import type { Keys } from '../keys.js'
import {
  type AnnouncedBlock, blockChanges, changeBlocks, type ChangedBlock, isNetwork, parseBlock, type ReadChanges, readScan
} from './encodings/blocks.js'
import { type OnForeign, RepairingRedis } from './foreign-values.js'
import { clockOf, listOf, pageLength, textOf, wholeOf } from './replies.js'

/** One entry of the stream of changes. */
export interface BlockChange {
  /** address or CIDR range, canonical */
  readonly ip: string
  /** the block that stands; undefined: the address was unblocked */
  readonly block: Block | undefined
}

export interface BlockChanges {
  /** Redis' clock, ms since 1970 */
  readonly nowMs: number
  /** pass it to the next call of `changes` */
  readonly cursor: BlockCursor
  readonly changes: readonly BlockChange[]
  /** true: changes after the cursor are missing, or the list is another one, so the caller must load the whole list */
  readonly missed: boolean
  /** true: Redis lacks changes that it had at the cursor, so it came back with older data */
  readonly isBehind: boolean
  /** empty: Redis has no epoch yet */
  readonly epoch: string
}

/** A place in the stream of changes: id and number of the last change that was read. */
export interface BlockCursor {
  readonly id: string
  readonly sequence: number
}

/** A place behind every change. Asking from there returns only the end of the stream. */
const atEnd: BlockCursor = { id: '18446744073709551615-18446744073709551615', sequence: -1 }

/** Redis for the keys of the block list and for all other keys in its slot of a Cluster. */
export function redisOfBlocks (redis: GuardedRedis, keys: Keys, onForeign: OnForeign): RepairingRedis {
  return new RepairingRedis(redis, {
    [keys.blocks]: 'hash',
    [keys.blockExpiry]: 'zset',
    [keys.blockChanges]: 'stream',
    [keys.blockSequence]: 'number',
    [keys.blocksLifted]: 'zset',
    [keys.instances]: 'zset',
    [keys.epoch]: 'text'
  }, onForeign)
}

export class RedisBlocks implements Pick<BlockStore, 'isBlocked' | 'blocks'> {
  readonly #redis: RepairingRedis
  readonly #keys: Keys
  /** the last change that Redis reported while it was not behind */
  #seen = atEnd
  /** number of changes that this instance made since */
  #madeSince = 0

  constructor (redis: RepairingRedis, keys: Keys) {
    this.#redis = redis
    this.#keys = keys
  }

  /**
   * Makes changes now, in order, in one round trip. A call may hang and run after `promptUntilMs`. Then each operation
   * counts as of its own time, so that it does not undo later changes.
   *
   * @param aheadMs        the clock of the operations and of `promptUntilMs` minus the clock of Redis
   * @param promptUntilMs  if Redis runs the call by then, the operations count as of now
   */
  async change (
    operations: readonly BlockOperation[], aheadMs: number, promptUntilMs: number
  ): Promise<readonly ChangedBlock[]> {
    const changed = await this.#change(operations, aheadMs, promptUntilMs - aheadMs)
    this.#madeSince += changed.filter(({ isAnnounced }) => isAnnounced).length
    return changed
  }

  /** Whether `changes` has returned a change after this number. */
  hasSeenMore (sequence: number): boolean {
    return this.#seen.sequence > sequence
  }

  async isBlocked (address: string): Promise<boolean> {
    const candidates = networksAround(address)
    const { found, nowMs } = await this.#redis.run(async client => {
      const [replies, nowMs] = await Promise.all([client.hmget(this.#keys.blocks, ...candidates), timeOf(client)])
      const texts = listOf(replies, candidates.length)
      const found = candidates.map((ip, i) => ({ ip, json: texts[i] === null ? undefined : textOf(texts[i]) }))
      return { found, nowMs }
    })
    return found.some(({ ip, json }) => json !== undefined && (this.#blockOf(ip, json)?.expiresAtMs ?? 0) > nowMs)
  }

  async blocks (): Promise<readonly Block[]> {
    const all: Block[] = []
    for await (const page of this.pages()) all.push(...page)
    const nowMs = await this.#redis.run(timeOf)
    return all.filter(({ expiresAtMs }) => expiresAtMs > nowMs).sort((a, b) => a.ip < b.ip ? -1 : 1)
  }

  /**
   * All blocks, one page per round trip. Some may have expired. Changes made
   * meanwhile may be missing, and a block may come twice.
   *
   * @throws StoreUnavailableError  of kind `lost`, if a foreign value had replaced the list
   */
  async * pages (): AsyncGenerator<readonly Block[]> {
    let cursor = '0'
    const { deletions } = this.#redis
    do {
      const [next, entries] = await this.#redis.run(async client =>
        readScan(await client.hscan(this.#keys.blocks, cursor, 'COUNT', pageLength)))
      if (this.#redis.deletions !== deletions) throw new StoreUnavailableError('lost', 'Redis has lost its block list')
      yield entries.flatMap(([ip, json]) => this.#blockOf(ip, json) ?? [])
      cursor = next
    } while (cursor !== '0')
  }

  /**
   * The changes of the block list after a cursor.
   *
   * @param cursor  undefined: the caller knows no change yet; then `missed` is true
   */
  async changes (cursor = atEnd): Promise<BlockChanges> {
    const { id, sequence } = cursor
    const answer = await this.#changesAfter(id, pageLength)
    const { nowMs, lastSequence, lastId, entries, epoch } = answer
    // A foreign entry has no number, or not the next one. Then the caller loads the whole list.
    const follows = entries.every(([, fields], i) => Number(fields[1]) === sequence + 1 + i)
    const complete = entries.length === pageLength || sequence + entries.length === lastSequence
    if (!follows || !complete) {
      const last = { id: lastId, sequence: lastSequence }
      const isBehind = lacks(answer, sequence, sequence)
      if (!isBehind) this.#note(last)
      return { nowMs, cursor: last, changes: [], missed: true, isBehind, epoch }
    }
    const next = { id: entries.at(-1)?.[0] ?? id, sequence: sequence + entries.length }
    this.#note(next)
    const changes = entries.flatMap(([, [, , , ip, , json]]) => this.#changeOf(ip, json) ?? [])
    return { nowMs, cursor: next, changes, missed: false, isBehind: false, epoch }
  }

  /** Whether Redis lacks changes of the block list that it once had, so that it came back with older data. */
  async isBehind (): Promise<boolean> {
    const { id, sequence } = this.#seen
    return lacks(await this.#changesAfter(id, 1), sequence, sequence + this.#madeSince)
  }

  /**
   * Replays changes that were made without Redis, each as of its own time. If another instance has unblocked an address
   * since, it stays unblocked.
   *
   * @param aheadMs  the clock of the operations minus the clock of Redis; use one value for operations that must keep
   *   their order
   */
  async apply (operations: readonly BlockOperation[], aheadMs: number): Promise<void> {
    await this.#change(operations, aheadMs, 0)
  }

  /** The number of blocks, some of which may have expired. */
  async count (): Promise<number> {
    return await this.#redis.run(async client => wholeOf(await client.hlen(this.#keys.blocks)))
  }

  async #changesAfter (id: string, count: number): Promise<ReadChanges> {
    const keys = [this.#keys.blockChanges, this.#keys.blockSequence, this.#keys.epoch]
    return await this.#redis.run(async client =>
      blockChanges.read(await blockChanges.script.run(client, keys, blockChanges.args({ id, count })), { id, count }))
  }

  #note (seen: BlockCursor): void {
    this.#seen = seen
    this.#madeSince = 0
  }

  /** @param untilMs  `promptUntilMs` by Redis' clock; 0: each operation counts as of its own time */
  async #change (
    operations: readonly BlockOperation[], aheadMs: number, untilMs: number
  ): Promise<readonly AnnouncedBlock[]> {
    const { blocks, blockExpiry, blockChanges, blockSequence, blocksLifted } = this.#keys
    const keys = [blocks, blockExpiry, blockChanges, blockSequence, blocksLifted]
    const given = { operations, aheadMs, untilMs, maxChanges }
    return await this.#redis.run(async client =>
      changeBlocks.read(await changeBlocks.script.run(client, keys, changeBlocks.args(given)), given))
  }

  /** @returns undefined for a foreign entry, which is ignored so that the other blocks are still read */
  #blockOf (ip: string, json: string): Block | undefined {
    const block = parseBlock(ip, json)
    if (block === undefined) this.#redis.reportIgnored(this.#keys.blocks)
    return block
  }

  /** @returns undefined for a foreign entry, which is ignored */
  #changeOf (ip: string | undefined, json: string | undefined): BlockChange | undefined {
    const block = parseBlock(ip, json)
    if (block !== undefined) return { ip: block.ip, block }
    if (json === '' && isNetwork(ip)) return { ip, block: undefined }
    this.#redis.reportIgnored(this.#keys.blockChanges)
    return undefined
  }
}

/** The length of the stream. An instance that missed more changes loads the whole list. */
const maxChanges = 10_000

/**
 * Whether Redis lacks changes that it once had.
 *
 * @param answer   the changes after a known change
 * @param seen     number of that known change
 * @param atLeast  a number that Redis had reached
 */
function lacks ({ lastSequence, entries }: ReadChanges, seen: number, atLeast: number): boolean {
  return lastSequence < atLeast || entries.slice(0, 1).some(([, fields]) => Number(fields[1]) <= seen)
}

async function timeOf (client: RedisClient): Promise<number> {
  const [seconds, microseconds] = listOf(await client.time(), 2)
  return clockOf(wholeOf(seconds) * 1000 + Math.floor(wholeOf(microseconds) / 1000))
}

/** The address, and every range that it lies in. */
function networksAround (address: string): string[] {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- block-store.ts: callers pass canonical text
  const parsed = parseAddress(address)!
  const networks: Network[] = []
  for (let prefixLength = lengthOf(parsed.family); prefixLength >= 0; prefixLength--) {
    networks.push(networkOf(parsed, prefixLength))
  }
  return networks.map(({ text }) => text)
}
