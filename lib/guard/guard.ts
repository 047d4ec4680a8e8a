/**
 * The decision about a request: exempt, blocked, limited or allowed. Knows the
 * stores and the lists, but nothing of HTTP.
 */
import { ArgumentError } from '../errors.js'
import { explainHit, ruleOf } from '../rules/rate-limit.js'
import type { Explanation, LimitState } from '../rules/rule.js'
import type {
  Blocked, Counted, Denied, Exempt, Explained, OnOutage, Shadowed, Source, Uncounted, Unlimited, Verdict
} from '../rules/verdict.js'
import type { RequestLimits } from '../outage/limits.js'
import type { MemoryStore } from '../store/memory/memory-store.js'
import type { NamedCheck, Peeked, Refund, Taken } from '../store/limit-store.js'
import type { Client } from './client.js'
import type { DenyCache } from './refusal-cache.js'
import type { KeyHash } from './key-hash.js'

/** What a decision was about, and what it was; for those who only watch. */
export interface GuardEvent {
  readonly outcome: Outcome
  readonly source: Source
  /** name of the limit; undefined for a block */
  readonly limit: string | undefined
  /** what it was counted by; of a block the address or range that is blocked */
  readonly key: string
  readonly subject: Subject
}

/**
 * `uncounted`, `denied`, `failed`: Redis was away, and `onOutage` is `allow`,
 * `deny` or `fail`. `shadowed`: a limit in shadow would have refused the
 * request; told of each of them, beside what its other limits have decided.
 */
export type Outcome = Exclude<Verdict['kind'], 'skipped'> | 'failed'

export type GuardListener = (event: GuardEvent) => void

/** The part of a request that events tell about; read only where somebody wants to know. */
export interface Subject {
  readonly client: Client
  readonly method: string
  /** pattern of the route; undefined for a 404 */
  readonly route: string | undefined
  /** Fastify's id of the request */
  readonly requestId?: string
}

export interface GuardOptions {
  readonly limits: RequestLimits
  /** whether Redis answers now */
  readonly usesRedis: () => boolean
  readonly memory: MemoryStore
  readonly denyCache: DenyCache
  /** replaces the answer of a `keyGenerator`; undefined: the answer itself is counted and shown */
  readonly hashKey?: KeyHash | undefined
  /** default true; false: blocks are in shadow, as all else */
  readonly refusesBlocked?: boolean
  readonly listeners: readonly GuardListener[]
}

/** Decides, and tells its listeners; they are not to throw. */
export class Guard {
  readonly #limits: RequestLimits
  readonly #usesRedis: () => boolean
  readonly #memory: MemoryStore
  readonly #denyCache: DenyCache
  readonly hashKey: KeyHash | undefined
  readonly #refusesBlocked: boolean
  readonly #listeners: readonly GuardListener[]

  constructor (options: GuardOptions) {
    const { limits, usesRedis, memory, denyCache, hashKey, refusesBlocked = true, listeners } = options
    this.#limits = limits
    this.#usesRedis = usesRedis
    this.#memory = memory
    this.#denyCache = denyCache
    this.hashKey = hashKey
    this.#refusesBlocked = refusesBlocked
    this.#listeners = listeners
  }

  /** The verdict when a block is in force for the client; answered from this process. */
  blocked (subject: Subject): Blocked | undefined {
    const { address, exempt } = subject.client
    const block = address === undefined || exempt ? undefined : this.#memory.blocks.find(address)
    if (block === undefined) return undefined
    this.#tell(subject, this.#refusesBlocked ? 'blocked' : 'shadowed', 'local', undefined, block.ip)
    return this.#refusesBlocked ? { kind: 'blocked' } : undefined
  }

  /** The verdict on a request that is on the allow list of a limit. */
  exempt (subject: Subject, limit: string, key: string): Exempt {
    this.#tell(subject, 'exempt', 'local', limit, key)
    return { kind: 'exempt', key }
  }

