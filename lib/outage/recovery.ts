/**
 * Brings a Redis that is back up to date before it answers again. The journal
 * is replayed. Where Redis has lost its data or is a little behind, counters and
 * blocks that are known here are restored, too.
 */
import { StoreUnavailableError } from '../errors.js'
import type { ClockOffset } from './clock-offset.js'
import type { CounterChunk } from './counter-journal.js'
import type { EventChunk } from './event-journal.js'
import { type JournalKind, type Chunk, type Journal, sizeOf } from './journal.js'
import { sameEndMs } from '../store/memory/blocks.js'
import type { MemoryStore } from '../store/memory/memory-store.js'
import type { Heartbeat } from '../store/redis/encodings/instance.js'
import type { RedisStore } from '../store/redis/redis-store.js'
import { noNumbers } from '../store/redis/sequence.js'
import type { LocalCounter } from '../store/limit-store.js'
import type { BlockOperation } from '../store/block-store.js'
import type { ValueChunk } from './value-journal.js'

/** Called with what Redis rejected. */
type OnRejected = (what: JournalKind, count: number, error: Error) => void

/** Counters or blocks that are restored in one call. */
const inCall = 100

/**
 * Calls that are sent at once. One by one, each would take a round trip: with a Redis that is 50 ms away, a flood of
 * names would add entries faster than they are sent, and memory would answer for ever. Together they take Redis 16 ms.
 */
export const atOnce = 16

export interface RecoveryParts {
  readonly store: RedisStore
  readonly journal: Journal
  readonly memory: MemoryStore
  /** ms since 1970 */
  readonly now: () => number
  readonly clock: ClockOffset
  readonly onRejected: OnRejected
}

export class Recovery {
  readonly #store: RedisStore
  readonly #journal: Journal
  readonly #memory: MemoryStore
  readonly #now: () => number
  readonly #clock: ClockOffset
  readonly #onRejected: OnRejected
  #restores = 0
  /** chunks of `replayRest` that Redis has not answered yet */
  #underWay = 0

  constructor ({ store, journal, memory, now, clock, onRejected }: RecoveryParts) {
    this.#store = store
    this.#journal = journal
    this.#memory = memory
    this.#now = now
    this.#clock = clock
    this.#onRejected = onRejected
  }

  /**
   * Replays all but what is journaled meanwhile.
   *
   * @param epoch  as Redis reported it last; undefined: never
   * @returns what Redis reported of itself
   * @throws StoreUnavailableError  when some of it did not arrive; what arrived is not sent again
   */
  async replayAll (epoch: string | undefined): Promise<Heartbeat> {
    const { lastAnswered } = this.#store.instance
    const fence = await this.#store.instance.fence()
    const askedAtMs = this.#now()
    const heartbeat = await this.#store.instance.heartbeat(false, 0)
    this.#clock.note(askedAtMs, heartbeat.nowMs)
    const isLost = epoch !== undefined && heartbeat.epoch !== epoch
    // A replica that became the primary, or a file that was read again, may be a little behind.
    const isBehind = fence.last > noNumbers.last && fence.last < lastAnswered
    this.#journal.settle(fence)
    const hasNumbers = fence !== noNumbers
    // A Redis without a last number has lost it, and perhaps more.
    const isIntact = hasNumbers && fence.last >= 0 && !isLost && !isBehind
    if (isLost || isBehind || !hasNumbers) await this.#restoreCounters()
    // Blocks may have changed where nothing was counted, and in a Cluster there are no numbers of batches.
    const lacksBlocks = isLost || isBehind || await this.#store.blocks.isBehind() ||
      (await this.#store.blocks.count()) < this.#memory.blocks.size - this.#journal.blockedCount
    if (lacksBlocks) await this.#restoreBlocks()
    // With each pass less is left, since it takes less time.
    for (let pass = 0; pass === 0 || (this.#journal.size > inCall && pass < 10); pass++) {
      await this.#replayWaiting(isIntact, pass === 0)
    }
    return heartbeat
  }

  /**
   * Sends the rest before it returns. If some of it does not arrive, the breaker opens, and it is replayed next time.
   */
  replayRest (): void {
    for (const chunk of this.#journal.rest()) {
      this.#underWay++
      this.#replayChunk(chunk, false).catch(() => {}).finally(() => { this.#underWay-- })
    }
  }

  /** Sends entries that came after the recovery, unless Redis still has chunks to answer. */
  replayLate (): void {
    if (this.#underWay === 0 && this.#journal.size > 0) this.replayRest()
  }

  /**
   * Replays as much as waits now.
   *
   * @param isFirst  the first chunk goes alone: a Redis that rejects all, such as one that is full, rejects only one
   */
  async #replayWaiting (isIntact: boolean, isFirst: boolean): Promise<void> {
    let atMost = isFirst ? 1 : atOnce
    let left = this.#journal.size
    while (left > 0) {
      const chunks = this.#journal.next(atMost)
      if (chunks.length === 0) return
      atMost = atOnce
      for (const chunk of chunks) left -= sizeOf(chunk)
      await all(chunks.map(async chunk => await this.#replayChunk(chunk, isIntact)))
    }
  }

  async #replayChunk (chunk: Chunk, isIntact: boolean): Promise<void> {
    await this.#offer(chunk.kind, sizeOf(chunk), async () => {
      switch (chunk.kind) {
        case 'counters': return await this.#store.limits.merge(idOf(chunk), [...chunk.counters], this.#now(), isIntact)
        case 'blocks': return await this.#store.blocks.apply(chunk.operations, this.#clock.ms)
        case 'events': return await this.#store.events.replayEvents(idOf(chunk), chunk.events)
        case 'values': return await this.#store.values.merge(idOf(chunk), chunk.changes, this.#now())
      }
    })
    this.#journal.done(chunk)
  }

  /** Entries that Redis rejects are reported, and hold up nothing else. */
  async #offer (what: JournalKind, count: number, call: () => Promise<void>): Promise<void> {
    try {
      await call()
    } catch (error) {
      if (!(error instanceof StoreUnavailableError) || error.kind !== 'reply') throw error
      this.#onRejected(what, count, error)
    }
  }

