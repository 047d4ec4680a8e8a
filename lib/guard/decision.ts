/**
 * What became of one request, for its reply and for those who watch. A tagged
 * union: whoever switches over `kind` ends in a `never`, so that a new kind
 * fails to compile wherever somebody has to care.
 */
import type { Limit } from '../rules/rate-limit.js'
import type { Explanation } from '../rules/rule.js'
import type { Taken, TakenOutside } from '../store/limit-store.js'
import type { Client } from './client.js'

export type Decision = Counted | Blocked | Passed | Shadowed | Uncounted | Denied | Failed

/**
 * Which store decided. `custom` is a class of the user's; `local` are the lists
 * of this process, its memory of what Redis refused, and `onOutage` where
 * nobody counts.
 */
export type Source = 'redis' | 'memory' | 'custom' | 'local'

/** What is known of each decision. */
interface Of {
  readonly source: Source
  /** whom it was counted against; of a block the address or range that is blocked */
  readonly key: string
  /** of the limit; undefined for a block */
  readonly name: string | undefined
}

/** A limit that a request was counted against, and what that means to its client. */
export interface Explained {
  /** of the limit */
  readonly name: string
  readonly limit: Limit
  readonly explanation: Explanation
}

/**
 * Counted against limits, which let it pass or refused it. What it says itself
 * is of the limit that tells the client most: of those that refuse it the one
 * that does so for longest, else the one with the least left.
 */
export interface Counted extends Of, Explained {
  readonly kind: 'allowed' | 'limited'
  readonly name: string
  /** the other limits that were asked, except those in shadow */
  readonly others: readonly Explained[]
  readonly taken: Taken | TakenOutside
}

/** Refused because of its address. */
export interface Blocked extends Of {
  readonly kind: 'blocked'
}

/**
 * Passed without being counted. `exempt`: on an allow list. `unlimited`: its
 * `max` is Infinity. `skipped`: `skip` leaves it out, or the same limit has
 * decided it in a hook before; nobody is told of these.
 */
export interface Passed extends Of {
  readonly kind: 'exempt' | 'unlimited' | 'skipped'
}

/**
 * Passed, since what it has is in shadow. Those who watch are told so of each
 * limit that would have refused it, beside what other limits decided.
 */
export interface Shadowed extends Of {
  readonly kind: 'shadowed'
  /** undefined: nobody has counted it */
  readonly taken: Taken | TakenOutside | undefined
}

/** Passed without being counted: Redis could not answer, and `onOutage` is `allow`. */
export interface Uncounted extends Of {
  readonly kind: 'uncounted'
  /** of the first of its limits */
  readonly name: string
  readonly limit: Limit
}

/** Refused without being counted: Redis could not answer, and `onOutage` is `deny`. */
export interface Denied extends Of {
  readonly kind: 'denied'
}

/** Neither passed nor refused: Redis could not answer, and `onOutage` is `fail`; or a function of the user's failed. */
export interface Failed extends Of {
  readonly kind: 'failed'
  readonly failure: Error
}

/** What observers read of a request; read only where somebody wants to know. */
export interface Subject {
  readonly client: Client
  readonly method: string
  /** pattern of the route; undefined for a 404 */
  readonly route: string | undefined
  /** Fastify's id of the request */
  readonly requestId?: string
}

/** Called with each decision before it is answered; must not throw. */
export type Observer = (decision: Decision, subject: Subject) => void
