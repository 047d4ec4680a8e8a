/**
 * Decides on a request: exempt, blocked, limited or allowed. It knows the stores and the lists, but nothing of HTTP.
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

/** A request in the first hook of the instance, before any limit. */
export interface Entry extends Subject {
  readonly isEntry: true
  /** on the plugin's allow list */
  readonly isListed: boolean
}

/** What counts hits: the store of the guard, or a class of the user. */
export type HitStore = Pick<LimitStore, 'take' | 'peek'>

/** A request in the hook of a limit. */
export interface GuardedHit extends Hit {
  readonly isEntry: false
  readonly subject: Subject
  /** name of the limit, or the common part of the names of its limits */
  readonly name: string
  /** on the allow list of the limit */
  readonly isListed: boolean
  /** counts in place of the guard's store */
  readonly store: HitStore | undefined
}

/** What `peek` asks about a client. */
export interface Question extends Pick<GuardedHit, 'clientKey' | 'checks' | 'onOutage' | 'store'> {}

export interface GuardOptions {
  readonly limits: LimitStore
  /** whether Redis answers now */
  readonly usesRedis: () => boolean
  /** the block list in this process */
  readonly blocks: Pick<MemoryBlocks, 'find'>
  /** the counters in this process */
  readonly memory: Pick<MemoryLimits, 'peek'>
  readonly refusals: RefusalCache
  /** default true; false: blocks are in shadow */
  readonly refusesBlocked?: boolean
  /** sees each decision */
  readonly observe: Observer
}

export class Guard {
  readonly #limits: LimitStore
  readonly #usesRedis: () => boolean
  readonly #blocks: Pick<MemoryBlocks, 'find'>
  readonly #memory: Pick<MemoryLimits, 'peek'>
  readonly #refusals: RefusalCache
  readonly #refusesBlocked: boolean
  readonly #observer: Observer

  constructor (options: GuardOptions) {
    const { limits, usesRedis, blocks, memory, refusals, refusesBlocked = true, observe } = options
    this.#limits = limits
    this.#usesRedis = usesRedis
    this.#blocks = blocks
    this.#memory = memory
    this.#refusals = refusals
    this.#refusesBlocked = refusesBlocked
    this.#observer = observe
  }

  /**
   * The precedence of lists and limits. Each request comes here as an entry first, then as a hit for each of its
   * limits.
   *
   * @returns undefined: an entry passes; a hit is answered later, see `conclude`
   */
  decide (hit: Entry | GuardedHit): Decision | undefined {
    if (hit.isListed) return hit.isEntry ? undefined : this.#pass('exempt', hit) // allow list: passes
    if (hit.isEntry) return this.#refuseBlocked(hit)                             // block list: 403
    if (hit.checks.length === 0) return this.#pass('unlimited', hit)             // max is Infinity: passes
    return this.#refuseAgain(hit) ?? this.#count(hit)                            // cached refusal: 429; else the store
  }

  /** Gives back an accepted hit that should not count after all. */
  async refund (owner: Owner, taken: Taken): Promise<void> {
    const outcomes = taken.outcomes.filter(({ check }) => check.cost > 0)
    if (outcomes.length === 0) return
    this.#refusals.forget(owner, outcomes.map(({ check }) => check))
    await this.#limits.refund(owner, { ...taken, outcomes })
  }

