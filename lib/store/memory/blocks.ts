/**
 * The block list in this process. Every request is checked against it, with
 * Redis or without: see outage/block-replica.ts.
 *
 * Its times are on the steady clock `now`. Times that people see are on the wall
 * clock.
 */
import { AddressList } from '../../addresses/address-list.js'
import { type Address, type Network, parseAddress, parseNetwork } from '../../addresses/address.js'
import type { HashKey } from '../../addresses/keyed-hash.js'
import type { Block, BlockOperation, BlockRequest, BlockStore } from '../block-store.js'
import { BlockTexts, BlockColumns } from './block-columns.js'

export interface MemoryBlocksOptions {
  /** ms since 1970; the clock of durations (see runtime/clock.ts) */
  readonly now: () => number
  /** ms since 1970; the clock of times that people see */
  readonly wall: () => number
  /** 64 random bits, see AddressTable */
  readonly hashKey?: HashKey
}

type BlockList = AddressList<Block, BlockColumns>

/** Methods for the outage layer, which keeps this list equal to the one in Redis. All times are on the clock `now`. */
export interface BlockReplica {
  /** number of blocks, some of which may have expired since the last sweep */
  readonly size: number
  /** @param atMs  when the block was made; default: now. With `replace`, blocks made since then stay */
  block (request: BlockRequest, atMs?: number): Block
  /** @param atMs  when the unblock was made; default: now. Blocks made since then stay */
  unblock (ip: string, atMs?: number): boolean
  /** Adopts a block that stands in the other store. */
  adopt (block: Block): void
  /** Adopts what stands in the other store for one address or range; undefined: no block stands. */
  adoptStanding (ip: string, block: Block | undefined): void
  /**
   * Replaces the whole list by that of the other store. Local changes made meanwhile are repeated in the new list,
   * since it may have been read before them.
   *
   * @param read  calls `put` for all blocks of the other store; returns whether to adopt them
   * @returns what `read` returned
   */
  replace (read: (put: (block: Block) => void) => Promise<boolean>): Promise<boolean>
  /** Like `blocks`, but with times on the clock `now`. */
  steady (): readonly Block[]
  /** The latest unblocks, also of addresses that were blocked again. */
  lifted (): readonly (BlockOperation & { readonly unblock: string })[]
}

export class MemoryBlocks implements BlockStore, BlockReplica {
  readonly #now: () => number
  readonly #wall: () => number
  readonly #hashKey: HashKey
  #list: BlockList
  /** changes made while another list is being read, to be repeated in that list */
  #changes: (() => void)[] | undefined
  /** by address or range: when it was last unblocked; the oldest first */
  readonly #lifted = new Map<string, number>()

  constructor ({ now, wall, hashKey = [0, 0] }: MemoryBlocksOptions) {
    this.#now = now
    this.#wall = wall
    this.#hashKey = hashKey
    this.#list = this.#newList()
  }

  get size (): number {
    return this.#list.size
  }

  block (request: BlockRequest, atMs?: number): Block {
    const { ip, durationMs, reason, origin, replace } = request
    const blockedAtMs = atMs ?? this.#now()
    this.#changes?.push(() => { this.block(request, blockedAtMs) })
    if (replace === true) this.#lift(ip, atMs)
    const standing = this.#list.get(parseCanonical(ip))
    const block = { ip, reason, origin, blockedAtMs, expiresAtMs: blockedAtMs + durationMs }
    if (standing !== undefined && standing.expiresAtMs >= block.expiresAtMs) return this.#shown(standing)
    this.#put(block)
    return this.#shown(block)
  }

  unblock (ip: string, atMs?: number): boolean {
    this.#changes?.push(() => { this.unblock(ip, atMs) })
    const block = this.#lift(ip, atMs)
    return block !== undefined && block.expiresAtMs > this.#now()
  }

  isBlocked (address: string): boolean {
    const parsed = parseAddress(address)
    return parsed !== undefined && this.find(parsed) !== undefined
  }

