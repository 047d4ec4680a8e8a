/** What a limit is set to at run time, and by whom: how it is given, and read. */
import { ArgumentError, show } from '../errors.js'
import { duration, wrong } from '../settings/option-rules.js'
import type { LimitChange } from './registry.js'

/** The author of a change, and the reason for it. Both are logged. */
export interface ChangedBy {
  /**
   * Why. At most 1000 characters.
   *
   * @default ''
   */
  reason?: string
  /**
   * Who or what. At most 1000 characters.
   *
   * @default 'api'
   */
  origin?: string
}

/** Of a reason or origin. */
export const longestText = 1000

/** @throws ArgumentError  when the reason or origin is no text, or too long */
export function checkBy (method: string, { reason, origin }: Required<ChangedBy>): void {
  for (const [name, value] of Object.entries({ reason, origin })) {
    if (typeof value === 'string' && value.length <= longestText) continue
    const rule = `a text of at most ${longestText} characters`
    throw new ArgumentError({ option: `the ${name} of ${method}`, rule, received: show(value) })
  }
}

/** @throws ArgumentError  when no limit can be set to it */
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
