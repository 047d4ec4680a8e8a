/**
 * Brings a Redis that is back up to date before it answers again: the journal is
 * replayed. If Redis has lost data, the counters and blocks that this instance
 * knows are restored first.
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
import type { CounterBaseline } from '../store/limit-store.js'
import type { BlockOperation } from '../store/block-store.js'
import type { ValueChunk } from './value-journal.js'

/** Called with the number of entries that Redis rejected. */
type OnRejected = (what: JournalKind, count: number, error: Error) => void

/** Counters or blocks that are restored in one call. */
const inCall = 100

/**
 * Calls that are sent at once. One by one, each takes a round trip: with a Redis that is 50 ms away, a flood of names
 * would add entries faster than they are sent, and memory would answer for ever. Together they take Redis 16 ms.
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
  /** of Redis' data at the last replay */
  #epoch = ''
  /** the counters as they were when Redis lost all of its data and began this epoch; empty once they are restored */
  #lost: { readonly epoch: string, baselines: readonly CounterBaseline[] } | undefined
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
   * Restores what Redis has lost, and replays the journal. Some entries that are added meanwhile may be left.
   *
   * @param epoch  as Redis reported it last; undefined: it never did
   * @throws StoreUnavailableError  if some entries did not arrive; those that arrived are not sent again
   */
  async replayAll (epoch: string | undefined): Promise<Heartbeat> {
    const { lastAnswered } = this.#store.instance
    const fence = await this.#store.instance.fence()
    const askedAtMs = this.#now()
    const heartbeat = await this.#store.instance.heartbeat()
    this.#clock.note(askedAtMs, heartbeat.nowMs)
    this.#epoch = heartbeat.epoch
    const isLost = epoch !== undefined && heartbeat.epoch !== epoch
    // A replica that became the primary, or data that was loaded from a file, may be a little behind.
    const isBehind = fence.last > noNumbers.last && fence.last < lastAnswered
    this.#journal.settle(fence)
    const hasNumbers = fence !== noNumbers
    // If Redis still has the number of the last call, only the key of the epoch is gone, and the counters may be there.
    const isEmptied = isLost && fence.last < 0
    if (isEmptied) await this.#restoreCounters(heartbeat.epoch)
    else if (isLost || isBehind || !hasNumbers) await this.#raiseCounters()
    // A Redis without that number has lost it, and perhaps more.
    const hasBaselines = isEmptied || (hasNumbers && fence.last >= 0 && !isLost && !isBehind)
    // The numbers of calls say nothing about blocks, which have none, and a Cluster has no numbers at all.
    const lacksBlocks = isLost || isBehind || await this.#store.blocks.isBehind() ||
      (await this.#store.blocks.count()) < this.#memory.blocks.size - this.#journal.blockedCount
    if (lacksBlocks) await this.#restoreBlocks()
    // Each pass takes less time than the one before, so less is added meanwhile.
    for (let pass = 0; pass === 0 || (this.#journal.size > inCall && pass < 10); pass++) {
      await this.#replayWaiting(hasBaselines, pass === 0)
    }
    return heartbeat
  }

  /** Sends the rest, without waiting. Entries that do not arrive stay in the journal. */
  replayRest (): void {
    for (const chunk of this.#journal.rest()) {
      this.#underWay++
      this.#replayChunk(chunk, false).catch(() => {}).finally(() => { this.#underWay-- })
    }
  }

  /** Sends entries that were added after the recovery, unless chunks of the last call are still unanswered. */
  replayLate (): void {
    if (this.#underWay === 0 && this.#journal.size > 0) this.replayRest()
  }

  /**
   * Replays as many entries as wait now.
   *
   * @param isFirst  sends the first chunk alone: a Redis that rejects all, such as one that is full, rejects only one
   */
  async #replayWaiting (hasBaselines: boolean, isFirst: boolean): Promise<void> {
    let atMost = isFirst ? 1 : atOnce
    let left = this.#journal.size
    while (left > 0) {
      const chunks = this.#journal.next(atMost)
      if (chunks.length === 0) return
      atMost = atOnce
      for (const chunk of chunks) left -= sizeOf(chunk)
      await all(chunks.map(async chunk => await this.#replayChunk(chunk, hasBaselines)))
    }
  }

  async #replayChunk (chunk: Chunk, hasBaselines: boolean): Promise<void> {
    await this.#offer(chunk.kind, sizeOf(chunk), async () => {
      switch (chunk.kind) {
        case 'counters': {
          const into = { epoch: this.#epoch, hasBaselines }
          return await this.#store.limits.merge(idOf(chunk), [...chunk.counters], this.#now(), into)
        }
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

  /**
   * Restores the counters of a Redis that has lost all of its data, as they were before the loss. If the recovery fails
   * and is tried again, it restores the same states: those in memory may include hits that were replayed meanwhile.
   */
  async #restoreCounters (epoch: string): Promise<void> {
    if (this.#lost?.epoch !== epoch) {
      this.#lost = { epoch, baselines: [...this.#journal.baselines(), ...this.#known()] }
    }
    const lost = this.#lost
    await this.#offerAll('counters', lost.baselines, async some =>
      await this.#store.limits.restore(some, this.#now(), epoch))
    lost.baselines = []
  }

  /** Raises counters of a Redis that may be behind to the local states. Journal entries raise theirs themselves. */
  async #raiseCounters (): Promise<void> {
    const into = { epoch: this.#epoch, hasBaselines: false }
    await this.#offerAll('counters', this.#known(), async some => {
      const counters = some.map(({ key, limit, baseline }) => ({ key, limit, baseline, counted: baseline }))
      await this.#store.limits.merge(`known-${++this.#restores}`, counters, this.#now(), into)
    })
  }

  /** The counters in memory that have no changes in the journal. */
  #known (): CounterBaseline[] {
    return [...this.#memory.limits.counters()]
      .filter(({ key }) => !this.#journal.has(key))
      .map(({ key, limit, state }) => ({ key, limit, baseline: state }))
  }

  /**
   * Sends the blocks that Redis lacks or has shorter; Redis ignores those that it knows were lifted. Lifts blocks in
   * Redis that this instance has seen lifted, unless they were set again. Changes of the outage are in the journal.
   */
  async #restoreBlocks (): Promise<void> {
    const remoteEndsMs = new Map<string, number>()
    for await (const page of this.#store.blocks.pages()) {
      for (const { ip, expiresAtMs } of page) remoteEndsMs.set(ip, expiresAtMs + this.#clock.ms)
    }
    const lifted = new Map(this.#memory.blocks.lifted().map(operation => [operation.unblock, operation]))
    const operations: BlockOperation[] = []
    for (const { ip, reason, origin, blockedAtMs, expiresAtMs } of this.#memory.blocks.steady()) {
      if (this.#journal.hasBlock(ip, expiresAtMs - sameEndMs)) continue
      const remoteEndMs = remoteEndsMs.get(ip) ?? -Infinity
      const replace = lifted.delete(ip) && remoteEndMs > expiresAtMs + sameEndMs
      if (!replace && remoteEndMs >= expiresAtMs - sameEndMs) continue
      const durationMs = expiresAtMs - blockedAtMs
      operations.push({ atMs: blockedAtMs, block: { ip, reason, origin, durationMs, replace } })
    }
    for (const operation of lifted.values()) {
      const { unblock: ip } = operation
      if (remoteEndsMs.has(ip) && !this.#journal.hasLift(ip)) operations.push(operation)
    }
    await this.#offerAll('blocks', operations, async some => await this.#store.blocks.apply(some, this.#clock.ms))
  }

  /** Offers many entries, in as many calls as it takes. */
  async #offerAll<T> (
    what: JournalKind, entries: readonly T[], call: (some: readonly T[]) => Promise<void>
  ): Promise<void> {
    const calls = inCalls(entries)
    for (let i = 0; i < calls.length; i += atOnce) {
      await all(calls.slice(i, i + atOnce).map(async some =>
        await this.#offer(what, some.length, async () => await call(some))))
    }
  }
}

/** Names the kind, too: the chunks of each kind are numbered separately. */
function idOf ({ kind, id }: CounterChunk | EventChunk | ValueChunk): string {
  return `${kind}-${id}`
}

function inCalls<T> (items: readonly T[]): (readonly T[])[] {
  return Array.from({ length: Math.ceil(items.length / inCall) }, (_, i) => items.slice(i * inCall, (i + 1) * inCall))
}

/**
 * Waits for all calls, even if one fails: a chunk that is still under way must not be sent again.
 *
 * @throws the error of the first call that failed
 */
async function all (calls: readonly Promise<void>[]): Promise<void> {
  await Promise.allSettled(calls)
  await Promise.all(calls)
}
