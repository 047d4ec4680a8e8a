/**
 * What became of one request. A tagged union: whoever switches over `kind`
 * ends in a `never`, so that a new kind fails to compile wherever somebody
 * has to care.
 */
import type { Limit } from './rate-limit.js'
import type { Explanation } from './rule.js'

export type Verdict = Counted | Shadowed | Blocked | Exempt | Skipped | Unlimited | Uncounted | Denied

/**
 * Who answers while Redis is away: memory, as if this were the only instance
 * (`memory`) or one of several (`share`), or nobody: then every request passes
 * uncounted (`allow`), gets a 503 (`deny`), or fails with a 500 (`fail`).
 */
export type OnOutage = 'memory' | 'share' | 'allow' | 'deny' | 'fail'

/** Which store decided; `custom` is a class of the user's, `local` are the lists of this process, its memory of what Redis refused, and `onOutage` where nobody counts. */
export type Source = 'redis' | 'memory' | 'custom' | 'local'

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
export interface Counted extends Explained {
  readonly kind: 'allowed' | 'limited'
  readonly source: Source
  /** whom it was counted against */
  readonly key: string
  /** requests that a fixed-window refused in this window; elsewhere 0 */
  readonly refusals: number
  /** the other limits that were asked, save those in shadow */
  readonly others: readonly Explained[]
}

/** Passed, since whatever limits it has are in shadow. */
export interface Shadowed {
  readonly kind: 'shadowed'
  readonly key: string
}

/** Refused because of its address. */
export interface Blocked {
  readonly kind: 'blocked'
}

/** On the allow list: passed, and was not counted. */
export interface Exempt {
  readonly kind: 'exempt'
  readonly key: string
}

/** Passed without being counted: `skip` leaves it out, or the same limit has decided it in a hook before. */
export interface Skipped {
  readonly kind: 'skipped'
  readonly key: string
}

/** Passed, and was not counted: its `max` is Infinity. */
export interface Unlimited {
  readonly kind: 'unlimited'
  readonly key: string
}

/** Passed without being counted: Redis could not answer, and `onOutage` is `allow`. */
export interface Uncounted {
  readonly kind: 'uncounted'
  readonly key: string
  /** of the first of its limits */
  readonly name: string
  readonly limit: Limit
}

/** Refused without being counted: Redis could not answer, and `onOutage` is `deny`. */
export interface Denied {
  readonly kind: 'denied'
}
