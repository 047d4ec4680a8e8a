/** The requests and orders of a play: the same for every fault, so that their rows can be compared. */
import type { RedisGuardOptions } from '../lib/settings/options.js'

/** hits of a client that `/memory` and `/share` each let pass */
export const limitedMax = 50

/** The window outlasts every run, and no client reaches the limit of `/counted`. */
export const instanceOptions = {
  max: 1_000_000, timeWindow: '1 hour', nameSpace: 'guard:', resetTimeout: 500, connectTimeout: 2000
} satisfies RedisGuardOptions

export type Path = '/counted' | '/memory' | '/share'

/** the names of limits in Redis keys */
export const limitNames: Readonly<Record<Path, string>> = {
  '/counted': 'global',
  '/memory': 'GET:/memory',
  '/share': 'GET:/share'
}

/** a path without a limit */
export const openPath = '/open'

export interface Visit {
  readonly path: Path
  readonly client: string
}

/** blocked before the fault; it asks all the time and must never be let in */
export const blockedClient = '203.0.113.1'

const countedClients = clients('192.0.2', 40)
const limitedClients = clients('198.51.100', 2)
/** clients that first come when Redis is away, so no instance knows them */
const lateClients = clients('198.51.101', 2)

/**
 * The n-th request: of five, three are counted, one meets each of the two
 * limits, and now and then a blocked client tries.
 *
 * @param struck  the fault is there, or was
 */
export function visit (n: number, struck: boolean): Visit {
  const limited = struck ? [...limitedClients, ...lateClients] : limitedClients
  const round = Math.floor(n / 5)
  switch (n % 5) {
    case 0: return { path: '/memory', client: limited[round % limited.length]! }
    case 1: return { path: '/share', client: limited[round % limited.length]! }
    case 2: return {
      path: '/counted',
      client: round % 10 === 0 ? blockedClient : countedClients[round % countedClients.length]!
    }
    default: return { path: '/counted', client: countedClients[n % countedClients.length]! }
  }
}

/** What the instances do in the middle of the fault. All of it must be in Redis afterwards. */
export const orders = {
  /** blocked before the fault, and unblocked in it */
  liftedByFirst: '203.0.113.2',
  liftedBySecond: '203.0.113.3',
  blockedByFirst: ['203.0.113.11', '203.0.113.12'],
  blockedBySecond: ['203.0.113.13', '2001:db8::/32'],
  events: [{ ip: '203.0.113.21', count: 7 }, { ip: '203.0.113.22', count: 5 }],
  /** a value that both instances add to */
  sum: { key: 'chaos', before: 3, first: 5, second: 7 }
} as const

function clients (network: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => `${network}.${i + 1}`)
}
