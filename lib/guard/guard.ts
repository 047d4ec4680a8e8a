/**
 * The decision about a request: exempt, blocked, limited or allowed. Knows the
 * stores and the lists, but nothing of HTTP.
 */
import { ArgumentError } from '../errors.js'
import type { RequestLimits } from '../outage/limits.js'
import { explainHit, ruleOf } from '../rules/rate-limit.js'
import type { Explanation, LimitState } from '../rules/rule.js'
import type { OnOutage } from '../settings/options.js'
import type { Hit, NamedCheck, Peeked, Taken } from '../store/limit-store.js'
import type { MemoryBlocks } from '../store/memory/blocks.js'
import type { MemoryLimits } from '../store/memory/limits.js'
import type {
  Counted, Decision, Denied, Explained, Observer, Passed, Shadowed, Source, Subject, Uncounted
} from './decision.js'
import type { DenyCache } from './refusal-cache.js'

/** A request as the first hook asks about it, which knows no limits. */
export interface Entry extends Subject {
  readonly isEntry: true
  /** on the plugin's allow list */
  readonly isListed: boolean
}

/** Whom a request is counted against, and how. */
export interface Countable {
  readonly key: string
  /**
   * empty: there is no limit; the same array for each request that has the
   * same limits, so that a batch tells Redis about them once
   */
  readonly checks: readonly NamedCheck[]
  /** who answers when Redis cannot */
  readonly onOutage: OnOutage
  /** who decides in place of the guard's store */
  readonly counter: Counter | undefined
}

/** A request as the hook of a limit asks about it. */
export interface GuardedHit extends Countable, Hit {
  readonly isEntry: false
  readonly subject: Subject
  /** of the limit, or of what its limits have in common */
  readonly name: string
  /** on the allow list of the limit */
  readonly isListed: boolean
  /** Called once, in the asynchronous context of `decide`, with a decision that `decide` did not return. */
  finish (decision: Decision): void
}

export interface GuardOptions {
  readonly limits: RequestLimits
  /** whether Redis answers now */
  readonly usesRedis: () => boolean
  /** the block list in this process */
  readonly blocks: Pick<MemoryBlocks, 'find'>
  /** the counters in this process */
  readonly memory: Pick<MemoryLimits, 'peek'>
  readonly denyCache: DenyCache
  /** default true; false: blocks are in shadow, as all else */
  readonly refusesBlocked?: boolean
  readonly observers: readonly Observer[]
}

export class Guard {
  readonly #limits: RequestLimits
  readonly #usesRedis: () => boolean
  readonly #blocks: Pick<MemoryBlocks, 'find'>
  readonly #memory: Pick<MemoryLimits, 'peek'>
  readonly #denyCache: DenyCache
  readonly #refusesBlocked: boolean
  readonly #observers: readonly Observer[]

  constructor (options: GuardOptions) {
    const { limits, usesRedis, blocks, memory, denyCache, refusesBlocked = true, observers } = options
    this.#limits = limits
    this.#usesRedis = usesRedis
    this.#blocks = blocks
    this.#memory = memory
    this.#denyCache = denyCache
    this.#refusesBlocked = refusesBlocked
    this.#observers = observers
  }

  /**
   * The precedence. Each request comes as an entry first, and then as a hit for
   * each of its limits.
   *
   * @returns undefined: the entry passes; the hit is answered later, by `finish`
   */
  decide (hit: Entry | GuardedHit): Decision | undefined {
    if (hit.isListed) return hit.isEntry ? undefined : this.#pass('exempt', hit) // allow list: passes
    if (hit.isEntry) return this.#refuseBlocked(hit)                             // block list: 403
    if (hit.checks.length === 0) return this.#pass('unlimited', hit)             // max is Infinity: passes
    return this.#refuseAgain(hit) ?? this.#count(hit)                            // cached refusal: 429; else the store
  }

  /** Takes back a hit that was accepted and is not to count after all. */
  async refund ({ key, checks }: Checked, taken: Taken, source: Source): Promise<void> {
    const given = checks.filter(({ cost }) => cost > 0)
    if (given.length === 0) return
    this.#denyCache.forget({ key, checks: given })
    if (source === 'redis' || source === 'memory') await this.#limits.refund({ hit: { key, checks }, taken }, source)
  }

