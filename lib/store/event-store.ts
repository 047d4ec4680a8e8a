/** The contract of a store for recorded events, and for suspects: addresses that were limited often in them. */
import type { Awaitable } from '../runtime/awaitable.js'

/** Equal refusals of a moment, or an event that the application has recorded. */
export interface RateLimitEvent {
  /** only `limited` events make suspects */
  readonly type: 'limited' | 'blocked'
  /** canonical address; undefined: there is none, as on a unix socket */
  readonly ip?: string | undefined
  /** key of the client, unless that is the address */
  readonly key?: string | undefined
  /** name of the limit */
  readonly limit?: string | undefined
  /** HTTP method */
  readonly method?: string | undefined
  /** pattern of the route */
  readonly route?: string | undefined
  /** number of requests that this event stands for */
  readonly count: number
  /** ms since 1970 */
  readonly atMs: number
}

/** An address that was limited often. */
export interface Suspect {
  /** address; of an IPv6 client the prefix, such as a /64 */
  readonly ip: string
  /** number of its limited requests in the recorded events */
  readonly count: number
}

export interface EventStore {
  logEvents (events: readonly RateLimitEvent[]): Awaitable<void>
  /** The latest events, newest first. */
  events (limit: number): Awaitable<readonly RateLimitEvent[]>
  /** Removes events older than `olderThanMs` (0: all of them). @returns how many were removed */
  clearEvents (olderThanMs: number): Awaitable<number>
  /** The most limited addresses first; of equals, the last in the alphabet first. */
  suspects (limit: number): Awaitable<readonly Suspect[]>
}
