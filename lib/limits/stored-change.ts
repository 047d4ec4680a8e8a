/** The last change of a limit at run time, as a value in the store: its key, its text, and what users see of it. */
import { type ChangedBy, readChange } from './change.js'
import type { LimitChange } from './registry.js'

/** Keys of values that begin so are the plugin's own. */
export const reservedPrefix = 'redis-guard:'

/** Of a value that is another one after each change of any limit. */
export const versionKey = `${reservedPrefix}limits`

export function keyOf (name: string): string {
  return `${reservedPrefix}limit:${name}`
}

/** The last change of a limit at run time. */
export interface StoredChange extends Required<ChangedBy> {
  /** undefined: the limit was reset */
  readonly change: LimitChange | undefined
  /** ms since 1970, and above that of the decision before it, so that the later one stands; 0: not known */
  readonly atMs: number
  /** as it is stored */
  readonly text: string
}

export function formatChange (change: LimitChange | undefined, atMs: number, by: Required<ChangedBy>): StoredChange {
  const text = JSON.stringify({ ...change === undefined ? { isReset: true } : forJson(change), atMs, ...by })
  return { change, atMs, text, ...by }
}

/** @returns undefined for any other text: a foreign value must not change a limit */
export function parseChange (text: string): StoredChange | undefined {
  try {
    const { max, windowMs, isReset, atMs, reason, origin } = JSON.parse(text) as Readonly<Record<string, unknown>>
    const given = { max: max === unlimited ? Infinity : max, timeWindow: windowMs }
    const textOf = (value: unknown) => typeof value === 'string' ? value : ''
    return {
      change: isReset === true ? undefined : readChange(given),
      atMs: Number.isFinite(atMs) ? Number(atMs) : 0,
      text,
      reason: textOf(reason),
      origin: textOf(origin)
    }
  } catch {
    return undefined
  }
}

/** A limit that was changed at run time, as `limits.list` returns it. */
export interface SetLimit {
  /** Name of the limit. */
  readonly name: string
  /** Hits that it allows in a window; `Infinity`: no limit. */
  readonly max: number
  /** Length of the window, ms. */
  readonly timeWindow: number
  /** Why it was changed; empty: no reason was given. */
  readonly reason: string
  /** Who or what changed it; empty: not known. */
  readonly origin: string
  /** When it was changed, ms since 1970; `undefined`: not known. */
  readonly setAtMs: number | undefined
}

export function describe (
  name: string, { max, windowMs }: LimitChange, { reason, origin, atMs }: StoredChange
): SetLimit {
  return { name, max, timeWindow: windowMs, reason, origin, setAtMs: atMs === 0 ? undefined : atMs }
}

/** JSON has no Infinity. */
export function forJson<T extends { readonly max: number }> (
  limit: T
): Omit<T, 'max'> & { readonly max: number | string } {
  return { ...limit, max: limit.max === Infinity ? unlimited : limit.max }
}

const unlimited = 'Infinity'
