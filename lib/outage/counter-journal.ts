/**
 * Keeps hits that were counted without Redis, in one entry for each counter,
 * until Redis has them. If there is no room, counters of clients with most of
 * their quota left are dropped first, so that a flood of new names frees no
 * limited client.
 *
 * A hit is in doubt if it was sent to Redis and never answered. Batches have
 * numbers, and Redis runs them in order (store/redis/lua/take.lua): those up to the
 * last number that Redis knows did run.
 */
import { ruleOf } from '../rules/algorithms.js'
import { type Limit, usedPart } from '../rules/rate-limit.js'
import { type LimitState, otherClockMs } from '../rules/rule.js'
import type { CounterBaseline, LocalCounter, Refusals } from '../store/limit-store.js'
import { Levels } from '../store/memory/levels.js'
import type { Fence } from '../store/redis/sequence.js'

/** A hit that this instance decided without Redis. */
export interface LocalHit {
  readonly key: string
  readonly limit: Limit
  readonly cost: number
  readonly nowMs: number
  /** how the counter changes by it */
  readonly left: 'hit' | 'refusal'
}

/** Hits that this instance refused without asking Redis. */
export interface LocalRefusals extends Pick<Refusals, 'limit' | 'window' | 'count'> {
  readonly key: string
}

/** A counter as it was before a reset. */
export interface BeforeReset {
  readonly state: LimitState
  /** number of the call that may have run the reset; undefined: none */
  readonly sentIn?: number | undefined
}

/**
 * Counters for one call to Redis. The chunk is sent under the same id until Redis
 * has answered, and Redis runs each id once. Later hits at its counters become
 * new entries. If there is no room, a counter may be dropped from a chunk; the
 * others are still sent.
 */
export interface CounterChunk {
  readonly kind: 'counters'
  readonly id: number
  readonly counters: ReadonlySet<LocalCounter>
}

/** Changes that were sent to Redis and never answered. */
interface InDoubt {
  readonly batch: number
  /** undefined: refusals or a refund */
  readonly hit: LocalHit | undefined
  /** equal hits of the batch, whole number >= 1 */
  times: number
  readonly baseline: LimitState | undefined
  readonly applyTo: (counter: Counter) => void
}

interface Counter {
  readonly key: string
  /** of the latest hit: limits may change during an outage */
  limit: Limit
  /** below all changes; meaningless until `hasBegun` */
  baseline: LimitState | undefined
  hasBegun: boolean
  /** the baseline with all changes that are certain; undefined: there are none */
  counted: LimitState | undefined
  /** number of a reset in doubt, which `counted` includes; undefined: there is none */
  resetIn: number | undefined
  readonly inDoubt: InDoubt[]
  /** `counted` with all hits in doubt; undefined: there are none */
  likely: LimitState | undefined
  rank: Set<Counter> | undefined
  /** undefined: not sent yet */
  chunk: Chunk | undefined
}

interface Chunk extends CounterChunk {
  readonly counters: Set<Counter & LocalCounter>
}

export class CounterJournal {
  /** not sent yet */
  readonly #waiting = new Map<string, Counter>()
  /** by key: the counter of the latest chunk */
  readonly #sent = new Map<string, Counter>()
  /** all counters, by the used part of their quota; those of limited clients come last */
  readonly #ranks = new Levels(leastUsed, () => new Set<Counter>())
  #chunks: Chunk[] = []
  #fence: Fence = { last: 0, next: 0 }
  #lastId = 0
  #size = 0

  /** Entries: counters, and changes in doubt. */
  get size (): number {
    return this.#size
  }

  /** Whether the counter of a key has changes that Redis does not have yet. */
  has (key: string): boolean {
    return this.#waiting.get(key)?.counted !== undefined || this.#sent.has(key)
  }

