/** Names of counters that are made of those of limits. */

const suffix = '@address'

/** Clients for whom a `keyGenerator` has no key are counted by their address, and apart. */
export function byAddress (limit: string): string {
  return `${limit}${suffix}`
}

/** What tells the address of such a client from a key that reads like it, where the name of the limit does not. */
export function suffixOf (name: string): string {
  return name.endsWith(suffix) ? suffix : ''
}
