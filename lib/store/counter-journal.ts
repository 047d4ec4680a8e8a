/**
 * What was counted without Redis, one entry for each counter, until Redis has
 * it. Where it finds no room, those counters go first whose clients have most
 * of their quota left, so that a flood of fresh names frees nobody who is
 * limited.
 *
 * The numbers of batches tell whether hits ran that Redis never answered
 * (store/lua/take.lua): it runs them in order, so those up to the last number
 * that it knows did.
 */
import { count, expiresAtMs, explain, type Limit, type LimitState, otherClockMs, refund } from '../rules/rate-limit.js'
import type { CountedHere, Fence } from './store.js'

/** A hit that was decided here. */
export interface HitHere {
  readonly key: string
  readonly limit: Limit
  readonly cost: number
  readonly nowMs: number
  /** `noted`: refused, and counted as a refusal */
  readonly outcome: 'accepted' | 'noted'
}

/**
 * Counters for Redis in one call. As long as nobody knows whether Redis has
 * run it, it is sent again under its id, which Redis takes once; what is
 * counted meanwhile is kept beside it. Counters that find no room leave it:
 * whether they have arrived does not matter to the others.
 */
export interface CounterChunk {
  readonly kind: 'counters'
  readonly id: number
  readonly counters: ReadonlySet<CountedHere>
}

/** Something that was sent to Redis, which may have run it. */
interface InDoubt {
  readonly batch: number
  readonly hit: HitHere | undefined
  /** equal hits of one batch are kept as one */
  times: number
  readonly known: LimitState | undefined
  readonly applyTo: (counter: Counter) => void
}

interface Counter {
  readonly key: string
  readonly limit: Limit
  /** before anything came on top; meaningless until it has begun */
  known: LimitState | undefined
  hasBegun: boolean
  isRestored: boolean
  /** undefined: nothing came on top of what was known */
  counted: LimitState | undefined
  readonly inDoubt: InDoubt[]
  /** with all hits that are in doubt; undefined: there are none */
  likely: LimitState | undefined
  rank: Set<Counter> | undefined
  /** that it was sent in */
  chunk: Chunk | undefined
}

interface Chunk extends CounterChunk {
  readonly counters: Set<Counter & CountedHere>
}

export class CounterJournal {
  readonly #mostNotes: number
  /** not sent yet */
  readonly #waiting = new Map<string, Counter>()
  /** of each key the one that was sent last */
  readonly #sent = new Map<string, Counter>()
  /** all of them, by the part of the quota that is used, least first; those of clients that are limited last */
  readonly #ranks: readonly Set<Counter>[] = [...levels, 1].map(() => new Set())
  #chunks: Chunk[] = []
  /** counters that Redis was told in attempts to bring it up to date */
  readonly #restored = new Set<string>()
  #isRecovering = false
  #fence: Fence = { last: 0, next: 0 }
  #lastId = 0
  #size = 0

  /** @param mostNotes  of counters that Redis was told while it was brought up to date */
  constructor (mostNotes: number) {
    this.#mostNotes = mostNotes
  }

  /** Counters and hits in doubt. */
  get size (): number {
    return this.#size
  }

  /** Whether there is a counter that something has come on top of. */
  has (key: string): boolean {
    return this.#waiting.get(key)?.counted !== undefined || this.#sent.has(key)
  }

