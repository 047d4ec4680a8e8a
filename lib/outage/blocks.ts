/**
 * The block list over memory and Redis. A block is in force on this instance
 * when the call returns, and on the others when they next look at the list
 * (outage/block-replica.ts). Changes that Redis did not get wait in the journal.
 */
import type { Awaitable } from '../runtime/awaitable.js'
import { type Block, blockedIn, type BlockOperation, type BlockRequest, type BlockStore } from '../store/block-store.js'
import type { BlockReplica } from '../store/memory/blocks.js'
import type { ChangedBlock } from '../store/redis/encodings/blocks.js'
import type { Availability, RedisSide } from './availability.js'
import { CallQueue } from './call-queue.js'
import { emptyOnOutage, RedisCalls } from './redis-calls.js'

type Memory = BlockReplica & Pick<BlockStore, 'isBlocked' | 'blocks'>

export interface OutageBlocksOptions {
  readonly memory: Memory
  readonly redis: Pick<RedisSide, 'store' | 'guarded' | 'journal'>
  readonly availability: Availability
  /** ms since 1970, of the same clock as `memory` */
  readonly now: () => number
}

/** Operations in one call, which takes Redis about a millisecond, and the most calls under way. */
const inCall = 50
const atOnce = 8

export class OutageBlocks implements BlockStore {
  readonly #memory: Memory
  readonly #redis: OutageBlocksOptions['redis']
  readonly #availability: Availability
  readonly #now: () => number
  readonly #calls: RedisCalls
  readonly #changes: CallQueue<BlockOperation, ChangedBlock>
  /** by address: the order of the last change, while that is under way */
  readonly #orders = new Map<string, number>()

  constructor ({ memory, redis, availability, now }: OutageBlocksOptions) {
    this.#memory = memory
    this.#redis = redis
    this.#availability = availability
    this.#now = now
    this.#calls = new RedisCalls(availability)
    this.#changes = new CallQueue({
      send: async operations => {
        // A call that runs later than this has failed for its caller, and memory has answered.
        const promptUntilMs = now() + redis.guarded.commandTimeout
        return await redis.store.blocks.change(operations, availability.aheadMs, promptUntilMs)
      },
      inCall,
      atOnce
    })
    emptyOnOutage(this.#changes, availability)
  }

  async block (request: BlockRequest): Promise<Block> {
    const atMs = this.#now()
    const local = this.#memory.block(request)
    const changed = await this.#change({ atMs, block: request })
    return changed?.standing ?? local
  }

  async unblock (ip: string): Promise<boolean> {
    const atMs = this.#now()
    const local = this.#memory.unblock(ip)
    const changed = await this.#change({ atMs, unblock: ip })
    return changed?.wasBlocked ?? local
  }

  isBlocked (address: string): Awaitable<boolean> {
    return this.#calls.read(
      async () => await this.#redis.store.blocks.isBlocked(address),
      () => this.#memory.isBlocked(address)
    )
  }

  blocks (): Awaitable<readonly Block[]> {
    return this.#calls.read(async () => await this.#redis.store.blocks.blocks(), () => this.#memory.blocks())
  }

  /** @returns the block in Redis after the change; undefined: what memory has holds */
  async #change (operation: BlockOperation): Promise<ChangedBlock | undefined> {
    const { journal } = this.#redis
    const ip = blockedIn(operation)
    const order = journal.nextBlockOrder()
    this.#orders.set(ip, order)
    return await this.#calls.write({
      call: async () => {
        const changed = await this.#changes.ask(operation)
        // A later change of this instance decides what holds on it.
        if (this.#orders.get(ip) === order) this.#adopt(ip, changed)
        return changed
      },
      keep: () => {
        journal.addBlock(operation, order)
        // Meanwhile the replica may have adopted an older change of another instance.
        if ('block' in operation) this.#memory.block(operation.block, operation.atMs)
        else this.#memory.unblock(operation.unblock, operation.atMs)
      }
    }).finally(() => {
      if (this.#orders.get(ip) === order) this.#orders.delete(ip)
    })
  }

  /**
   * Adopts the result of a change: the replica may have adopted an older change of another instance meanwhile. A newer
   * one that it has adopted holds.
   */
  #adopt (ip: string, { standing, sequence }: ChangedBlock): void {
    if (this.#redis.store.blocks.hasSeenMore(sequence)) return
    const { aheadMs } = this.#availability
    this.#memory.adoptStanding(ip, standing && {
      ...standing, blockedAtMs: standing.blockedAtMs + aheadMs, expiresAtMs: standing.expiresAtMs + aheadMs
    })
  }
}
