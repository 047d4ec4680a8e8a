/**
 * Checks the options inside the `redis` option by the rules of redis-option-rules.ts. No error shows a value that may
 * be a secret.
 */
import { type OptionProblem, show } from '../errors.js'
import { editDistance, plainName } from './near-name.js'
import { isRecord, type ValueRule, wrong } from './option-rules.js'

/** An option whose value is an object of options. */
export interface Nested {
  readonly rule: string
  readonly options: OptionRules
  /** what to write in place of a value of a wrong type */
  readonly remedy?: string
}

/** An option that may not be given here. */
export interface Refused {
  /** follows "must be": `left out`, and why */
  readonly refused: string
}

/** An option that describes a wrong value in its own words. */
export interface Described {
  readonly describe?: (value: unknown) => Pick<OptionProblem, 'received' | 'remedy'>
}

export type OptionRules = Readonly<Record<string, ValueRule<unknown> & Described | Nested | Refused>>

/** Option names of other packages, and what to write here in place of them. */
const foreign: Readonly<Record<string, string>> = {
  socket: 'give host, port, path and tls side by side, without a socket object around them',
  uri: 'it is called url',
  connectionString: 'it is called url',
  hostname: 'it is called host',
  database: 'it is called db',
  user: 'it is called username',
  pass: 'it is called password',
  auth: 'give username and password',
  ssl: 'it is called tls',
  nodes: 'it is called cluster',
  rootNodes: 'it is called cluster',
  startupNodes: 'it is called cluster',
  master: 'it is called name',
  masterName: 'it is called name',
  retry_strategy: 'it is called retryStrategy'
}

/**
 * Adds a problem for each option that is unknown, wrong, or may not be given.
 *
 * @param options  without those that are undefined
 * @param place    such as `redis.redisOptions`
 */
export function checkOptions (
  options: Readonly<Record<string, unknown>>, rules: OptionRules, place: string, problems: OptionProblem[]
): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue
    const option = `${place}.${name}`
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined
    if (rule === undefined) {
      const remedy = meant(name, Object.keys(rules))
      problems.push({ option, rule: 'a known option', received: typeName(value), remedy })
    } else if ('refused' in rule) {
      problems.push({ option, rule: rule.refused, received: typeName(value) })
    } else if ('options' in rule) {
      if (isPlain(value)) checkOptions(value, rule.options, option, problems)
      else problems.push({ option, rule: rule.rule, received: typeName(value), remedy: rule.remedy })
    } else if (rule.read(value) === wrong) {
      problems.push({ option, rule: rule.rule, ...receivedBy(rule, value) })
    }
  }
}

function receivedBy (
  { isSecret, describe }: ValueRule<unknown> & Described, value: unknown
): Pick<OptionProblem, 'received' | 'remedy'> {
  if (describe !== undefined) return describe(value)
  return { received: isSecret ? typeName(value) : show(value) }
}

/** @returns a remedy for an option that does not exist */
function meant (name: string, known: readonly string[]): string {
  const own = Object.hasOwn(foreign, name) ? foreign[name] : undefined
  if (own !== undefined) return own
  const nearest = nearestName(name, known)
  return nearest === undefined ? `known are ${known.join(', ')}` : `did you mean ${nearest}?`
}

/** @returns the known name that differs least: by at most three characters, and by at most half of its length */
function nearestName (name: string, known: readonly string[]): string | undefined {
  const [best] = known
    .map(candidate => ({ candidate, distance: editDistance(plainName(name), plainName(candidate)) }))
    .filter(({ candidate, distance }) => distance <= Math.min(3, candidate.length / 2))
    .sort((a, b) => a.distance - b.distance)
  return best?.candidate
}

/** Whether a value may be an object of options: it is no array and no Buffer. */
function isPlain (value: unknown): value is Readonly<Record<string, unknown>> {
  return isRecord(value) && !(value instanceof Uint8Array)
}

/** Describes a value that may be a secret, without showing it. */
export function typeName (value: unknown): string {
  if (value === '') return 'an empty string'
  return value === null ? 'null' : `a value of type ${typeof value}`
}