  /** Restores the baselines of counters that are known here; those in the journal carry theirs themselves. */
  async #restoreCounters (): Promise<void> {
    let some: LocalCounter[] = []
    const restore = async () => {
      const calls = inCalls(some)
      some = []
      await all(calls.map(async counters => await this.#offer('counters', counters.length, async () =>
        await this.#store.limits.merge(`known-${++this.#restores}`, counters, this.#now(), false))))
    }
    for (const { key, limit, state } of this.#memory.limits.counters()) {
      if (!this.#journal.has(key)) some.push({ key, limit, baseline: state, counted: state })
      if (some.length === atOnce * inCall) await restore()
    }
    await restore()
  }

  /**
   * Sends Redis the blocks that it lacks or has shorter, unless it knows that they were lifted. Lifts the blocks in
   * Redis that this instance has seen lifted, unless they were set again. The journal sends what was done in the
   * outage.
   */
  async #restoreBlocks (): Promise<void> {
    const endsThere = new Map<string, number>()
    for await (const page of this.#store.blocks.pages()) {
      for (const { ip, expiresAtMs } of page) endsThere.set(ip, expiresAtMs + this.#clock.ms)
    }
    const lifted = new Map(this.#memory.blocks.lifted().map(operation => [operation.unblock, operation]))
    const operations: BlockOperation[] = []
    for (const { ip, reason, origin, blockedAtMs, expiresAtMs } of this.#memory.blocks.steady()) {
      if (this.#journal.hasBlock(ip, expiresAtMs - sameEndMs)) continue
      const end = endsThere.get(ip) ?? -Infinity
      const replace = lifted.delete(ip) && end > expiresAtMs + sameEndMs
      if (!replace && end >= expiresAtMs - sameEndMs) continue
      const durationMs = expiresAtMs - blockedAtMs
      operations.push({ atMs: blockedAtMs, block: { ip, reason, origin, durationMs, replace } })
    }
    for (const operation of lifted.values()) {
      const { unblock: ip } = operation
      if (endsThere.has(ip) && !this.#journal.hasLift(ip)) operations.push(operation)
    }
    const calls = inCalls(operations)
    const apply = async (operations: readonly BlockOperation[]) => await this.#offer('blocks', operations.length,
      async () => await this.#store.blocks.apply(operations, this.#clock.ms))
    for (let i = 0; i < calls.length; i += atOnce) await all(calls.slice(i, i + atOnce).map(apply))
  }
}

/** Chunks of each kind are numbered separately, and a client and a value may have the same name. */
function idOf ({ kind, id }: CounterChunk | EventChunk | ValueChunk): string {
  return `${kind}-${id}`
}

function inCalls<T> (items: readonly T[]): (readonly T[])[] {
  return Array.from({ length: Math.ceil(items.length / inCall) }, (_, i) => items.slice(i * inCall, (i + 1) * inCall))
}

/**
 * Waits for all calls, also where one fails: a chunk that is still under way must not be sent again.
 *
 * @throws what the first call that failed threw
 */
async function all (calls: readonly Promise<void>[]): Promise<void> {
  await Promise.allSettled(calls)
  await Promise.all(calls)
}