  /** The verdict on a request whose limits are all without an end. */
  unlimited (subject: Subject, limit: string, key: string): Unlimited {
    this.#tell(subject, 'unlimited', 'local', limit, key)
    return { kind: 'unlimited', key }
  }

  /**
   * Counts a request against limits; decided before it returns where memory
   * answers, and where Redis has refused the key a moment ago.
   *
   * @param checks    one limit at least; the same array for each request that
   *   has them, so that a batch tells Redis about them once
   * @param onOutage  who answers when Redis cannot
   * @param done      called once, with the verdict; with the failure where `fail` asks for it
   * @param counter   who decides in place of the store
   */
  take (
    subject: Subject, key: string, checks: readonly NamedCheck[], onOutage: OnOutage,
    done: TakeDone, counter: Counter = this.#limits
  ): void {
    const canAsk = this.#usesRedis()
    const fallback = isCountedByMemory(onOutage) ? onOutage : undefined
    const denied = counter === this.#limits && (canAsk || fallback !== undefined) ? this.#denyCache.refuse(key, checks, canAsk) : undefined
    if (denied !== undefined) return done(undefined, this.#verdictOn(subject, key, checks, denied, 'local'))
    const from = subject.client.key === key ? undefined : subject.client.key
    counter.takeOne({ key, checks, from }, fallback, (failure, taken, source) => {
      if (taken === undefined) return this.#unanswered(subject, key, checks, onOutage, failure!, done)
      if (source === 'redis') this.#denyCache.learn(key, checks, taken)
      done(undefined, this.#verdictOn(subject, key, checks, taken, source!), taken, source)
    })
  }

  #verdictOn (
    subject: Subject, key: string, checks: readonly NamedCheck[], taken: Taken, source: Source
  ): Counted | Shadowed {
    checks.forEach(({ name, shadow }, i) => {
      if (shadow === true && !taken.outcomes[i]!.fits) this.#tell(subject, 'shadowed', source, name, key)
    })
    const verdict = verdictOn(key, checks, taken, source)
    if (verdict !== undefined) {
      this.#tell(subject, verdict.kind, source, verdict.name, key)
      return verdict
    }
    if (taken.outcomes.every(({ fits }) => fits)) this.#tell(subject, 'allowed', source, checks[0]!.name, key)
    return { kind: 'shadowed', key }
  }

  /** Takes back a hit that was accepted and is not to count after all. */
  async refund (counted: CountedHit): Promise<void> {
    const given = counted.hit.checks.filter(({ cost }) => cost > 0)
    if (given.length === 0) return
    this.#denyCache.forget(counted.hit.key, given)
    if (counted.source !== 'custom') await this.#limits.refund(counted, counted.source)
  }

  /**
   * How far a key is, by the limit that tells most; nothing is counted.
   *
   * @throws the failure of the counter, where `fail` asks for it
   */
  async peek (
    key: string, checks: readonly NamedCheck[], onOutage: OnOutage, counter: Counter = this.#limits
  ): Promise<Counted | Unanswered> {
    let peeked: Peeked
    try {
      peeked = await counter.peek(key, checks)
    } catch (failure) {
      // It is the application's mistake, and no outage.
      if (failure instanceof ArgumentError) throw failure
      if (isCountedByMemory(onOutage)) peeked = this.#memory.limits.peek(key, checks)
      else {
        const verdict = unansweredVerdict(key, checks, onOutage)
        if (verdict === undefined) throw failure
        return verdict
      }
    }
    const { nowMs, states } = peeked
    const outcomes = states.map(state => ({ fits: true, state }))
    return verdictOn(key, checks, { accepted: true, nowMs, outcomes }, 'local') ?? { kind: 'shadowed', key }
  }

  #unanswered (
    subject: Subject, key: string, checks: readonly NamedCheck[], onOutage: OnOutage, failure: Error, done: TakeDone
  ): void {
    const verdict = unansweredVerdict(key, checks, onOutage)
    const outcome = verdict === undefined ? 'failed' : verdict.kind === 'shadowed' ? 'uncounted' : verdict.kind
    this.#tell(subject, outcome, 'local', (inForce(checks) ?? checks[0]!).name, key)
    if (verdict === undefined) done(failure, undefined)
    else done(undefined, verdict)
  }

