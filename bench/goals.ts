/**
 * The goals: a guarded service is as fast as an unguarded one, and the guard is
 * cheaper than the limiters that a user would take instead.
 */
import type { HeapReport } from './heap.js'
import type { Ratios, Row, ScenarioReport } from './measure.js'
import type { RedisBytes } from './redis-bytes.js'
import type { VariantName } from './variants.js'

export interface Goal {
  readonly what: string
  readonly measured: number
  /** one of these two */
  readonly atLeast?: number
  readonly atMost?: number
}

export interface Measured {
  readonly scenarios: readonly ScenarioReport[]
  readonly redisBytes: readonly RedisBytes[] | undefined
  readonly heap: HeapReport | undefined
}

export function isReached ({ measured, atLeast = -Infinity, atMost = Infinity }: Goal): boolean {
  return measured >= atLeast && measured <= atMost
}

/** @returns the goals whose figures have been measured */
export function goalsOf ({ scenarios, redisBytes, heap }: Measured): Goal[] {
  const all = scenarios.flatMap(({ name, pingMicros, rows }): MaybeGoal[] => {
    const row = (variant: VariantName, connections?: number) =>
      rows.find(row => row.variant === variant && (connections === undefined || row.connections === connections))
    const ratio = (field: keyof Ratios, variant: VariantName, other: VariantName, connections?: number) =>
      row(variant, connections)?.ratios[other]?.[field]
    const ours = row('guard-everything')
    switch (name) {
      case 'quick':
      case 'normal': return [
        ...[8, 64].map(connections => ({
          what: `memory, ${connections} connections: Node CPU per request, to @fastify/rate-limit in memory`,
          measured: ratio('cpuMicrosPerRequest', 'guard-memory', 'fastify-memory', connections),
          atMost: 1
        })),
        {
          what: 'Redis, 64 connections: Node CPU per request, to @fastify/rate-limit on Redis',
          measured: ratio('cpuMicrosPerRequest', 'guard-everything', 'fastify-redis', 64),
          atMost: 0.55
        },
        {
          what: 'Redis, 64 connections: requests/s, to @fastify/rate-limit on Redis',
          measured: ratio('requestsPerSecond', 'guard-everything', 'fastify-redis', 64),
          atLeast: 1.8
        },
        {
          what: 'Redis, 64 connections: requests/s, to plain with headers',
          measured: ratio('requestsPerSecond', 'guard-everything', 'plain-headers', 64),
          atLeast: 0.95
        },
        {
          what: 'Redis, 64 connections: p99, to the better of these two',
          measured: worse(row('guard-everything', 64), [row('fastify-redis', 64), row('plain-headers', 64)]),
          atMost: 1
        },
        {
          what: 'Redis, 64 connections: Redis CPU per request, to @fastify/rate-limit on Redis',
          measured: ratio('redisMicrosPerRequest', 'guard-everything', 'fastify-redis', 64),
          atMost: 0.25
        },
        {
          what: 'Redis, 8 connections: requests/s, to @fastify/rate-limit on Redis',
          measured: ratio('requestsPerSecond', 'guard-everything', 'fastify-redis', 8),
          atLeast: 1.3
        }
      ]
      case 'flood-few': return [
        {
          what: 'flood over the limit: requests/s, to plain with headers',
          measured: ratio('requestsPerSecond', 'guard-everything', 'plain-headers'),
          atLeast: 1
        },
        {
          what: 'flood over the limit: Redis commands per 100 requests',
          measured: times(ours?.redisCommandsPerRequest, 100),
          atMost: 1
        }
      ]
      case 'blocked': return [
        {
          what: 'half of the requests blocked: requests/s, to plain with headers',
          measured: ratio('requestsPerSecond', 'guard-everything', 'plain-headers'),
          atLeast: 1
        }
      ]
      case 'all-blocked': return [
        {
          what: 'all requests blocked: Node CPU per request, to plain, which answers them',
          measured: ratio('cpuMicrosPerRequest', 'guard-everything', 'plain'),
          atMost: 1
        }
      ]
      case 'far-redis': return [
        {
          what: 'Redis 5 ms away: requests/s, to Redis at hand',
          measured: ratio('requestsPerSecond', 'guard-everything', 'guard-near'),
          atLeast: 0.9
        },
        {
          what: 'Redis 5 ms away: p99, ms above that of plain with headers',
          measured: minus(ours?.p99Ms, row('plain-headers')?.p99Ms),
          atMost: 7
        }
      ]
      case 'one-at-a-time': return [
        {
          what: 'one request at a time: p50, us above plain and a PING',
          measured: minus(times(minus(ours?.p50Ms, row('plain')?.p50Ms), 1000), pingMicros),
          atMost: 200
        }
      ]
      default: return []
    }
  })
  const list = heap?.blocks.find(({ entries }) => entries === 1_000_000)
  all.push(
    {
      what: 'Redis: bytes of a client besides the name, less those of @fastify/rate-limit',
      measured: minus(besidesName(redisBytes, 'guard-fixed-window'), besidesName(redisBytes, 'fastify-redis')),
      atMost: 0
    },
    {
      what: 'block list of a million: ns for a lookup',
      measured: list && Math.max(list.missNs, list.hitNs, list.missWithRangesNs),
      atMost: 2000
    },
    { what: 'block list of a million: bytes of an entry', measured: list?.bytesPerEntry, atMost: 120 }
  )
  return all.filter((goal): goal is Goal => goal.measured !== undefined)
}

type MaybeGoal = Omit<Goal, 'measured'> & { readonly measured: number | undefined }

function worse (ours: Row | undefined, others: readonly (Row | undefined)[]): number | undefined {
  const best = Math.min(...others.map(row => row?.p99Ms ?? NaN))
  return ours === undefined || Number.isNaN(best) ? undefined : ours.p99Ms / best
}

function times (value: number | undefined, by: number): number | undefined {
  return value === undefined ? undefined : value * by
}

function minus (value: number | undefined, other: number | undefined): number | undefined {
  return value === undefined || other === undefined ? undefined : value - other
}

function besidesName (rows: readonly RedisBytes[] | undefined, variant: VariantName): number | undefined {
  const row = rows?.find(row => row.variant === variant)
  return row && row.bytes - row.keyLength
}
