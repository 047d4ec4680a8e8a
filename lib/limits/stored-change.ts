/** The last change of a limit at run time, as the store keeps it (key and text) and as users see it. */
import { type ChangedBy, readChange } from './change.js'
import type { LimitChange } from './registry.js'

/** Values whose keys begin with this belong to the plugin; `redisGuard.get` and `set` refuse them. */
export const reservedPrefix = 'redis-guard:'

/** The key of the version, a value that is replaced after each change of any limit. */
export const versionKey = `${reservedPrefix}limits`

export function storedKey (name: string): string {
  return `${reservedPrefix}limit:${name}`
}

/** The last change of a limit at run time. */
export interface StoredChange extends Required<ChangedBy> {
  /** undefined: the limit was reset */
  readonly change: LimitChange | undefined
  /** when, in ms since 1970. It is above that of the change before it, so the later change stands. 0: not known */
  readonly atMs: number
  /** the stored text */
  readonly text: string
}

export function formatChange (change: LimitChange | undefined, atMs: number, by: Required<ChangedBy>): StoredChange {
  const text = JSON.stringify({ ...change === undefined ? { isReset: true } : forJson(change), atMs, ...by })
  return { change, atMs, text, ...by }
}

/** @returns undefined: the guard did not write this text, so it must not change a limit */
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

export function toSetLimit (
  name: string, { max, windowMs }: LimitChange, { reason, origin, atMs }: StoredChange
): SetLimit {
  return { name, max, timeWindow: windowMs, reason, origin, setAtMs: atMs === 0 ? undefined : atMs }
}

/** A copy for JSON, which has no Infinity. */
export function forJson<T extends { readonly max: number }> (
  limit: T
): Omit<T, 'max'> & { readonly max: number | string } {
  return { ...limit, max: limit.max === Infinity ? unlimited : limit.max }
}

const unlimited = 'Infinity'