  #tell (subject: Subject, outcome: Outcome, source: Source, limit: string | undefined, key: string): void {
    const event = { outcome, source, limit, key, subject }
    for (const listener of this.#listeners) listener(event)
  }
}

/** What a store has decided, or only told; counters are undefined where there are none. */
type Told = Omit<Taken, 'outcomes'> & {
  readonly outcomes: readonly { readonly fits: boolean, readonly state: LimitState | undefined }[]
}

/** @returns undefined: all of the limits are in shadow */
function verdictOn (key: string, checks: readonly NamedCheck[], taken: Told, source: Source): Counted | undefined {
  const { accepted, outcomes, nowMs } = taken
  const explanationOf = (i: number) => {
    const { limit, cost } = checks[i]!
    return explainHit(taken.explanations?.[i] ?? ruleOf(limit).explain(outcomes[i]!.state, nowMs, limit, cost), limit, cost)
  }
  const refusalsAt = (i: number) => ruleOf(checks[i]!.limit).refusals(outcomes[i]!.state, nowMs, checks[i]!.limit)
  const kind = accepted ? 'allowed' : 'limited'
  // Almost every request has one limit: it makes no lists.
  if (checks.length === 1) {
    const { name, limit, shadow } = checks[0]!
    if (shadow === true) return undefined
    return { kind, source, key, name, limit, explanation: explanationOf(0), refusals: refusalsAt(0), others: none }
  }
  const explained = checks.map(({ name, limit }, i) => ({ name, limit, explanation: explanationOf(i) }))
  let at: number | undefined
  checks.forEach(({ shadow }, i) => {
    if (shadow === true || (!accepted && outcomes[i]!.fits)) return
    if (at === undefined || isTighter(explained[i]!.explanation, explained[at]!.explanation)) at = i
  })
  if (at === undefined) return undefined
  return { kind, source, key, ...explained[at]!, refusals: refusalsAt(at), others: explained.filter((_, i) => i !== at && checks[i]!.shadow !== true) }
}

/** Whether the first limits a client more: it has to wait longer, or has less left. */
export function isTighter (a: Explanation, b: Explanation): boolean {
  if (a.retryAfterMs !== b.retryAfterMs) return a.retryAfterMs > b.retryAfterMs
  return a.remaining === b.remaining ? a.resetMs > b.resetMs : a.remaining < b.remaining
}

const none: readonly Explained[] = []

/** Who counts: the two stores behind the breaker, or a class of the user's. */
export type Counter = Pick<RequestLimits, 'takeOne' | 'peek'>

/** Called once; with what a store has counted, where one has. */
export type TakeDone = (failure: Error | undefined, verdict: Verdict | undefined, taken?: Taken, source?: CountedHit['source']) => void

/** What a store has counted, to be given back. */
export interface CountedHit extends Refund {
  readonly source: 'redis' | 'memory' | 'custom'
}

/** The verdict on a request that nobody could count. */
type Unanswered = Shadowed | Uncounted | Denied

/** @returns undefined: it fails */
function unansweredVerdict (key: string, checks: readonly NamedCheck[], onOutage: OnOutage): Unanswered | undefined {
  const check = inForce(checks)
  if (check === undefined) return { kind: 'shadowed', key }
  if (onOutage === 'fail') return undefined
  return onOutage === 'deny' ? { kind: 'denied' } : { kind: 'uncounted', key, name: check.name, limit: check.limit }
}

/** The first limit that could refuse the request. */
function inForce (checks: readonly NamedCheck[]): NamedCheck | undefined {
  return checks.find(({ shadow, cost }) => shadow !== true && cost > 0)
}

function isCountedByMemory (onOutage: OnOutage): onOutage is 'memory' | 'share' {
  return onOutage === 'memory' || onOutage === 'share'
}
