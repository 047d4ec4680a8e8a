/**
 * The rules for values of options. A rule has a text for errors, and a function that reads a value or refuses it. No
 * rule coerces: `'10'` is not a number.
 */
import { parse as parseDuration } from '@lukeed/ms'
import { longestWindowMs } from '../rules/rate-limit.js'

/** Returned by `read` in place of a value that breaks the rule. */
export const wrong = Symbol('wrong')

export interface ValueRule<T> {
  /** follows "must be" */
  readonly rule: string
  /** true: an error shows only the type of a wrong value */
  readonly isSecret?: boolean
  /** @returns what to write in place of a wrong value; undefined: the rule is enough */
  remedyFor? (value: unknown): string | undefined
  read (value: unknown): T | typeof wrong
}

export function whole (min: number, max = Number.MAX_SAFE_INTEGER): ValueRule<number> {
  const range = max === Number.MAX_SAFE_INTEGER ? `>= ${min}` : `from ${min} to ${max}`
  return { rule: `a whole number ${range}`, read: value => isWhole(value, min, max) ? value : wrong }
}

export const infinite: ValueRule<number> = {
  rule: 'Infinity',
  read: value => value === Infinity ? value : wrong
}

export function listOf<T> (
  rule: string, min: number, max: number, read: (value: unknown) => T | typeof wrong
): ValueRule<readonly T[]> {
  return {
    rule,
    read (value) {
      if (!Array.isArray(value) || value.length < min || value.length > max) return wrong
      const items = value.map(read)
      return items.includes(wrong) ? wrong : Object.freeze(items as T[])
    }
  }
}

export const flag: ValueRule<boolean> = {
  rule: 'true or false',
  read: value => typeof value === 'boolean' ? value : wrong
}

export function oneOf<T extends string> (...choices: readonly T[]): ValueRule<T> {
  return {
    rule: `one of ${choices.map(choice => `'${choice}'`).join(', ')}`,
    read: value => choices.find(choice => choice === value) ?? wrong
  }
}

export function fn<T> (signature: string): ValueRule<T> {
  return { rule: `a function ${signature}`, read: value => typeof value === 'function' ? value as T : wrong }
}

export function either<A, B> (a: ValueRule<A>, b: ValueRule<B>): ValueRule<A | B> {
  return {
    rule: `${a.rule}, or ${b.rule}`,
    read (value) {
      const read = a.read(value)
      return read === wrong ? b.read(value) : read
    }
  }
}

export const part: ValueRule<number> = {
  rule: 'a number from 0 to 1',
  read: value => typeof value === 'number' && value >= 0 && value <= 1 ? value : wrong
}

/** A number of ms, or a string such as '1 minute'; read as whole ms. */
export const duration: ValueRule<number> = {
  rule: `whole ms from 1 to ${longestWindowMs} (ten years), or a string such as '1 minute'`,
  read (value) {
    // Rounded to a microsecond: in floating point, '1.1 hours' is 3960000.0000000005 ms.
    const ms = typeof value === 'string' ? Number(parseDuration(value.trim())?.toFixed(3)) : value
    return isWhole(ms, 1, longestWindowMs) ? ms : wrong
  }
}

/** Braces are reserved for the hash tags that keep the keys of one client in one slot of a Cluster. */
export const keyPrefix: ValueRule<string> = {
  rule: 'a non-empty string without braces',
  read: value => typeof value === 'string' && value !== '' && !/[{}]/.test(value) ? value : wrong
}

export const text: ValueRule<string> = {
  rule: 'a string',
  read: value => typeof value === 'string' ? value : wrong
}

/** The secret is the key of an HMAC. An attacker could try all shorter secrets. */
export const switchOrSecret: ValueRule<boolean | string> = {
  rule: 'true, false, or a secret of at least 16 characters',
  isSecret: true,
  read: value => typeof value === 'boolean' || (typeof value === 'string' && value.length >= 16) ? value : wrong
}

export function isRecord (value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isWhole (value: unknown, min: number, max: number): value is number {
  return Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max
}
