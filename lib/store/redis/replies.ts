/**
 * Reads the parts of Redis' replies. A truncated or garbled reply is a failure of
 * kind `reply`. It must not pass for a counter: `Number('')`, `Number(null)` and
 * `Number([])` are all 0.
 */
import { StoreUnavailableError } from '../../errors.js'

/**
 * Reads a whole number. A client may be configured to return numbers as strings.
 *
 * @throws StoreUnavailableError  of kind `reply`, unless it is a whole number from min to max
 */
export function wholeOf (value: unknown, min = 0, max = Number.MAX_SAFE_INTEGER): number {
  const number = typeof value === 'string' && /^-?\d{1,16}$/.test(value) ? Number(value) : value
  if (!Number.isSafeInteger(number) || (number as number) < min || (number as number) > max) throw unreadable()
  return number as number
}

/** Reads a moment by Redis' clock, ms since 1970. */
export function clockOf (value: unknown): number {
  return wholeOf(value, 1, latestDateMs)
}

export function textOf (value: unknown): string {
  if (typeof value !== 'string') throw unreadable()
  return value
}

/** @param length  the length that the list must have; undefined: any */
export function listOf (value: unknown, length?: number): readonly unknown[] {
  if (!Array.isArray(value) || (length !== undefined && value.length !== length)) throw unreadable()
  return value
}

/** Reads the id of a stream entry, such as `1700000000000-0`. */
export function streamIdOf (value: unknown): string {
  if (typeof value !== 'string' || !/^\d{1,20}-\d{1,20}$/.test(value)) throw unreadable()
  return value
}

/** @returns undefined if the text is not JSON */
export function parseJson (text: unknown): unknown {
  try {
    return JSON.parse(String(text))
  } catch {
    return undefined
  }
}

export function unreadable (): StoreUnavailableError {
  return new StoreUnavailableError('reply', 'Redis sent a reply that does not fit the command')
}

/** Number of entries that are read in one round trip. */
export const pageLength = 500

/** The latest moment that a Date can hold, ms since 1970. */
const latestDateMs = 8.64e15
