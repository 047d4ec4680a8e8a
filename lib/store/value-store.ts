/** What a store does with plain values: `get`, `set`, `incr`, `expire` and `del` of `fastify.redisGuard`. */
import type { Awaitable } from '../runtime/awaitable.js'

/** Something that was done to a plain value. */
export type ValueOperation = {
  readonly key: string
  /** ms since 1970 */
  readonly atMs: number
} & (
  | { readonly kind: 'set', readonly text: string, /** ms since 1970; Infinity: never */ readonly expiresAtMs: number }
  | { readonly kind: 'incr', readonly by: number }
  | { readonly kind: 'expire', readonly expiresAtMs: number }
  | { readonly kind: 'del' }
)

/** What was done to one value, in sum, and when, ms since 1970. */
export interface ValueChange {
  readonly key: string
  /** undefined: it was neither set nor deleted; a text of undefined: deleted */
  readonly base: { readonly atMs: number, readonly text: string | undefined } | undefined
  /** afterwards */
  readonly add: number
  readonly addedAtMs: number
  readonly end: { readonly atMs: number, readonly expiresAtMs: number } | undefined
}

/** A value as Redis reported it. */
export interface ReportedValue {
  readonly text: string
  /** ms until it is forgotten; Infinity: never */
  readonly leftMs: number
}

export interface ValueStore {
  get (key: string): Awaitable<string | null>
  /**
   * @param ttlMs      undefined: for good
   * @param mustReach  a command that Redis rejects is an error; default: the value is kept in this process
   */
  set (key: string, value: string, ttlMs: number | undefined, mustReach?: boolean): Awaitable<void>
  /** @throws ValueError  when the value is no whole number, or becomes one of more than 64 bits */
  incr (key: string): Awaitable<number>
  /** @returns whether there was such a key */
  expire (key: string, ttlMs: number): Awaitable<boolean>
  /** @returns whether there was such a key */
  del (key: string): Awaitable<boolean>
}