  /**
   * Shows where a client stands, by the limit that restricts it most. This counts nothing, and observers do not see it.
   *
   * @throws the failure of the store, if `onOutage` is `fail`
   * @throws ArgumentError  if a store of the user cannot peek
   */
  async peek (question: Question): Promise<Counted | UnansweredDecision> {
    const { clientKey: key, checks, onOutage, store = this.#limits } = question
    let outcomes: readonly Outcome[]
    try {
      outcomes = await store.peek(key, checks)
    } catch (failure) {
      // A mistake of the application, not an outage.
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

  #pass (kind: Passed['kind'], { name, clientKey: key, subject }: GuardedHit): Passed {
    return this.#observe({ kind, source: 'local', key, name }, subject)
  }

  /** @returns undefined: the address is not blocked, or blocks are in shadow */
  #refuseBlocked (entry: Entry): Decision | undefined {
    const { address } = entry.client
    const block = address && this.#blocks.find(address)
    if (block === undefined) return undefined
    const common = { source: 'local', key: block.ip, name: undefined } as const
    if (this.#refusesBlocked) return this.#observe({ kind: 'blocked', ...common }, entry)
    this.#observe({ kind: 'shadowed', ...common, taken: undefined }, entry)
    return undefined
  }

  /** Repeats a recent refusal of Redis. It also stands in an outage, which must give no client a second quota. */
  #refuseAgain (hit: GuardedHit): Decision | undefined {
    if (hit.store !== undefined || this.#refusals.size === 0) return undefined
    const canAsk = this.#usesRedis()
    if (!canAsk && !isFallback(hit.onOutage)) return undefined
    const taken = this.#refusals.refuse(hit, canAsk)
    return taken && this.#concludeTaken(hit, taken)
  }

  /** @returns undefined: the answer comes later */
  #count (hit: GuardedHit): Decision | undefined {
    const answer = (hit.store ?? this.#limits).take(hit)
    return answer && this.conclude(hit, answer)
  }

  /** Turns the answer of a store into a decision. A hit calls this with an answer that comes later. */
  conclude (hit: GuardedHit, answer: Answer): Decision {
    if (answer.kind === 'unanswered') return this.#concludeUnanswered(hit, answer)
    if (answer.source === 'redis') this.#refusals.adopt(hit, answer)
    return this.#concludeTaken(hit, answer)
  }

  /** Observers see more than the client: also each refusal by a limit in shadow. */
  #concludeTaken (hit: GuardedHit, taken: Taken | TakenOutside): Decision {
    const { clientKey: key, subject } = hit
    const { source, outcomes } = taken
    for (const { check: { name, shadow }, fits } of outcomes) {
      if (shadow === true && !fits) this.#observe({ kind: 'shadowed', source, key, name, taken }, subject)
    }
    const decision = countedDecision(key, taken)
    if (decision !== undefined) return this.#observe(decision, subject)
    if (outcomes.every(({ fits }) => fits)) this.#observe(decisionBy(firstOf(outcomes), key, taken), subject)
    return shadowed(key, hit.checks, source, taken)
  }

  #concludeUnanswered (hit: GuardedHit, { failure }: Unanswered): Decision {
    const { clientKey: key, checks, subject } = hit
    const { name, limit } = inForce(checks) ?? firstOf(checks)
    const decision = unansweredDecision(hit) ?? { kind: 'failed', source: 'local', key, name, failure }
    // Observers see that nothing counted the request, even if all of its limits are in shadow.
    if (decision.kind === 'shadowed') this.#observe({ kind: 'uncounted', source: 'local', key, name, limit }, subject)
    else this.#observe(decision, subject)
    return decision
  }

  #observe<D extends Decision> (decision: D, subject: Subject): D {
    this.#observer(decision, subject)
    return decision
  }
}

/** A decision on a request that no store could count. */
type UnansweredDecision = Shadowed | Uncounted | Denied

/** @returns undefined: the request fails */
function unansweredDecision ({ clientKey: key, checks, onOutage }: Question): UnansweredDecision | undefined {
  const check = inForce(checks)
  if (check === undefined) return shadowed(key, checks, 'local')
  if (onOutage === 'fail') return undefined
  const { name, limit } = check
  const common = { source: 'local', key, name } as const
  return onOutage === 'deny' ? { kind: 'denied', ...common } : { kind: 'uncounted', ...common, limit }
}

/** The first limit that could refuse the request. */
function inForce (checks: readonly Check[]): Check | undefined {
  return checks.find(({ shadow, cost }) => shadow !== true && cost > 0)
}