  /**
   * How far a key is, by the limit that tells most; nothing is counted, and no
   * observer is told.
   *
   * @throws the failure of the counter, where `fail` asks for it
   */
  async peek ({ key, checks, onOutage, counter = this.#limits }: Countable): Promise<Counted<Told> | Unanswered> {
    let peeked: Peeked
    try {
      peeked = await counter.peek(key, checks)
    } catch (failure) {
      // It is the application's mistake, and no outage.
      if (failure instanceof ArgumentError) throw failure
      if (isCountedByMemory(onOutage)) peeked = this.#memory.peek(key, checks)
      else {
        const unanswered = unansweredDecision({ key, checks, onOutage })
        if (unanswered === undefined) throw failure
        return unanswered
      }
    }
    const { nowMs, states } = peeked
    const told = { accepted: true, nowMs, outcomes: states.map(state => ({ fits: true, state })) }
    return countedDecision({ key, checks }, told, 'local') ?? shadowed({ key, checks }, 'local')
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
    const { onOutage, counter } = hit
    const canAsk = this.#usesRedis()
    if (counter !== undefined || !(canAsk || isCountedByMemory(onOutage))) return undefined
    const taken = this.#denyCache.refuse(hit, canAsk)
    return taken && this.#conclude(hit, taken, 'local')
  }

  /** @returns undefined: Redis answers later */
  #count (hit: GuardedHit): Decision | undefined {
    const { onOutage, counter = this.#limits } = hit
    const fallback = isCountedByMemory(onOutage) ? onOutage : undefined
    let decision: Decision | undefined
    let isLater = false
    counter.takeOne(hit, fallback, (failure, taken, source) => {
      if (taken === undefined) decision = this.#concludeUnanswered(hit, failure!)
      else {
        if (source === 'redis') this.#denyCache.learn(hit, taken)
        decision = this.#conclude(hit, taken, source)
      }
      if (isLater) hit.finish(decision)
    })
    isLater = true
    return decision
  }

  /** What observers are told differs from the reply where limits are in shadow. */
  #conclude (hit: GuardedHit, taken: Taken, source: Source): Decision {
    const { key, checks, subject } = hit
    checks.forEach(({ name, shadow }, i) => {
      if (shadow !== true || taken.outcomes[i]!.fits) return
      this.#tell({ kind: 'shadowed', source, key, name, taken }, subject)
    })
    const decision = countedDecision(hit, taken, source)
    if (decision !== undefined) return this.#tell(decision, subject)
    if (taken.outcomes.every(({ fits }) => fits)) this.#tell(decisionBy(hit, taken, source), subject)
    return { ...shadowed(hit, source), taken }
  }

  #concludeUnanswered (hit: GuardedHit, failure: Error): Decision {
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

/** Who counts: the two stores behind the breaker, or a class of the user's. */
export type Counter = Pick<RequestLimits, 'takeOne' | 'peek'>

/** Whether the first limits a client more: it has to wait longer, or has less left. */
export function isTighter (a: Explanation, b: Explanation): boolean {
  if (a.retryAfterMs !== b.retryAfterMs) return a.retryAfterMs > b.retryAfterMs
  return a.remaining === b.remaining ? a.resetMs > b.resetMs : a.remaining < b.remaining
}

/** What a store has decided, or only told; counters are undefined where there are none. */
type Told = Omit<Taken, 'outcomes'> & {
  readonly outcomes: readonly { readonly fits: boolean, readonly state: LimitState | undefined }[]
}

type Checked = Pick<Countable, 'key' | 'checks'>

/** @returns undefined: all of the limits are in shadow */
function countedDecision<T extends Told> (hit: Checked, taken: T, source: Source): Counted<T> | undefined {
  const { checks } = hit
  // Almost every request has one limit: it makes no lists.
  if (checks.length === 1) return firstOf(checks).shadow === true ? undefined : decisionBy(hit, taken, source)
  const { accepted, outcomes } = taken
  const explained = checks.map((check, i) => {
    const { name, limit } = check
    return { name, limit, explanation: explanationAt(i, check, taken) }
  })
  let at: number | undefined
  checks.forEach(({ shadow }, i) => {
    if (shadow === true || (!accepted && outcomes[i]!.fits)) return
    if (at === undefined || isTighter(explained[i]!.explanation, explained[at]!.explanation)) at = i
  })
  if (at === undefined) return undefined
  const others = explained.filter((_, i) => i !== at && checks[i]!.shadow !== true)
  const kind = accepted ? 'allowed' : 'limited'
  return { kind, source, key: hit.key, ...explained[at]!, others, taken }
}

/** The decision as the first limit has it. */
function decisionBy<T extends Told> ({ key, checks }: Checked, taken: T, source: Source): Counted<T> {
  const check = firstOf(checks)
  const { name, limit } = check
  return {
    kind: taken.accepted ? 'allowed' : 'limited',
    source,
    key,
    name,
    limit,
    explanation: explanationAt(0, check, taken),
    others: none,
    taken
  }
}

const none: readonly Explained[] = []

/** @param i  number of the check */
function explanationAt (i: number, { limit, cost }: NamedCheck, { explanations, outcomes, nowMs }: Told): Explanation {
  const explanation = explanations?.[i] ?? ruleOf(limit).explain(outcomes[i]!.state, nowMs, limit, cost)
  return explainHit(explanation, limit, cost)
}

/** A decision on a request that nobody could count. */
type Unanswered = Shadowed | Uncounted | Denied

/** @returns undefined: it fails */
function unansweredDecision (hit: Omit<Countable, 'counter'>): Unanswered | undefined {
  const { key, checks, onOutage } = hit
  const check = inForce(checks)
  if (check === undefined) return shadowed(hit, 'local')
  if (onOutage === 'fail') return undefined
  const { name, limit } = check
  const of = { source: 'local', key, name } as const
  return onOutage === 'deny' ? { kind: 'denied', ...of } : { kind: 'uncounted', ...of, limit }
}

function shadowed ({ key, checks }: Checked, source: Source): Shadowed {
  return { kind: 'shadowed', source, key, name: firstOf(checks).name, taken: undefined }
}

/** The first limit that could refuse the request. */
function inForce (checks: readonly NamedCheck[]): NamedCheck | undefined {
  return checks.find(({ shadow, cost }) => shadow !== true && cost > 0)
}

/** A hit without checks is decided before anybody counts. */
function firstOf (checks: readonly NamedCheck[]): NamedCheck {
  return checks[0]!
}

function isCountedByMemory (onOutage: OnOutage): onOutage is 'memory' | 'share' {
  return onOutage === 'memory' || onOutage === 'share'
}
