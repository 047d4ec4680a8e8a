/** Names of counters that are derived from the names of limits. */

const suffix = '@address'

/** The name of the counter for clients that a `keyGenerator` has no key for. They are counted apart, by address. */
export function byAddress (limit: string): string {
  return `${limit}${suffix}`
}

/**
 * The suffix of a counter's name, or ''. It tells the address of such a client apart from a generated key of the same
 * text, in a place that does not name the limit.
 */
export function suffixOf (name: string): string {
  return name.endsWith(suffix) ? suffix : ''
}