  /** See Journal. */
  addHit (hit: HitHere, known: LimitState | undefined, batch: number | undefined): void {
    if (this.#hasRun(batch)) return
    // What was known before is kept with the counter, which a later hit may be the first to change.
    const counter = this.#begun(this.#counterOf(hit), known)
    if (this.#isInDoubt(batch)) {
      counter.likely = after(counter.likely ?? counter.counted ?? counter.known, hit)
      this.#addInDoubt(counter, { batch, hit, times: 1, known, applyTo: counter => apply(counter, hit) })
    } else {
      apply(counter, hit)
      if (counter.likely !== undefined) counter.likely = after(counter.likely, hit)
    }
    this.#file(counter, this.#rankOf(counter, hit.nowMs))
  }

  /** See Journal. */
  addRefusals (
    key: string, limit: Limit, windowEndsAtMs: number, refusals: number,
    known: LimitState | undefined, batch: number | undefined
  ): void {
    if (known === undefined || Math.abs(known.atMs - windowEndsAtMs) > otherClockMs) return
    this.#change({ key, limit }, known, batch, counter => {
      // Memory knows of hits that Redis may have run; on top of what was known before them these are still to come.
      const before = counter.counted ?? counter.known ?? { ...known, used: 0, previous: 0 }
      counter.counted = { ...before, previous: before.previous + refusals }
    })
  }

  /** See Journal. */
  addRefund (
    { key, limit, cost }: Pick<HitHere, 'key' | 'limit' | 'cost'>, counted: LimitState,
    known: LimitState | undefined, batch: number | undefined
  ): void {
    this.#change({ key, limit }, known, batch, counter => {
      const before = counter.counted ?? counter.known
      if (before !== undefined) counter.counted = refund(before, limit, cost, counted)
    })
  }

  /** See Journal. */
  addReset (key: string, limit: Limit, known: LimitState | undefined): void {
    const counter = this.#begun(this.#counterOf({ key, limit }), known)
    this.#settle(counter, Infinity)
    if (known === undefined || counter.known === undefined) return this.#remove(counter)
    counter.counted = { ...counter.known, used: 0, previous: 0 }
    this.#file(counter, this.#ranks.at(-1)!)
  }

  /** Settles which of the hits that Redis never answered it has run. */
  settle (fence: Fence): void {
    this.#fence = fence
    this.#isRecovering = true
    for (const counter of this.#waiting.values()) {
      this.#settle(counter, fence.last)
      if (counter.counted === undefined) this.#remove(counter)
    }
  }

  /** What Redis is to be told next, and again until it is `done`: those who have used most come first. */
  next (atMost: number): readonly CounterChunk[] {
    if (this.#chunks.length === 0) this.#cut(atMost * inChunk)
    return this.#chunks.slice(0, atMost)
  }

  /** All of it. */
  rest (): readonly CounterChunk[] {
    this.#cut(Infinity)
    return this.#chunks
  }

  done ({ id }: CounterChunk): void {
    for (const counter of this.#chunks.find(chunk => chunk.id === id)?.counters ?? []) {
      this.#remove(counter)
      if (this.#isRecovering) this.#restored.add(counter.key)
    }
    // Without its note a counter may come out too high where Redis has lost its data; notes without end are worse.
    if (this.#restored.size > this.#mostNotes) this.#restored.clear()
  }

  /** Redis is up to date, and tells what it counts from now on. */
  recovered (): void {
    this.#isRecovering = false
    this.#restored.clear()
  }

  /** Drops some of those that have most of their quota left. @returns how many entries that were */
  drop (atMost: number): number {
    const before = this.#size
    for (const rank of this.#ranks) {
      for (const counter of rank) {
        if (before - this.#size >= atMost) break
        this.#remove(counter)
      }
      // The next rank is worth more than room for several at once.
      if (this.#size < before) break
    }
    return before - this.#size
  }

  /** Forgets counters that say nothing any more. */
  sweep (nowMs: number): void {
    for (const counter of this.#ranks.flatMap(rank => [...rank])) {
      const { counted, limit, inDoubt } = counter
      if (counted !== undefined && inDoubt.length === 0 && expiresAtMs(counted, limit) <= nowMs) this.#remove(counter)
    }
  }

  /** Refusals and refunds: what was known before them matters only where nothing else came on top. */
  #change (
    { key, limit }: Pick<HitHere, 'key' | 'limit'>, known: LimitState | undefined, batch: number | undefined,
    applyTo: (counter: Counter) => void
  ): void {
    if (this.#hasRun(batch)) return
    const counter = this.#counterOf({ key, limit })
    this.#file(counter, counter.rank ?? this.#ranks[0]!)
    if (this.#isInDoubt(batch)) this.#addInDoubt(counter, { batch, hit: undefined, times: 1, known, applyTo })
    else applyTo(this.#begun(counter, known))
  }

  #isInDoubt (batch: number | undefined): batch is number {
    return batch !== undefined && batch >= this.#fence.next
  }

  /** Of one that failed when Redis was trusted again already, this is known. */
  #hasRun (batch: number | undefined): boolean {
    return batch !== undefined && batch <= this.#fence.last
  }

  #addInDoubt (counter: Counter, change: InDoubt): void {
    const last = counter.inDoubt.at(-1)
    if (last !== undefined && isSame(last, change)) {
      last.times++
      return
    }
    counter.inDoubt.push(change)
    this.#size++
  }

  #settle (counter: Counter, lastThatRan: number): void {
    for (const { batch, times, known, applyTo } of counter.inDoubt) {
      if (batch <= lastThatRan) continue
      this.#begun(counter, known)
      for (let i = 0; i < times; i++) applyTo(counter)
    }
    this.#size -= counter.inDoubt.length
    counter.inDoubt.length = 0
    counter.likely = undefined
  }

  #cut (atMost: number): void {
    const ready: (Counter & CountedHere)[] = []
    for (const rank of this.#ranks.toReversed()) {
      for (const counter of rank) {
        if (ready.length === atMost) break
        if (counter.chunk === undefined && isReady(counter)) ready.push(counter)
      }
    }
    for (let i = 0; i < ready.length; i += inChunk) {
      const chunk = { kind: 'counters' as const, id: ++this.#lastId, counters: new Set(ready.slice(i, i + inChunk)) }
      this.#chunks.push(chunk)
      for (const counter of chunk.counters) {
        counter.chunk = chunk
        this.#waiting.delete(counter.key)
        this.#sent.set(counter.key, counter)
      }
    }
  }

  #counterOf ({ key, limit }: Pick<HitHere, 'key' | 'limit'>): Counter {
    const found = this.#waiting.get(key)
    if (found !== undefined) return found
    const counter: Counter = {
      key,
      limit,
      known: undefined,
      hasBegun: false,
      isRestored: false,
      counted: undefined,
      inDoubt: [],
      likely: undefined,
      rank: undefined,
      chunk: undefined
    }
    this.#waiting.set(key, counter)
    this.#size++
    return counter
  }

  #begun (counter: Counter, known: LimitState | undefined): Counter {
    if (counter.hasBegun) return counter
    counter.hasBegun = true
    counter.known = known
    counter.isRestored = this.#sent.has(counter.key) || this.#restored.has(counter.key)
    return counter
  }

  /** In the rank that it is in already, it keeps its place. */
  #file (counter: Counter, rank: Set<Counter>): void {
    if (rank === counter.rank) return
    counter.rank?.delete(counter)
    counter.rank = rank
    rank.add(counter)
  }

  /** What was known matters, too: a counter that was reset would be as good as fresh. */
  #rankOf ({ likely, counted, known, limit }: Counter, nowMs: number): Set<Counter> {
    const level = levelOf(likely ?? counted, nowMs, limit)
    return this.#ranks[known === undefined ? level : Math.max(level, levelOf(known, nowMs, limit))]!
  }

  #remove (counter: Counter): void {
    const { key, rank, chunk, inDoubt } = counter
    rank?.delete(counter)
    this.#size -= 1 + inDoubt.length
    if (chunk === undefined) {
      this.#waiting.delete(key)
      return
    }
    if (this.#sent.get(key) === counter) this.#sent.delete(key)
    chunk.counters.delete(counter as Counter & CountedHere)
    if (chunk.counters.size === 0) this.#chunks = this.#chunks.filter(other => other !== chunk)
  }
}

/** So that Redis is held for about a millisecond. */
export const inChunk = 100

/** Where the levels of use begin, as parts of the quota. */
const levels = [0, 1 / 16, 1 / 4, 1 / 2, 3 / 4] as const

function levelOf (state: LimitState | undefined, nowMs: number, limit: Limit): number {
  const { remaining, retryAfterMs } = explain(state, nowMs, limit)
  if (retryAfterMs > 0) return levels.length
  const share = 1 - remaining / Math.max(1, limit.burst)
  return levels.findLastIndex(least => share >= least)
}

function isSame (a: InDoubt, b: InDoubt): boolean {
  return a.hit !== undefined && b.hit !== undefined && a.batch === b.batch && a.hit.limit === b.hit.limit &&
    a.hit.cost === b.hit.cost && a.hit.outcome === b.hit.outcome
}

function isReady (counter: Counter): counter is Counter & CountedHere {
  return counter.counted !== undefined && counter.inDoubt.length === 0
}

function apply (counter: Counter, hit: HitHere): void {
  counter.counted = after(counter.counted ?? counter.known, hit)
}

function after (before: LimitState | undefined, { nowMs, limit, cost, outcome }: HitHere): LimitState {
  return count(before, nowMs, limit, cost, outcome === 'accepted')
}
