/** Reads options by their declarations: the values that were given, the defaults, and the problems. */
import { type OptionProblem, show } from '../errors.js'
import { probablyMeant } from './host-options.js'
import { wrong } from './option-rules.js'
import type { Option } from './option-table.js'

export type Given<Declared> = {
  -readonly [name in keyof Declared]?: Declared[name] extends Option<infer T> ? T : never
}

export interface Reading {
  /** the name of a wrong option in the error */
  readonly nameOf: (name: string) => string
  /** whether an option that is not declared is ignored; default: it is a problem */
  readonly isIgnored?: (name: string) => boolean
}

/**
 * Reads what was given; `undefined` counts as not given.
 *
 * @param problems  gets one for each option that is wrong or unknown
 */
export function readGiven<Declared extends Readonly<Record<string, Option>>> (
  declared: Declared, options: object, problems: OptionProblem[], { nameOf, isIgnored = () => false }: Reading
): Given<Declared> {
  const given: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue
    const declaration = Object.hasOwn(declared, name) ? declared[name] : undefined
    if (declaration === undefined) {
      if (isIgnored(name)) continue
      const meant = probablyMeant(name, Object.keys(declared))
      // The value stays out of the message: a misplaced option may be a password, or a URL with one.
      problems.push({
        option: nameOf(name),
        rule: 'a known option',
        received: `a value of type ${typeof value}`,
        remedy: `${meant === undefined ? '' : `did you mean ${meant}? `}known are ${Object.keys(declared).join(', ')}`
      })
      continue
    }
    const read = declaration.value.read(value)
    const { rule, isSecret } = declaration.value
    const received = isSecret ? `a value of type ${typeof value}` : show(value)
    const remedy = declaration.value.remedyFor?.(value)
    if (read === wrong) problems.push({ option: nameOf(name), rule, received, remedy })
    else given[name] = read
  }
  return given as Given<Declared>
}

export type Fallbacks<Declared> = {
  [name in keyof Declared]: Declared[name] extends Option<infer T, infer Fallback>
    ? (undefined extends Fallback ? T | undefined : T)
    : never
}

/** The defaults of all declared options. */
export function fallbacks<Declared extends Readonly<Record<string, Option>>> (declared: Declared): Fallbacks<Declared> {
  const entries = Object.entries(declared).map(([name, { fallback }]) => [name, fallback])
  return Object.fromEntries(entries) as Fallbacks<Declared>
}

/** The part of an object whose names are declared. */
export function pick<T extends object, Declared extends object> (
  from: T, declared: Declared
): Pick<T, keyof T & keyof Declared> {
  const entries = Object.entries(from).filter(([name]) => Object.hasOwn(declared, name))
  return Object.fromEntries(entries) as Pick<T, keyof T & keyof Declared>
}