  /** See Journal. If a counter is in a chunk and waits again, only the chunk's baseline is below all changes. */
  baselines (): readonly CounterBaseline[] {
    const first = new Map<string, Counter>()
    const sent = this.#chunks.flatMap(({ counters }) => [...counters])
    for (const counter of [...sent, ...this.#waiting.values()]) {
      if (!first.has(counter.key)) first.set(counter.key, counter)
    }
    return [...first.values()].flatMap(({ key, limit, baseline }) => {
      return baseline === undefined ? [] : [{ key, limit, baseline }]
    })
  }

  /** See Journal. */
  addHit (hit: LocalHit, baseline: LimitState | undefined, batch: number | undefined): void {
    if (this.#hasRun(batch)) return
    // The first hit sets the baseline, even if it is in doubt and only a later one changes the counter.
    const counter = this.#begun(this.#counterOf(hit), baseline)
    counter.limit = hit.limit
    if (this.#isInDoubt(batch)) {
      counter.likely = after(counter.likely ?? counter.counted ?? counter.baseline, hit)
      this.#addInDoubt(counter, { batch, hit, times: 1, baseline, applyTo: counter => apply(counter, hit) })
    } else {
      apply(counter, hit)
      if (counter.likely !== undefined) counter.likely = after(counter.likely, hit)
    }
    this.#file(counter, this.#rankOf(counter, hit.nowMs))
  }

  /** See Journal. */
  addRefusals (
    { key, limit, window, count }: LocalRefusals, baseline: LimitState | undefined, batch: number | undefined
  ): void {
    const rule = ruleOf(limit)
    if (baseline === undefined || !rule.isSameWindow(baseline, window, otherClockMs)) return
    this.#change({ key, limit }, baseline, batch, counter => {
      // Memory has counted the hits in doubt already. Here they come later, on top of the baseline.
      counter.counted = rule.addRefusals(counter.counted ?? counter.baseline ?? rule.emptied(baseline), count)
    })
  }

