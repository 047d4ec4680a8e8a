/**
 * The store in this process: answers when there is no Redis, or while it is
 * away. Everything happens at once, so that no promise stands between a
 * request and its answer. Its block list is the one that requests are checked
 * against, whichever store is in use (see outage/block-replica.ts).
 */
import { ValueError } from '../../errors.js'
import { AddressList } from '../../addresses/address-list.js'
import { type Address, parseAddress, parseNetwork } from '../../addresses/address.js'
import type { HashKey } from '../../addresses/keyed-hash.js'
import { expiresAtMs, explain, isChanged, refund, take, takeAll, type Limit } from '../../rules/rate-limit.js'
import type { LimitState } from '../../rules/rule.js'
import { BlockTexts, BlockValues } from './block-columns.js'
import { EventRing } from './event-ring.js'
import type { Keys } from '../keys.js'
import { type Kept, LimitTable } from './counter-table.js'
import type { Hit, NamedCheck, Peeked, Refund, Taken } from '../limit-store.js'
import type { Block, BlockOperation, BlockRequest } from '../block-store.js'
import type { RateLimitEvent, Suspect } from '../event-store.js'
import type { Store } from '../store.js'
import type { ToldValue } from '../value-store.js'

export interface MemoryStoreOptions {
  readonly keys: Keys
  /** the most counters that are kept, and the most values */
  readonly capacity: number
  readonly maxEvents: number
  /** ms since 1970; the clock of durations (see clock.ts) */
  readonly now: () => number
  /** ms since 1970; the clock of times that people see. Default: `now` */
  readonly wall?: () => number
  /** 64 random bits, see LimitTable and AddressTable */
  readonly hashKey?: HashKey
}

/** See store/store.ts for what its methods do. */
export class MemoryStore implements Store {
  readonly #keys: Keys
  readonly #now: () => number
  readonly #wall: () => number
  readonly #limits: LimitTable
  readonly #events: EventRing
  readonly #values = new Map<string, Value>()
  #valueClock = 0
  readonly #capacity: number
  readonly #hashKey: HashKey
  #blocks: BlockList
  #noted: (() => void)[] | undefined
  /** when which block was lifted, on the clock `now`; the oldest first */
  readonly #lifted = new Map<string, number>()

  constructor ({ keys, capacity, maxEvents, now, wall = now, hashKey = [0, 0] }: MemoryStoreOptions) {
    this.#keys = keys
    this.#now = now
    this.#wall = wall
    this.#capacity = capacity
    this.#limits = new LimitTable(capacity, hashKey)
    this.#hashKey = hashKey
    this.#blocks = this.newBlockList()
    this.#events = new EventRing(maxEvents)
  }

  /** How many counters are kept. */
  get size (): number {
    return this.#limits.size
  }

  /** How many blocks are kept; some may have run out since the last `sweep`. */
  get blockCount (): number {
    return this.#blocks.size
  }

  take (hits: readonly Hit[]): readonly Taken[] {
    return hits.map(hit => this.takeOne(hit))
  }

