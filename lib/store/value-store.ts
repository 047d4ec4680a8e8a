/** The contract of a store for plain values: `get`, `set`, `incr`, `expire` and `del` of `fastify.redisGuard`. */
import type { Awaitable } from '../runtime/awaitable.js'

/** One change of a plain value. `atMs`: when it was made. */
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

/** All changes of one value, summed up. Each moment is ms since 1970. */
export interface ValueChange {
  readonly key: string
  /** the last `set` or `del`; undefined: there was none. `text` undefined: the value was deleted */
  readonly base: { readonly atMs: number, readonly text: string | undefined } | undefined
  /** sum of all `incr` after `base` */
  readonly add: number
  /** when the last `incr` was made; without one, when `base` was */
  readonly addedAtMs: number
  /** the last expiry, of the `set` or of an `expire` after it; undefined: there was none */
  readonly end: { readonly atMs: number, readonly expiresAtMs: number } | undefined
}

/** A value as Redis reported it. */
export interface ReportedValue {
  readonly text: string
  /** ms until it expires; Infinity: never */
  readonly leftMs: number
}

export interface ValueStore {
  /** @returns null: there is no value */
  get (key: string): Awaitable<string | null>
  /**
   * @param ttlMs      undefined: no expiry
   * @param mustReach  true: throws if Redis rejects the command; default: then the value is kept in this process
   */
  set (key: string, value: string, ttlMs: number | undefined, mustReach?: boolean): Awaitable<void>
  /** @throws ValueError  if the value is not a whole number, or the sum has more than 64 bits */
  incr (key: string): Awaitable<number>
  /** @returns whether the key had a value */
  expire (key: string, ttlMs: number): Awaitable<boolean>
  /** @returns whether the key had a value */
  del (key: string): Awaitable<boolean>
}
