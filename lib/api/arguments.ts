/** Reads the arguments of the API's methods. A wrong one throws an ArgumentError that names the method and argument. */
import { parseAddress, parseNetwork } from '../addresses/address.js'
import { ArgumentError, show } from '../errors.js'
import { longestText } from '../limits/change.js'
import { reservedPrefix } from '../limits/stored-change.js'
import type { RateLimitEvent } from '../store/event-store.js'

/** An event of your own, for `logRateLimitEvent`. Every field is optional. Texts have at most 1000 characters. */
export interface RateLimitEventInput {
  /**
   * `limited` events make suspects, `blocked` ones do not.
   *
   * @default 'limited'
   */
  type?: RateLimitEvent['type']
  /** IPv4 or IPv6 address of the client. */
  ip?: string
  /** Key of the client, if it is not the address. */
  key?: string
  /** Name of a limit. */
  limit?: string
  /** HTTP method. */
  method?: string
  /** Pattern of the route, such as `/users/:id`. */
  route?: string
  /**
   * How many requests the event stands for. A whole number >= 1.
   *
   * @default 1
   */
  count?: number
}

/** A hundred years. A longer time is a mistake in the unit. */
const longestMs = 100 * 365 * 86_400_000

export function checkKey (method: string, key: unknown): string {
  if (typeof key === 'string' && key !== '' && !key.startsWith(reservedPrefix)) return key
  const rule = `a non-empty string that does not begin with ${reservedPrefix}`
  throw new ArgumentError({ option: `the key of ${method}`, rule, received: show(key) })
}

export function checkLimit (method: string, limit: unknown): void {
  if (Number.isSafeInteger(limit) && (limit as number) >= 1) return
  throw new ArgumentError({ option: `the limit of ${method}`, rule: 'a whole number >= 1', received: show(limit) })
}

export function checkNetwork (method: string, ip: unknown): string {
  const network = parseNetwork(ip)
  if (network !== undefined) return network.text
  const rule = 'an IPv4 or IPv6 address, or a CIDR range such as 192.0.2.0/24'
  throw new ArgumentError({ option: `the address of ${method}`, rule, received: show(ip) })
}

export function toMs (what: string, seconds: unknown, orElse = ''): number {
  const ms = typeof seconds === 'number' ? Math.ceil(seconds * 1000) : NaN
  if (ms >= 1 && ms <= longestMs) return ms
  const rule = `a number of seconds above 0 and up to ${longestMs / 1000}${orElse}`
  throw new ArgumentError({ option: what, rule, received: show(seconds) })
}

export function readEvent (event: RateLimitEventInput, nowMs: number): RateLimitEvent {
  const wrong = (option: string, rule: string, value: unknown) =>
    new ArgumentError({ option: `${option} of logRateLimitEvent`, rule, received: show(value) })
  if (typeof event !== 'object' || event === null) throw wrong('the event', 'an object', event)
  const { type = 'limited', ip, key, limit, method, route, count = 1 } = event
  if (type !== 'limited' && type !== 'blocked') throw wrong('type', "'limited' or 'blocked'", type)
  if (!Number.isSafeInteger(count) || count < 1) throw wrong('count', 'a whole number >= 1', count)
  const address = parseAddress(ip)
  if (ip !== undefined && address === undefined) throw wrong('ip', 'an IPv4 or IPv6 address', ip)
  for (const [name, value] of Object.entries({ key, limit, method, route })) {
    if (value !== undefined && (typeof value !== 'string' || value.length > longestText)) {
      throw wrong(name, `a string of at most ${longestText} characters`, value)
    }
  }
  return { type, ip: address?.text, key, limit, method, route, count, atMs: nowMs }
}
