/**
 * The decision on a request, as a tagged union. Each `switch` over `kind` is exhaustive, so a new kind fails to compile
 * wherever it must be handled.
 */
import type { Limit } from '../rules/rate-limit.js'
import type { Explanation } from '../rules/rule.js'
import type { Taken, TakenOutside } from '../store/limit-store.js'
import type { Client } from './client.js'

export type Decision = Counted | Blocked | Passed | Shadowed | Uncounted | Denied | Failed

/**
 * What decided. `redis`, `memory` and `custom` (a class of the user) counted the request. `local`: this process decided
 * without a store, by an allow list, the block list or the refusal cache, or by `onOutage` because nothing can count.
 */
export type Source = 'redis' | 'memory' | 'custom' | 'local'

/** What every decision has. */
interface Common {
  readonly source: Source
  /** the client that was counted; for a block, the blocked address or range */
  readonly key: string
  /** name of the limit; undefined for a block */
  readonly name: string | undefined
}

/** A limit that counted a request, and where that leaves the client. */
export interface Explained {
  /** name of the limit */
  readonly name: string
  readonly limit: Limit
  readonly explanation: Explanation
}

/**
 * Counted by its limits, which allowed or limited it. `name`, `limit` and `explanation` are those of the limit that
 * restricts the client most: the one that refuses it for longest, or the one with the least left.
 */
export interface Counted extends Common, Explained {
  readonly kind: 'allowed' | 'limited'
  readonly name: string
  /** the other limits of the request, except those in shadow */
  readonly others: readonly Explained[]
  readonly taken: Taken | TakenOutside
}

/** Refused because of its address. */
export interface Blocked extends Common {
  readonly kind: 'blocked'
}

/**
 * Passed without being counted. `exempt`: on an allow list. `unlimited`: its `max` is Infinity. `skipped`: `skip`
 * leaves it out, or the same limit has decided it in an earlier hook; observers do not see these.
 */
export interface Passed extends Common {
  readonly kind: 'exempt' | 'unlimited' | 'skipped'
}

/**
 * Passed, because all limits of the request are in shadow, or the block is. Observers also get one of these for each
 * limit in shadow that would have refused the request, in addition to the decision of the other limits.
 */
export interface Shadowed extends Common {
  readonly kind: 'shadowed'
  /** undefined: it was not counted */
  readonly taken: Taken | TakenOutside | undefined
}

/** Passed without being counted: Redis could not answer, and `onOutage` is `allow`. */
export interface Uncounted extends Common {
  readonly kind: 'uncounted'
  /** name of the first limit that is in force */
  readonly name: string
  readonly limit: Limit
}

/** Refused without being counted: Redis could not answer, and `onOutage` is `deny`. */
export interface Denied extends Common {
  readonly kind: 'denied'
}

/**
 * The request fails with an error: Redis could not answer and `onOutage` is `fail`, or a function of the user failed.
 */
export interface Failed extends Common {
  readonly kind: 'failed'
  readonly failure: Error
}

/** What observers may read of a request; getters compute it only when it is read. */
export interface Subject {
  readonly client: Client
  readonly method: string
  /** pattern of the route; undefined for a 404 */
  readonly route: string | undefined
  /** Fastify's id of the request */
  readonly requestId?: string
}

/** Called with each decision before the request is answered. It must not throw. */
export type Observer = (decision: Decision, subject: Subject) => void
