/**
 * The decision about a request: exempt, blocked, limited or allowed. Knows the
 * stores and the lists, but nothing of HTTP.
 */
import { ArgumentError } from '../errors.js'
import type { Check } from '../rules/rate-limit.js'
import {
  type Answer, type Hit, isFallback, type LimitStore, type Outcome, type Owner, type Taken, type TakenOutside,
  type Unanswered
} from '../store/limit-store.js'
import type { MemoryBlocks } from '../store/memory/blocks.js'
import type { MemoryLimits } from '../store/memory/limits.js'
import { countedDecision, decisionBy, firstOf, shadowed } from './counted.js'
import type { Counted, Decision, Denied, Observer, Passed, Shadowed, Subject, Uncounted } from './decision.js'
import type { RefusalCache } from './refusal-cache.js'

/** A request as the first hook asks about it, which knows no limits. */
export interface Entry extends Subject {
  readonly isEntry: true
  /** on the plugin's allow list */
  readonly isListed: boolean
}

/** Who decides hits: the stores of the guard, or a class of the user's. */
export type HitStore = Pick<LimitStore, 'take' | 'peek'>

/** A request as the hook of a limit asks about it. */
export interface GuardedHit extends Hit {
  readonly isEntry: false
  readonly subject: Subject
  /** of the limit, or of what its limits have in common */
  readonly name: string
  /** on the allow list of the limit */
  readonly isListed: boolean
  /** who decides in place of the guard's store */
  readonly store: HitStore | undefined
}

/** A limit's question about a client. */
export interface Question extends Pick<GuardedHit, 'key' | 'checks' | 'onOutage' | 'store'> {}

export interface GuardOptions {
  readonly limits: LimitStore
  /** whether Redis answers now */
  readonly usesRedis: () => boolean
  /** the block list in this process */
  readonly blocks: Pick<MemoryBlocks, 'find'>
  /** the counters in this process */
  readonly memory: Pick<MemoryLimits, 'peek'>
  readonly refusals: RefusalCache
  /** default true; false: blocks are in shadow, as all else */
  readonly refusesBlocked?: boolean
  readonly observers: readonly Observer[]
}

export class Guard {
  readonly #limits: LimitStore
  readonly #usesRedis: () => boolean
  readonly #blocks: Pick<MemoryBlocks, 'find'>
  readonly #memory: Pick<MemoryLimits, 'peek'>
  readonly #refusals: RefusalCache
  readonly #refusesBlocked: boolean
  readonly #observers: readonly Observer[]

  constructor (options: GuardOptions) {
    const { limits, usesRedis, blocks, memory, refusals, refusesBlocked = true, observers } = options
    this.#limits = limits
    this.#usesRedis = usesRedis
    this.#blocks = blocks
    this.#memory = memory
    this.#refusals = refusals
    this.#refusesBlocked = refusesBlocked
    this.#observers = observers
  }

  /**
   * The precedence. Each request comes as an entry first, and then as a hit for
   * each of its limits.
   *
   * @returns undefined: the entry passes; the hit is answered later, see `conclude`
   */
  decide (hit: Entry | GuardedHit): Decision | undefined {
    if (hit.isListed) return hit.isEntry ? undefined : this.#pass('exempt', hit) // allow list: passes
    if (hit.isEntry) return this.#refuseBlocked(hit)                             // block list: 403
    if (hit.checks.length === 0) return this.#pass('unlimited', hit)             // max is Infinity: passes
    return this.#refuseAgain(hit) ?? this.#count(hit)                            // cached refusal: 429; else the store
  }

  /** Takes back a hit that was accepted and is not to count after all. */
  async refund (owner: Owner, taken: Taken): Promise<void> {
    const outcomes = taken.outcomes.filter(({ check }) => check.cost > 0)
    if (outcomes.length === 0) return
    this.#refusals.forget(owner, outcomes.map(({ check }) => check))
    await this.#limits.refund(owner, { ...taken, outcomes })
  }

