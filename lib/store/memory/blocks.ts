/**
 * The block list in this process. Every request is checked against it,
 * whichever store is in use: see outage/block-replica.ts.
 *
 * Its times are on the steady clock `now`; what people see is on the wall clock.
 */
import { AddressList } from '../../addresses/address-list.js'
import { type Address, type Network, parseAddress, parseNetwork } from '../../addresses/address.js'
import type { HashKey } from '../../addresses/keyed-hash.js'
import type { Block, BlockOperation, BlockRequest, BlockStore } from '../block-store.js'
import { BlockTexts, BlockValues } from './block-columns.js'

export interface MemoryBlocksOptions {
  /** ms since 1970; the clock of durations (see runtime/clock.ts) */
  readonly now: () => number
  /** ms since 1970; the clock of times that people see */
  readonly wall: () => number
  /** 64 random bits, see AddressTable */
  readonly hashKey?: HashKey
}

type BlockList = AddressList<Block, BlockValues>

/** What only the outage layer needs to keep this list like the one in Redis. All times are on the clock `now`. */
export interface BlockReplica {
  /** How many blocks are kept; some may have expired since the last sweep. */
  readonly size: number
  /** @param atMs  when it was, if that was earlier: what was blocked since then stays */
  block (request: BlockRequest, atMs?: number): Block
  /** @param atMs  as for `block` */
  unblock (ip: string, atMs?: number): boolean
  /** Takes over the block that stands in another store. */
  adopt (block: Block): void
  /** Takes over what stands in another store for one address or range; undefined: nothing. */
  adoptStanding (ip: string, block: Block | undefined): void
  /**
   * Takes over the whole list of another store in place of its own. Changes that are made here meanwhile are made in
   * the new list, too: it may have been read before them.
   *
   * @param read  puts all of its blocks; @returns whether it is to be taken over
   */
  replace (read: (put: (block: Block) => void) => Promise<boolean>): Promise<boolean>
  /** Like `blocks`, with times on the clock `now`. */
  steady (): readonly Block[]
  /** The last blocks that were lifted, blocked again or not. */
  lifted (): readonly (BlockOperation & { readonly unblock: string })[]
}

export class MemoryBlocks implements BlockStore, BlockReplica {
  readonly #now: () => number
  readonly #wall: () => number
  readonly #hashKey: HashKey
  #list: BlockList
  /** made while another list is being read, to be made in that one, too */
  #changes: (() => void)[] | undefined
  /** when which block was lifted; the oldest first */
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
    const standing = this.#list.get(networkOf(ip))
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

  /** The block that is in force for an address; each request asks this. */
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
    const known = this.#list.get(networkOf(block.ip))
    // The other store has lifted the longer one first.
    if (known !== undefined && known.expiresAtMs > block.expiresAtMs + sameEndMs) this.#lift(block.ip)
    this.#put(block)
  }

  adoptStanding (ip: string, block: Block | undefined): void {
    if (block !== undefined) this.adopt(block)
    else if (this.#list.get(networkOf(ip)) !== undefined) this.unblock(ip)
  }

  async replace (read: (put: (block: Block) => void) => Promise<boolean>): Promise<boolean> {
    const list = this.#newList()
    const changes: (() => void)[] = []
    this.#changes = changes
    try {
      if (!await read(block => list.set(networkOf(block.ip), block))) return false
      this.#list = list
    } finally {
      // An outage may be long: they would grow without end.
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

  /** Forgets what has expired. */
  sweep (): void {
    const nowMs = this.#now()
    this.#list.sweep((values, index) => values.expiresAtMs(index) <= nowMs)
  }

  #newList (): BlockList {
    const texts = new BlockTexts()
    return new AddressList(() => new BlockValues(texts), this.#hashKey)
  }

  /** A block with its times on the wall clock. */
  #shown (block: Block): Block {
    // In whole seconds: the two clocks round differently, and a block must show the same times each time.
    const aheadMs = Math.round((this.#wall() - this.#now()) / 1000) * 1000
    return { ...block, blockedAtMs: block.blockedAtMs + aheadMs, expiresAtMs: block.expiresAtMs + aheadMs }
  }

  #put (block: Block): void {
    const { ip, blockedAtMs } = block
    this.#list.set(networkOf(ip), block)
    // Still known as lifted, but before this block: a Redis that comes back with older data may have an earlier one.
    const liftedAtMs = this.#lifted.get(ip)
    if (liftedAtMs !== undefined && liftedAtMs >= blockedAtMs) this.#lifted.set(ip, blockedAtMs - 1)
  }

  /** @returns the block that was lifted, if there was one */
  #lift (ip: string, atMs?: number): Block | undefined {
    const network = networkOf(ip)
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

function networkOf (ip: string): Network {
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- block-store.ts: callers pass canonical text
  return parseNetwork(ip)!
}

/** Blocks of one address whose ends differ by less, in ms, are taken for the same: two stores have two clocks. */
export const sameEndMs = 1000

/** As many as Redis keeps: see `maxChanges` in store/redis/blocks.ts. */
const mostLifted = 10_000
