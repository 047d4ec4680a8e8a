/**
 * What became of one request. A tagged union: whoever switches over `kind`
 * ends in a `never`, so that a new kind fails to compile wherever somebody
 * has to care.
 */
import type { Explanation, Limit } from './rate-limit.js'

export type Verdict = Counted | Blocked | Exempt | Uncounted | Denied

/**
 * Who answers while Redis is away: memory, as if this were the only instance
 * (`memory`) or one of several (`share`), or nobody: then every request passes
 * uncounted (`allow`), gets a 503 (`deny`), or fails with a 500 (`fail`).
 */
export type OnOutage = 'memory' | 'share' | 'allow' | 'deny' | 'fail'

/** Which store decided; `local` are the lists of this process, and its memory of what Redis refused. */
export type Source = 'redis' | 'memory' | 'local'

/** Counted against a limit, which let it pass or refused it. */
export interface Counted {
  readonly kind: 'allowed' | 'limited'
  readonly source: Source
  /** whom it was counted against */
  readonly key: string
  readonly limit: Limit
  readonly explanation: Explanation
}

/** Refused because of its address. */
export interface Blocked {
  readonly kind: 'blocked'
}

/** On the allow list: passed, and was not counted. */
export interface Exempt {
  readonly kind: 'exempt'
}

/** Passed without being counted: Redis could not answer, and `onOutage` is `allow`. */
export interface Uncounted {
  readonly kind: 'uncounted'
  readonly key: string
  readonly limit: Limit
}

/** Refused without being counted: Redis could not answer, and `onOutage` is `deny`. */
export interface Denied {
  readonly kind: 'denied'
}
