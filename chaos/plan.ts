/** Who asks for what while a fault is played: the same for every fault, so that their rows can be compared. */
import type { RedisGuardOptions } from '../lib/settings/options.js'

/** hits of a client that `/memory` and `/share` let pass, each on its own */
export const limitedMax = 50

/** A window that no run sees the end of, and a limit for `/counted` that nobody reaches. */
export const instanceOptions = {
  max: 1_000_000, timeWindow: '1 hour', nameSpace: 'guard:', resetTimeout: 500, connectTimeout: 2000
} satisfies RedisGuardOptions

export type Path = '/counted' | '/memory' | '/share'

/** in keys */
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

/** blocked before the fault, asking all along, and never to be let in */
export const blockedClient = '203.0.113.1'

const countedClients = clients('192.0.2', 40)
const limitedClients = clients('198.51.100', 2)
/** those who come when Redis is away, of whom nobody knows anything */
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

/** What the instances are told to do in the middle of the fault; all of it has to be in Redis afterwards. */
export const orders = {
  /** done before, and undone in the fault */
  liftedByFirst: '203.0.113.2',
  liftedBySecond: '203.0.113.3',
  blockedByFirst: ['203.0.113.11', '203.0.113.12'],
  blockedBySecond: ['203.0.113.13', '2001:db8::/32'],
  events: [{ ip: '203.0.113.21', count: 7 }, { ip: '203.0.113.22', count: 5 }],
  /** a value that both add to */
  sum: { key: 'chaos', before: 3, first: 5, second: 7 }
} as const

function clients (network: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => `${network}.${i + 1}`)
}