  /** The block in force for an address. Runs for each request. */
  find (address: Address): Block | undefined {
    if (this.#list.isEmpty) return undefined
    const nowMs = this.#now()
    return this.#list.find(address, (values, index) => values.expiresAtMs(index) > nowMs)
  }

  blocks (): readonly Block[] {
    return this.steady().map(block => this.#shown(block))
  }

  adopt (block: Block): void {
    this.#changes?.push(() => this.#put(block))
    const known = this.#list.get(parseCanonical(block.ip))
    // A shorter block stands in the other store, so the longer one was unblocked there first.
    if (known !== undefined && known.expiresAtMs > block.expiresAtMs + sameEndMs) this.#lift(block.ip)
    this.#put(block)
  }

  adoptStanding (ip: string, block: Block | undefined): void {
    if (block !== undefined) this.adopt(block)
    else if (this.#list.get(parseCanonical(ip)) !== undefined) this.unblock(ip)
  }

  async replace (read: (put: (block: Block) => void) => Promise<boolean>): Promise<boolean> {
    const list = this.#newList()
    const changes: (() => void)[] = []
    this.#changes = changes
    try {
      if (!await read(block => list.set(parseCanonical(block.ip), block))) return false
      this.#list = list
    } finally {
      // Otherwise the list of changes would grow without end in a long outage.
      this.#changes = undefined
    }
    for (const change of changes) change()
    return true
  }

  steady (): readonly Block[] {
    const nowMs = this.#now()
    return [...this.#list.entries()]
      .map(([, block]) => block)
      .filter(block => block.expiresAtMs > nowMs)
      .sort((a, b) => a.ip < b.ip ? -1 : 1)
  }

  lifted (): readonly (BlockOperation & { readonly unblock: string })[] {
    return [...this.#lifted].map(([unblock, atMs]) => ({ atMs, unblock }))
  }

  /** Removes expired blocks. */
  sweep (): void {
    const nowMs = this.#now()
    this.#list.sweep((values, index) => values.expiresAtMs(index) <= nowMs)
  }

  #newList (): BlockList {
    const texts = new BlockTexts()
    return new AddressList(() => new BlockColumns(texts), this.#hashKey)
  }

  /** A block with its times on the wall clock. */
  #shown (block: Block): Block {
    // In whole seconds: the two clocks round differently, and a block must always show the same times.
    const aheadMs = Math.round((this.#wall() - this.#now()) / 1000) * 1000
    return { ...block, blockedAtMs: block.blockedAtMs + aheadMs, expiresAtMs: block.expiresAtMs + aheadMs }
  }

  #put (block: Block): void {
    const { ip, blockedAtMs } = block
    this.#list.set(parseCanonical(ip), block)
    // The unblock is kept, dated before this block: a Redis that comes back with older data may have an earlier block.
    const liftedAtMs = this.#lifted.get(ip)
    if (liftedAtMs !== undefined && liftedAtMs >= blockedAtMs) this.#lifted.set(ip, blockedAtMs - 1)
  }

  /** Unblocks, unless the block was made after `atMs`. @returns the block that was removed; undefined: none was */
  #lift (ip: string, atMs?: number): Block | undefined {
    const network = parseCanonical(ip)
    const block = this.#list.get(network)
    if (block !== undefined && atMs !== undefined && block.blockedAtMs > atMs) return undefined
    this.#list.delete(network)
    this.#lifted.delete(ip)
    this.#lifted.set(ip, atMs ?? this.#now())
    for (const oldest of this.#lifted.keys()) {
      if (this.#lifted.size <= mostLifted) break
      this.#lifted.delete(oldest)
    }
    return block
  }
}

function parseCanonical (ip: string): Network {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- block-store.ts: callers pass canonical text
  return parseNetwork(ip)!
}

/** Two blocks of one address count as the same if their ends differ by at most this: the two stores have two clocks. */
export const sameEndMs = 1000

/** Redis keeps as many: see `maxChanges` in store/redis/blocks.ts. */
const mostLifted = 10_000
