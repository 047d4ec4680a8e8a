/** What a store does with the events that are recorded, and with the addresses that were limited often in them. */
import type { Awaitable } from '../runtime/awaitable.js'

export interface RateLimitEvent {
  /** `limited` events make suspects */
  readonly type: 'limited' | 'blocked'
  /** canonical address; undefined where there is none, as on a unix socket */
  readonly ip?: string | undefined
  /** whom it was counted against, where that is not the address */
  readonly key?: string | undefined
  /** name of the limit */
  readonly limit?: string | undefined
  readonly method?: string | undefined
  /** the route's pattern */
  readonly route?: string | undefined
  /** how many requests this one event stands for */
  readonly count: number
  /** when it happened, ms since 1970 */
  readonly atMs: number
}

/** An address that was limited often. */
export interface Suspect {
  readonly ip: string
  /** how many of its requests were limited, in the recorded events */
  readonly count: number
}

export interface EventStore {
  logEvents (events: readonly RateLimitEvent[]): Awaitable<void>
  /** The latest, newest first. */
  events (limit: number): Awaitable<readonly RateLimitEvent[]>
  /** @param olderThanMs  0: all; @returns how many were removed */
  clearEvents (olderThanMs: number): Awaitable<number>
  /** Most limited first; among equals the later in the alphabet first. */
  suspects (limit: number): Awaitable<readonly Suspect[]>
}
