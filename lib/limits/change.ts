/** Checks and reads the arguments of a change of a limit at run time. */
import { ArgumentError, show } from '../errors.js'
import { duration, wrong } from '../settings/option-rules.js'
import type { LimitChange } from './registry.js'

/** The author of a change, and the reason for it. Both are logged. */
export interface ChangedBy {
  /**
   * The reason. At most 1000 characters.
   *
   * @default ''
   */
  reason?: string
  /**
   * Name of a person or a program. At most 1000 characters.
   *
   * @default 'api'
   */
  origin?: string
}

/** Characters of a reason or origin at most. */
export const longestText = 1000

/** @throws ArgumentError  if the reason or origin is no string, or too long */
export function checkBy (method: string, { reason, origin }: Required<ChangedBy>): void {
  for (const [name, value] of Object.entries({ reason, origin })) {
    if (typeof value === 'string' && value.length <= longestText) continue
    const rule = `a string of at most ${longestText} characters`
    throw new ArgumentError({ option: `the ${name} of ${method}`, rule, received: show(value) })
  }
}

/** @throws ArgumentError  if `max` or `timeWindow` is out of range */
export function readChange (limit: unknown): LimitChange {
  const given: { max?: unknown, timeWindow?: unknown } = typeof limit === 'object' && limit !== null ? limit : {}
  const { max, timeWindow } = given
  if (max !== Infinity && (!Number.isSafeInteger(max) || (max as number) < 0)) {
    const rule = 'a whole number >= 0, or Infinity'
    throw new ArgumentError({ option: 'max of limits.set', rule, received: show(max) })
  }
  const windowMs = duration.read(timeWindow)
  if (windowMs === wrong) {
    throw new ArgumentError({ option: 'timeWindow of limits.set', rule: duration.rule, received: show(timeWindow) })
  }
  return { max: max as number, windowMs }
}