  /**
   * How far a key is, by the limit that tells most; nothing is counted, and no
   * observer is told.
   *
   * @throws the failure of the store, where `fail` asks for it
   */
  async peek (question: Question): Promise<Counted | UnansweredDecision> {
    const { key, checks, onOutage, store = this.#limits } = question
    let outcomes: readonly Outcome[]
    try {
      outcomes = await store.peek(key, checks)
    } catch (failure) {
      // It is the application's mistake, and no outage.
      if (failure instanceof ArgumentError) throw failure
      if (isFallback(onOutage)) outcomes = this.#memory.peek(key, checks)
      else {
        const decision = unansweredDecision(question)
        if (decision === undefined) throw failure
        return decision
      }
    }
    const peeked = { kind: 'taken', source: 'local', accepted: true, outcomes } as const
    return countedDecision(key, peeked) ?? shadowed(key, checks, 'local')
  }

  #pass (kind: Passed['kind'], { name, key, subject }: GuardedHit): Passed {
    return this.#tell({ kind, source: 'local', key, name }, subject)
  }

  /** Answered from this process. */
  #refuseBlocked (entry: Entry): Decision | undefined {
    const { address } = entry.client
    const block = address && this.#blocks.find(address)
    if (block === undefined) return undefined
    const of = { source: 'local', key: block.ip, name: undefined } as const
    if (this.#refusesBlocked) return this.#tell({ kind: 'blocked', ...of }, entry)
    this.#tell({ kind: 'shadowed', ...of, taken: undefined }, entry)
    return undefined
  }

  /** A refusal of a moment ago, which Redis would repeat. A refusal stays in an outage: it is nobody's second quota. */
  #refuseAgain (hit: GuardedHit): Decision | undefined {
    const canAsk = this.#usesRedis()
    if (hit.store !== undefined || !(canAsk || isFallback(hit.onOutage))) return undefined
    const taken = this.#refusals.refuse(hit, canAsk)
    return taken && this.#concludeTaken(hit, taken)
  }

  /** @returns undefined: the answer comes later */
  #count (hit: GuardedHit): Decision | undefined {
    const answer = (hit.store ?? this.#limits).take(hit)
    return answer && this.conclude(hit, answer)
  }

  /** What the answer of a store means; the hit calls it with an answer that comes later. */
  conclude (hit: GuardedHit, answer: Answer): Decision {
    if (answer.kind === 'unanswered') return this.#concludeUnanswered(hit, answer)
    if (answer.source === 'redis') this.#refusals.learn(hit, answer)
    return this.#concludeTaken(hit, answer)
  }

  /** What observers are told differs from the reply where limits are in shadow. */
  #concludeTaken (hit: GuardedHit, taken: Taken | TakenOutside): Decision {
    const { key, subject } = hit
    const { source, outcomes } = taken
    for (const { check: { name, shadow }, fits } of outcomes) {
      if (shadow === true && !fits) this.#tell({ kind: 'shadowed', source, key, name, taken }, subject)
    }
    const decision = countedDecision(key, taken)
    if (decision !== undefined) return this.#tell(decision, subject)
    if (outcomes.every(({ fits }) => fits)) this.#tell(decisionBy(firstOf(outcomes), key, taken), subject)
    return shadowed(key, hit.checks, source, taken)
  }

  #concludeUnanswered (hit: GuardedHit, { failure }: Unanswered): Decision {
    const { key, checks, subject } = hit
    const { name, limit } = inForce(checks) ?? firstOf(checks)
    const decision = unansweredDecision(hit) ?? { kind: 'failed', source: 'local', key, name, failure }
    // Observers hear of a request that nobody counts, though all of its limits are in shadow.
    if (decision.kind === 'shadowed') this.#tell({ kind: 'uncounted', source: 'local', key, name, limit }, subject)
    else this.#tell(decision, subject)
    return decision
  }

  #tell<D extends Decision> (decision: D, subject: Subject): D {
    for (const observer of this.#observers) observer(decision, subject)
    return decision
  }
}

/** A decision on a request that nobody could count. */
type UnansweredDecision = Shadowed | Uncounted | Denied

/** @returns undefined: it fails */
function unansweredDecision ({ key, checks, onOutage }: Question): UnansweredDecision | undefined {
  const check = inForce(checks)
  if (check === undefined) return shadowed(key, checks, 'local')
  if (onOutage === 'fail') return undefined
  const { name, limit } = check
  const of = { source: 'local', key, name } as const
  return onOutage === 'deny' ? { kind: 'denied', ...of } : { kind: 'uncounted', ...of, limit }
}

/** The first limit that could refuse the request. */
function inForce (checks: readonly Check[]): Check | undefined {
  return checks.find(({ shadow, cost }) => shadow !== true && cost > 0)
}