  takeOne (hit: Hit): Taken {
    const nowMs = this.#now()
    if (hit.checks.length === 1) return this.#takeSingle(hit, hit.checks[0]!, nowMs)
    const keys = hit.checks.map(({ name, limit }) => this.#keys.limit(limit.algorithm, name, hit.key))
    const entries = keys.map((key, i) => this.#limits.find(key, hit.checks[i]!.name, hit.from, nowMs))
    const { accepted, outcomes } = takeAll(entries.map(entry => entry?.state), nowMs, hit.checks)
    outcomes.forEach((outcome, i) => {
      if (isChanged(outcome)) this.#limits.keep(entries[i], keys[i]!, keptOf(hit, hit.checks[i]!, outcome.state, nowMs), nowMs)
    })
    return { accepted, nowMs, outcomes }
  }

  /**
   * Takes note of what another store has told about a counter, to go on from there.
   *
   * @param of           the key of the counter, and the address that asked for it
   * @param othersNowMs  the other store's clock when it was so
   */
  learn (of: Asking, check: NamedCheck, { used, previous, atMs }: LimitState, othersNowMs: number): void {
    const { name, limit } = check
    const nowMs = this.#now()
    const key = this.#keys.limit(limit.algorithm, name, of.key)
    const entry = this.#limits.find(key, name, of.from, nowMs)
    const told = { used, previous, atMs: atMs - othersNowMs + nowMs }
    this.#limits.learn(entry, key, keptOf(of, check, told, nowMs), nowMs)
  }

  /** A counter, as far as it is known here. */
  known (client: string, { name, limit }: NamedCheck): LimitState | undefined {
    return this.#limits.peek(this.#keys.limit(limit.algorithm, name, client), this.#now())
  }

  /** Takes back a hit that is not to count after all, as far as it is known here. */
  refund ({ hit, taken }: Refund): void {
    hit.checks.forEach((check, i) => {
      const { fits, state } = taken.outcomes[i]!
      if (fits) this.takeBack(hit.key, check, state)
    })
  }

  /** @param counted  the counter as the hit left it */
  takeBack (client: string, check: NamedCheck, counted: LimitState): void {
    const known = this.known(client, check)
    if (known === undefined) return
    this.learn({ key: client }, check, refund(known, check.limit, check.cost, counted), this.#now())
  }

  forget (client: string, checks: readonly NamedCheck[]): boolean {
    const nowMs = this.#now()
    return checks.map(({ name, limit }) => this.#limits.delete(this.#keys.limit(limit.algorithm, name, client), nowMs)).includes(true)
  }

  peek (client: string, checks: readonly NamedCheck[]): Peeked {
    return { nowMs: this.#now(), states: checks.map(check => this.known(client, check)) }
  }

  /** All counters that are known here, by their keys in Redis; some may have expired. */
  counters (): Iterable<{ readonly key: string, readonly limit: Limit, readonly state: LimitState }> {
    return this.#limits.entries()
  }

  get (key: string): string | null {
    return this.#value(key)?.text ?? null
  }

  set (key: string, value: string, ttlMs: number | undefined): void {
    this.#keepValue(key, value, ttlMs ?? Infinity)
  }

  /** Counts what is done to values here. */
  get valueClock (): number {
    return this.#valueClock
  }

  /**
   * Takes note of what another store has told about a value.
   *
   * @param told   undefined: there is none
   * @param since  `valueClock` when the other was asked: what was done here since is later
   */
  learnValue (key: string, told: ToldValue | undefined, since: number): void {
    if ((this.#values.get(key)?.changed ?? 0) > since) return
    if (told === undefined) this.#values.delete(key)
    else this.#keepValue(key, told.text, told.leftMs)
  }

  incr (key: string): number {
    const value = this.#value(key)
    const text = value?.text ?? '0'
    if (!/^(0|-?[1-9]\d{0,18})$/.test(text)) throw new ValueError(notWhole)
    const next = BigInt(text) + 1n
    if (BigInt.asIntN(64, next) !== next) throw new ValueError(notWhole)
    if (value === undefined) this.set(key, String(next), undefined)
    else Object.assign(value, { text: String(next), changed: ++this.#valueClock })
    return Number(next)
  }

  expire (key: string, ttlMs: number): boolean {
    const value = this.#value(key)
    if (value === undefined) return false
    Object.assign(value, { expiresAtMs: this.#now() + ttlMs, changed: ++this.#valueClock })
    return true
  }

  del (key: string): boolean {
    return this.#value(key) !== undefined && this.#values.delete(key)
  }

  logEvents (events: readonly RateLimitEvent[]): void {
    for (const event of events) this.#events.add(event)
  }

  events (limit: number): readonly RateLimitEvent[] {
    return this.#events.latest(limit)
  }

  clearEvents (olderThanMs: number): number {
    return this.#events.clear(olderThanMs === 0 ? Infinity : this.#wall() - olderThanMs)
  }

  suspects (limit: number): readonly Suspect[] {
    return this.#events.suspects(limit)
  }

  /** @param atMs  when it was, on the clock `now`: what was blocked later stays; undefined: now */
  block (request: BlockRequest, atMs?: number): Block {
    const { ip, durationMs, reason, origin, replace } = request
    const blockedAtMs = atMs ?? this.#now()
    this.#noted?.push(() => { this.block(request, blockedAtMs) })
    if (replace === true) this.#lift(ip, atMs)
    const standing = this.#blocks.get(parseNetwork(ip)!)
    const block = { ip, reason, origin, blockedAtMs, expiresAtMs: blockedAtMs + durationMs }
    if (standing !== undefined && standing.expiresAtMs >= block.expiresAtMs) return this.#shown(standing)
    this.#put(block)
    return this.#shown(block)
  }

  /** Takes over the block that stands in another store; its times are on the clock `now`. */
  putBlock (block: Block): void {
    this.#noted?.push(() => this.#put(block))
    const known = this.#blocks.get(parseNetwork(block.ip)!)
    // The other store has lifted the longer one first.
    if (known !== undefined && known.expiresAtMs > block.expiresAtMs + sameEndMs) this.#lift(block.ip)
    this.#put(block)
  }

  /** Takes over what stands in another store for one address or range; undefined: nothing. */
  holdBlock (ip: string, block: Block | undefined): void {
    if (block !== undefined) this.putBlock(block)
    else if (this.#blocks.get(parseNetwork(ip)!) !== undefined) this.unblock(ip)
  }

  /** An empty list for `replaceBlocks`. */
  newBlockList (): BlockList {
    const texts = new BlockTexts()
    return new AddressList(() => new BlockValues(texts), this.#hashKey)
  }

  /** From now on, changes are noted: the list that `replaceBlocks` brings may have been read before them. */
  noteBlockChanges (): void {
    this.#noted = []
  }

  /** Forgets the changes noted for a list that could not be read. */
  forgetNotedChanges (): void {
    this.#noted = undefined
  }

  /** Takes over a whole list in place of its own, with the changes that were noted since. */
  replaceBlocks (blocks: BlockList): void {
    this.#blocks = blocks
    const noted = this.#noted
    this.#noted = undefined
    for (const change of noted ?? []) change()
  }

  /** @param atMs  as for `block` */
  unblock (ip: string, atMs?: number): boolean {
    this.#noted?.push(() => { this.unblock(ip, atMs) })
    const block = this.#lift(ip, atMs)
    return block !== undefined && block.expiresAtMs > this.#now()
  }

  /** The last blocks that were lifted, blocked again or not, with times on the clock `now`. */
  liftedBlocks (): readonly (BlockOperation & { readonly unblock: string })[] {
    return [...this.#lifted].map(([unblock, atMs]) => ({ atMs, unblock }))
  }

  isBlocked (address: string): boolean {
    return this.findBlock(parseAddress(address)!) !== undefined
  }

  /** The block that is in force for an address. */
  findBlock (address: Address): Block | undefined {
    if (this.#blocks.isEmpty) return undefined
    const nowMs = this.#now()
    return this.#blocks.find(address, (values, index) => values.expiresAtMs(index) > nowMs)
  }

  blocks (): readonly Block[] {
    return this.steadyBlocks().map(block => this.#shown(block))
  }

  /** Like `blocks`, with times on the clock `now`. */
  steadyBlocks (): readonly Block[] {
    const nowMs = this.#now()
    return [...this.#blocks.entries()]
      .map(([, block]) => block)
      .filter(block => block.expiresAtMs > nowMs)
      .sort((a, b) => a.ip < b.ip ? -1 : 1)
  }

  /** Forgets what has expired. */
  sweep (): void {
    const nowMs = this.#now()
    this.#limits.sweep(nowMs)
    for (const [key, value] of this.#values) {
      if (value.expiresAtMs <= nowMs) this.#values.delete(key)
    }
    this.#blocks.sweep((values, index) => values.expiresAtMs(index) <= nowMs)
  }

  /** A block with its times on the wall clock. */
  #shown (block: Block): Block {
    // In whole seconds: the two clocks round differently, and a block must show the same times each time.
    const aheadMs = Math.round((this.#wall() - this.#now()) / 1000) * 1000
    return { ...block, blockedAtMs: block.blockedAtMs + aheadMs, expiresAtMs: block.expiresAtMs + aheadMs }
  }

  /** Almost every hit has one limit: it makes no lists. */
  #takeSingle (hit: Hit, check: NamedCheck, nowMs: number): Taken {
    const { name, limit, cost } = check
    const key = this.#keys.limit(limit.algorithm, name, hit.key)
    const entry = this.#limits.find(key, name, hit.from, nowMs)
    const outcome = take(entry?.state, nowMs, limit, cost)
    if (isChanged(outcome)) this.#limits.keep(entry, key, keptOf(hit, check, outcome.state, nowMs), nowMs)
    return { accepted: outcome.fits || check.shadow === true, nowMs, outcomes: [outcome] }
  }

  #put (block: Block): void {
    const { ip, blockedAtMs } = block
    this.#blocks.set(parseNetwork(ip)!, block)
    // Still known as lifted, but before this block: a Redis that comes back with older data may have an earlier one.
    const liftedAtMs = this.#lifted.get(ip)
    if (liftedAtMs !== undefined && liftedAtMs >= blockedAtMs) this.#lifted.set(ip, blockedAtMs - 1)
  }

  /** @returns the block that was lifted, if there was one */
  #lift (ip: string, atMs?: number): Block | undefined {
    const network = parseNetwork(ip)!
    const block = this.#blocks.get(network)
    if (block !== undefined && atMs !== undefined && block.blockedAtMs > atMs) return undefined
    this.#blocks.delete(network)
    this.#lifted.delete(ip)
    this.#lifted.set(ip, atMs ?? this.#now())
    if (this.#lifted.size > mostLifted) this.#lifted.delete(this.#lifted.keys().next().value!)
    return block
  }

  #keepValue (key: string, text: string, ttlMs: number): void {
    this.#values.delete(key)
    this.#values.set(key, { text, expiresAtMs: this.#now() + ttlMs, changed: ++this.#valueClock })
    if (this.#values.size > this.#capacity) this.#values.delete(this.#values.keys().next().value!)
  }

  #value (key: string): Value | undefined {
    const value = this.#values.get(key)
    if (value === undefined || value.expiresAtMs > this.#now()) return value
    this.#values.delete(key)
    return undefined
  }
}

/** The key of a counter, and the address that asks. */
type Asking = Pick<Hit, 'key' | 'from'>

export type BlockList = AddressList<Block, BlockValues>

interface Value {
  text: string
  /** ms since 1970; Infinity: never */
  expiresAtMs: number
  /** `valueClock` when something was done to it last */
  changed: number
}

function keptOf ({ from }: Asking, { name, limit }: NamedCheck, state: LimitState, nowMs: number): Kept {
  const { retryAfterMs, remaining } = explain(state, nowMs, limit)
  return {
    limitName: name,
    from,
    limit,
    state,
    expiresAtMs: expiresAtMs(state, limit),
    heldUntilMs: nowMs + retryAfterMs,
    share: 1 - remaining / Math.max(1, limit.burst)
  }
}

/** Blocks of one address whose ends differ by less, in ms, are taken for the same: two stores have two clocks. */
export const sameEndMs = 1000

/** As many as Redis keeps: see `maxChanges` in store/redis/blocks.ts. */
const mostLifted = 10_000

const notWhole = 'incr needs a whole number of at most 64 bits under the key'
