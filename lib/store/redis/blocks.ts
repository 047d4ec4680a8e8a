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
import { type OnForeign, OwnKeys } from './foreign-values.js'
import { clockOf, listOf, pageLength, textOf, wholeOf } from './replies.js'

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
  /** Redis has other changes than the cursor's, or fewer: it came back with older data */
  readonly isBehind: boolean
  /** empty: there is none yet */
  readonly epoch: string
}

export interface BlockCursor {
  readonly id: string
  readonly sequence: number
}

/** Behind every change: asks only for where the stream stands. */
const atEnd: BlockCursor = { id: '18446744073709551615-18446744073709551615', sequence: -1 }

/** The keys of the block list, and of what else lies in its slot of a Cluster. */
export function ownKeysOfBlocks (redis: GuardedRedis, keys: Keys, onForeign: OnForeign): OwnKeys {
  return new OwnKeys(redis, {
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
  readonly #redis: OwnKeys
  readonly #keys: Keys
  /** the last change that Redis reported, unless it was behind by then */
  #seen = atEnd
  /** changes that were made from here since then */
  #madeSince = 0

  constructor (redis: OwnKeys, keys: Keys) {
    this.#redis = redis
    this.#keys = keys
  }

  /**
   * Does what is asked for now, in order; one round trip. A call that hangs, and runs after `promptUntilMs`, must not
   * undo what was done since: then each operation counts as of its own time.
   *
   * @param aheadMs        the clock of the operations and of `promptUntilMs` less that of Redis
   * @param promptUntilMs  until when the operations count as done now
   */
  async change (
    operations: readonly BlockOperation[], aheadMs: number, promptUntilMs: number
  ): Promise<readonly ChangedBlock[]> {
    const changed = await this.#change(operations, aheadMs, promptUntilMs - aheadMs)
    this.#madeSince += changed.filter(({ isAnnounced }) => isAnnounced).length
    return changed
  }

  /** Whether `changes` has returned a change after that one. */
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
   * All blocks, some of which may have run out, a page per round trip. What
   * changes meanwhile may be missing; a block may come twice.
   *
   * @throws StoreUnavailableError  of kind `lost`, if the list was replaced by a foreign value
   */
  async * pages (): AsyncGenerator<readonly Block[]> {
    let cursor = '0'
    const { emptied } = this.#redis
    do {
      const [next, entries] = await this.#redis.run(async client =>
        readScan(await client.hscan(this.#keys.blocks, cursor, 'COUNT', pageLength)))
      if (this.#redis.emptied !== emptied) throw new StoreUnavailableError('lost', 'Redis has lost its block list')
      yield entries.flatMap(([ip, json]) => this.#blockOf(ip, json) ?? [])
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
    const answer = await this.#changesAfter(id, pageLength)
    const { nowMs, lastSequence, lastId, entries, epoch } = answer
    // A foreign entry has no number, or not the next one: then the whole list is loaded.
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
    return {
      nowMs,
      cursor: next,
      changes,
      missed: false,
      isBehind: false,
      epoch
    }
  }

  /** Whether Redis lacks changes of the block list that it had: it came back with older data. */
  async isBehind (): Promise<boolean> {
    const { id, sequence } = this.#seen
    return lacks(await this.#changesAfter(id, 1), sequence, sequence + this.#madeSince)
  }

  /**
   * Does what was done elsewhere, each at its own time: a block that another instance has lifted since stays lifted.
   *
   * @param aheadMs  the clock of the operations less that of Redis; operations that must keep their order need the same
   */
  async apply (operations: readonly BlockOperation[], aheadMs: number): Promise<void> {
    await this.#change(operations, aheadMs, 0)
  }

  /** How many blocks there are; some may have run out. */
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

  /** @param untilMs  by Redis' clock */
  async #change (
    operations: readonly BlockOperation[], aheadMs: number, untilMs: number
  ): Promise<readonly AnnouncedBlock[]> {
    const { blocks, blockExpiry, blockChanges, blockSequence, blocksLifted } = this.#keys
    const keys = [blocks, blockExpiry, blockChanges, blockSequence, blocksLifted]
    const given = { operations, aheadMs, untilMs, maxChanges }
    return await this.#redis.run(async client =>
      changeBlocks.read(await changeBlocks.script.run(client, keys, changeBlocks.args(given)), given))
  }

  /** @returns undefined for a foreign entry, which must not hide the others */
  #blockOf (ip: string, json: string): Block | undefined {
    const block = parseBlock(ip, json)
    if (block === undefined) this.#redis.passedOver(this.#keys.blocks)
    return block
  }

  /** @returns undefined for a foreign entry, which is ignored */
  #changeOf (ip: string | undefined, json: string | undefined): BlockChange | undefined {
    const block = parseBlock(ip, json)
    if (block !== undefined) return { ip: block.ip, block }
    if (json === '' && isNetwork(ip)) return { ip, block: undefined }
    this.#redis.passedOver(this.#keys.blockChanges)
    return undefined
  }
}

/** An instance that was away for more changes than this loads the whole list. */
const maxChanges = 10_000

/**
 * Whether changes that Redis had are missing.
 *
 * @param answer  what came after a change that is known
 * @param seen    the number of that change
 * @param atLeast a number that Redis had reached
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
