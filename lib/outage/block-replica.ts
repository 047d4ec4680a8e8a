/**
 * Keeps the block list of this process equal to the one in Redis, so that
 * requests are checked without a round trip, and while Redis is away. It follows
 * the stream of changes, and loads the whole list if it may have missed some.
 */
import type { BlockReplica } from '../store/memory/blocks.js'
import type { BlockChanges, BlockCursor, RedisBlocks } from '../store/redis/blocks.js'
import type { Block } from '../store/block-store.js'
import { timers } from '../runtime/timers.js'

export interface BlockListOptions {
  readonly memory: BlockReplica
  readonly redis: RedisBlocks
  /** whether Redis can be asked now */
  readonly usable: () => boolean
  /** whether this is the epoch of the last recovery: a Redis of another epoch has lost its list, so none is adopted */
  readonly knowsEpoch: (epoch: string) => boolean
  readonly onLost: () => void
  readonly intervalMs: number
  readonly now: () => number
  readonly onError: (error: Error) => void
}

export class BlockListFollower {
  readonly #options: BlockListOptions
  #cursor: BlockCursor | undefined
  #timer: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined
  #closed = false
  #failing = false

  constructor (options: BlockListOptions) {
    this.#options = options
  }

  /** Looks for changes from now on, every `intervalMs`. */
  start (): void {
    this.#timer = timers.setTimeout(() => {
      this.sync().finally(() => { if (!this.#closed) this.start() })
    }, this.#options.intervalMs).unref()
  }

  /** Resolves when the list is equal to that of Redis, or Redis cannot be asked. */
  async sync (): Promise<void> {
    if (this.#closed) return
    this.#running ??= this.#catchUp()
      .then(() => { this.#failing = false }, (error: Error) => this.#failed(error))
      .finally(() => { this.#running = undefined })
    await this.#running
  }

  close (): void {
    this.#closed = true
    timers.clearTimeout(this.#timer)
  }

  /** Reports the first failure of a row, not one at each interval. An outage has log lines of its own. */
  #failed (error: Error): void {
    if (this.#closed || !this.#options.usable()) return
    if (!this.#failing) this.#options.onError(error)
    this.#failing = true
  }

  async #catchUp (): Promise<void> {
    const { redis, memory, usable, now, onLost } = this.#options
    let loaded = false
    while (usable()) {
      const answer = await redis.changes(this.#cursor)
      if (!this.#isOurs(answer)) return onLost()
      const offsetMs = now() - answer.nowMs
      if (answer.missed) {
        // The list changes faster than it loads: the next interval continues.
        if (loaded) return
        if (!await this.#load(answer.cursor, offsetMs)) return onLost()
        loaded = true
      }
      for (const { ip, block } of answer.changes) {
        if (block === undefined) memory.unblock(ip)
        else memory.adopt(onLocalClock(block, offsetMs))
      }
      // Taken before the list was loaded: a change that the load did not see comes with the next answer.
      this.#cursor = answer.cursor
      if (!answer.missed && answer.changes.length === 0) return
    }
  }

  /** Whether Redis has all changes that this process has seen. An older list must not replace the local one. */
  #isOurs ({ epoch, isBehind }: BlockChanges): boolean {
    // Recovery restores the list in Redis, which is then loaded.
    if (isBehind) this.#cursor = undefined
    return !isBehind && this.#options.knowsEpoch(epoch)
  }

  /** @returns whether the list was adopted: Redis may lose it while it loads */
  async #load (cursor: BlockCursor, offsetMs: number): Promise<boolean> {
    const { memory, redis } = this.#options
    return await memory.replace(async put => {
      for await (const page of redis.pages()) {
        for (const block of page) put(onLocalClock(block, offsetMs))
      }
      return this.#isOurs(await redis.changes(cursor))
    })
  }
}

/** The block with times of this process's clock, by which they are compared. */
function onLocalClock (block: Block, offsetMs: number): Block {
  return { ...block, blockedAtMs: block.blockedAtMs + offsetMs, expiresAtMs: block.expiresAtMs + offsetMs }
}
