/** The loads of the bench, and the variants that each of them compares. */
import type { VariantName } from './variants.js'

export interface Scenario {
  readonly name: string
  readonly title: string
  /** `given`: those of --connections */
  readonly connections: 'given' | number
  /** how many addresses the requests come from */
  readonly addresses: number
  /** how many of 100 requests come from addresses that are blocked, where the variant can block */
  readonly blockedPercent: number
  /** requests per minute and address */
  readonly max: number
  /** ms by which packets to and from Redis are delayed, each way */
  readonly redisDelayMs: number
  /** in the order of their runs: compared variants are neighbours, since the machine's speed changes within seconds */
  readonly variants: readonly VariantName[]
}

const high = 1_000_000_000
const usual = { connections: 64, addresses: 1000, blockedPercent: 0, max: high, redisDelayMs: 0 } as const

/** `--quick` runs only this one: one table, in under four minutes. */
export const quick: Scenario = {
  ...usual,
  name: 'quick',
  title: 'Normal traffic: 1,000 addresses, none over its limit',
  connections: 'given',
  variants: ['plain-headers', 'guard-memory', 'fastify-memory', 'guard-everything', 'fastify-redis', 'incr', 'increx']
}

export const scenarios: readonly Scenario[] = [
  {
    ...usual,
    name: 'normal',
    title: 'Normal traffic: 1,000 addresses, none over its limit',
    connections: 'given',
    variants: [
      'plain', 'plain-headers', 'guard-everything', 'fastify-redis', 'incr', 'increx', 'flexible-redis',
      'guard-fixed-window', 'guard-sliding-window', 'guard-gcra',
      'flexible-memory', 'fastify-memory', 'guard-memory', 'plain-headers-lost', 'fastify-memory-lost'
    ]
  },
  {
    ...usual,
    name: 'three-limits',
    title: 'Three limits on the route, decided together',
    variants: ['plain', 'plain-headers', 'fastify-redis', 'guard-everything', 'guard-three-limits']
  },
  {
    ...usual,
    name: 'flood-few',
    title: 'Flood from 10 addresses over their limit of 100 a minute',
    addresses: 10,
    max: 100,
    variants: [
      'plain', 'plain-headers', 'plain-refusing', 'guard-everything', 'guard-problem-details', 'fastify-redis',
      'fastify-memory', 'guard-memory'
    ]
  },
  {
    ...usual,
    name: 'flood-many',
    title: 'Flood from 100,000 addresses, none over its limit',
    addresses: 100_000,
    variants: ['plain', 'plain-headers', 'guard-everything', 'fastify-redis', 'fastify-memory', 'guard-memory']
  },
  {
    ...usual,
    name: 'blocked',
    title: 'Half of the requests from blocked addresses',
    blockedPercent: 50,
    variants: ['plain', 'plain-headers', 'plain-refusing', 'guard-everything', 'guard-memory']
  },
  {
    ...usual,
    name: 'all-blocked',
    title: 'All requests from blocked addresses',
    blockedPercent: 100,
    variants: ['plain', 'plain-headers', 'plain-refusing', 'guard-everything', 'guard-problem-details']
  },
  {
    ...usual,
    name: 'far-redis',
    title: 'Redis about 5 ms away',
    // Enough to keep a server busy at this distance: 64 get at most 64 / 5 ms = 12,800 answers/s.
    connections: 256,
    // Timers of Node.js make more than 2 ms of it. The PING that is printed shows the real distance.
    redisDelayMs: 2,
    variants: ['plain', 'plain-headers', 'fastify-redis', 'guard-near', 'guard-everything']
  },
  {
    ...usual,
    name: 'one-at-a-time',
    title: 'One request at a time',
    connections: 1,
    variants: ['plain', 'plain-headers', 'fastify-redis', 'flexible-redis', 'guard-fixed-window', 'guard-everything']
  }
]