  /** See Journal. */
  addRefund (
    { key, limit, cost }: Pick<LocalHit, 'key' | 'limit' | 'cost'>, counted: LimitState,
    baseline: LimitState | undefined, batch: number | undefined
  ): void {
    this.#change({ key, limit }, baseline, batch, counter => {
      const before = counter.counted ?? counter.baseline
      if (before !== undefined) counter.counted = ruleOf(limit).refund(before, limit, cost, counted)
    })
  }

  /** See Journal. */
  addReset (key: string, limit: Limit, before: BeforeReset | undefined): void {
    const batch = before?.sentIn
    if (this.#hasRun(batch)) return
    const counter = this.#begun(this.#counterOf({ key, limit }), before?.state)
    this.#settle(counter, Infinity)
    if (before === undefined || counter.baseline === undefined) return this.#remove(counter)
    counter.counted = ruleOf(limit).emptied(counter.baseline)
    counter.resetIn = this.#isInDoubt(batch) ? batch : undefined
    this.#file(counter, this.#ranks.of(limited))
  }

  /** Decides which of the hits and resets in doubt Redis has run. */
  settle (fence: Fence): void {
    this.#fence = fence
    for (const counter of this.#waiting.values()) {
      this.#settle(counter, fence.last)
      const { limit, baseline, resetIn } = counter
      // Redis has run the reset, so only the hits since then are left to send.
      const wasReset = resetIn !== undefined && resetIn <= fence.last
      if (wasReset && baseline !== undefined) counter.baseline = ruleOf(limit).emptied(baseline)
      counter.resetIn = undefined
      if (counter.counted === undefined) this.#remove(counter)
    }
  }

  /** The next chunks for Redis, the same ones until they are `done`. Clients that have used most come first. */
  next (atMost: number): readonly CounterChunk[] {
    if (this.#chunks.length === 0) this.#cut(atMost * inChunk)
    return this.#chunks.slice(0, atMost)
  }

  /** All chunks for Redis. */
  rest (): readonly CounterChunk[] {
    this.#cut(Infinity)
    return this.#chunks
  }

  done ({ id }: CounterChunk): void {
    for (const counter of this.#chunks.find(chunk => chunk.id === id)?.counters ?? []) this.#remove(counter)
  }

  /** Drops counters of clients with most of their quota left. @returns how many entries were dropped */
  drop (atMost: number): number {
    const before = this.#size
    for (const rank of this.#ranks.all) {
      for (const counter of rank) {
        if (before - this.#size >= atMost) break
        this.#remove(counter)
      }
      // Fewer than `atMost` is enough: the counters of the next rank are worth more.
      if (this.#size < before) break
    }
    return before - this.#size
  }

  /** Forgets expired counters. A reset or a refund stays as long as Redis may have the hits that it takes back. */
  sweep (nowMs: number): void {
    for (const counter of this.#ranks.all.flatMap(rank => [...rank])) {
      const { baseline, counted, limit } = counter
      const rule = ruleOf(limit)
      const hasExpired = (state: LimitState | undefined) =>
        state === undefined || rule.expiresAtMs(state, limit) <= nowMs
      if (isReady(counter) && hasExpired(baseline) && hasExpired(counted)) this.#remove(counter)
    }
  }

  /** Adds refusals or a refund. Their baseline counts only if nothing has changed the counter before. */
  #change (
    { key, limit }: Pick<LocalHit, 'key' | 'limit'>, baseline: LimitState | undefined, batch: number | undefined,
    applyTo: (counter: Counter) => void
  ): void {
    if (this.#hasRun(batch)) return
    const counter = this.#counterOf({ key, limit })
    this.#file(counter, counter.rank ?? this.#ranks.of(0))
    if (this.#isInDoubt(batch)) this.#addInDoubt(counter, { batch, hit: undefined, times: 1, baseline, applyTo })
    else applyTo(this.#begun(counter, baseline))
  }

  #isInDoubt (batch: number | undefined): batch is number {
    return batch !== undefined && batch >= this.#fence.next
  }

  /** Whether the last recovery has settled that Redis ran the batch: its failure may come only afterwards. */
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
    for (const { batch, times, baseline, applyTo } of counter.inDoubt) {
      if (batch <= lastThatRan) continue
      this.#begun(counter, baseline)
      for (let i = 0; i < times; i++) applyTo(counter)
    }
    this.#size -= counter.inDoubt.length
    counter.inDoubt.length = 0
    counter.likely = undefined
  }

  #cut (atMost: number): void {
    const ready: (Counter & LocalCounter)[] = []
    for (const rank of this.#ranks.all.toReversed()) {
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

  #counterOf ({ key, limit }: Pick<LocalHit, 'key' | 'limit'>): Counter {
    const found = this.#waiting.get(key)
    if (found !== undefined) return found
    const counter: Counter = {
      key,
      limit,
      baseline: undefined,
      hasBegun: false,
      counted: undefined,
      resetIn: undefined,
      inDoubt: [],
      likely: undefined,
      rank: undefined,
      chunk: undefined
    }
    this.#waiting.set(key, counter)
    this.#size++
    return counter
  }

  #begun (counter: Counter, baseline: LimitState | undefined): Counter {
    if (counter.hasBegun) return counter
    counter.hasBegun = true
    counter.baseline = baseline
    return counter
  }

  /** A counter that stays in its rank keeps its place. */
  #file (counter: Counter, rank: Set<Counter>): void {
    if (rank === counter.rank) return
    counter.rank?.delete(counter)
    counter.rank = rank
    rank.add(counter)
  }

  /** Looks at the baseline too: otherwise a reset counter would rank like a new one. */
  #rankOf ({ likely, counted, baseline, limit }: Counter, nowMs: number): Set<Counter> {
    return this.#ranks.of(Math.max(usedOf(likely ?? counted, nowMs, limit), usedOf(baseline, nowMs, limit)))
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
    chunk.counters.delete(counter as Counter & LocalCounter)
    if (chunk.counters.size === 0) this.#chunks = this.#chunks.filter(other => other !== chunk)
  }
}

/** Counters, blocks or values in one call, which holds Redis for about a millisecond. */
export const inChunk = 100

/** The rank of limited clients: more than any part of a quota. */
const limited = Infinity

/** Where the ranks begin, as used parts of the quota. */
const leastUsed = [0, 1 / 16, 1 / 4, 1 / 2, 3 / 4, limited] as const

function usedOf (state: LimitState | undefined, nowMs: number, limit: Limit): number {
  if (state === undefined) return 0
  const explanation = ruleOf(limit).explain(state, nowMs, limit)
  return explanation.retryAfterMs > 0 ? limited : usedPart(explanation, limit)
}

function isSame (a: InDoubt, b: InDoubt): boolean {
  return a.hit !== undefined && b.hit !== undefined && a.batch === b.batch && a.hit.limit === b.hit.limit &&
    a.hit.cost === b.hit.cost && a.hit.left === b.hit.left
}

function isReady (counter: Counter): counter is Counter & LocalCounter {
  return counter.counted !== undefined && counter.inDoubt.length === 0 && counter.resetIn === undefined
}

function apply (counter: Counter, hit: LocalHit): void {
  counter.counted = after(counter.counted ?? counter.baseline, hit)
}

function after (before: LimitState | undefined, { nowMs, limit, cost, left }: LocalHit): LimitState {
  const rule = ruleOf(limit)
  return left === 'hit' ? rule.accept(before, nowMs, limit, cost) : rule.refuse(before, nowMs, limit)
}
