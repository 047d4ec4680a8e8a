/**
 * Runs a scenario. All of its servers are started first, then loaded one after
 * the other, round by round. Each round begins with another one, so a machine
 * that gets slower or faster does so for all of them. The result is the median of
 * the rounds. Ratios are taken within a round, and only
 * between servers whose nextTick is in the same state.
 */
import type { Redis } from 'ioredis'
import { Child } from '../tools/child.js'
import { serverCore } from '../tools/cores.js'
import { readUse } from './redis-meter.js'
import type { Scenario } from './scenarios.js'
import type { ServerSettings } from './server.js'
import { median } from '../tools/table.js'
import type { NextTick } from './next-tick.js'
import { type Variant, type VariantName, variants } from './variants.js'
import { type Load, type LoadResult, runWrk } from './wrk.js'

/** One run of one variant. */
export interface Measurement {
  readonly requestsPerSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly cpuMicrosPerRequest: number
  readonly redisMicrosPerRequest: number
  readonly redisCommandsPerRequest: number
  readonly refusedPercent: number
  readonly failed: number
}

export interface Row extends Measurement {
  readonly variant: VariantName
  readonly connections: number
  /** of one call of process.nextTick in the server, before the rounds */
  readonly nextTickNs: number
  /** to each of the variants that others are compared with, where it ran as well */
  readonly ratios: Readonly<Partial<Record<VariantName, Ratios>>>
}

/** The figures of a variant, divided by those of another one. */
export type Ratios = Readonly<Record<typeof compared[number], number>>

export interface ScenarioReport {
  readonly name: string
  readonly title: string
  /** p50 of a bare PING, through the proxy if the servers use one, us */
  readonly pingMicros: number
  readonly rows: readonly Row[]
}

const compared = ['requestsPerSecond', 'cpuMicrosPerRequest', 'redisMicrosPerRequest'] as const
const comparedWith: readonly VariantName[] = ['plain', 'plain-headers', 'fastify-memory', 'fastify-redis', 'guard-near']

export interface Plan {
  readonly scenario: Scenario
  readonly variants: readonly VariantName[]
  readonly connections: readonly number[]
  readonly rounds: number
  readonly seconds: number
  /** of Redis, or of the proxy before it */
  readonly redisPort: number
  /** of Redis itself */
  readonly nearRedisPort: number
  readonly redis: Redis
  readonly onProgress: (text: string) => void
}

export async function measure (plan: Plan): Promise<Row[]> {
  const { scenario, redis } = plan
  await redis.flushall()
  const servers = new Map<VariantName, Child>()
  try {
    for (const variant of plan.variants) {
      const { redisPort, nearRedisPort } = plan
      const settings: ServerSettings = {
        variant,
        redisPort,
        nearRedisPort,
        max: scenario.max,
        blocks: scenario.blockedPercent > 0
      }
      servers.set(
        variant,
        await Child.start(
          serverCore, new URL('./server.js', import.meta.url), JSON.stringify(settings), nextTickOf(variant)
        )
      )
    }
    const runs = new Map<string, Measurement[]>()
    const nextTicks = new Map<VariantName, number>()
    for (const [variant, server] of servers) {
      plan.onProgress(`${scenario.name}: warming up ${variant}`)
      await runWrk(server.port, loadOf(plan, plan.connections[0]!, Math.min(2, plan.seconds)))
      nextTicks.set(variant, await server.ask<number>('next tick'))
    }
    for (let round = 1; round <= plan.rounds; round++) {
      for (const connections of plan.connections) {
        for (const [variant, server] of rotated([...servers], round)) {
          plan.onProgress(`${scenario.name}: round ${round} of ${plan.rounds}, ${connections} connections, ${variant}`)
          const id = idOf(variant, connections)
          runs.set(id, [...runs.get(id) ?? [], await runOnce(server, redis, loadOf(plan, connections, plan.seconds))])
        }
      }
    }
    return plan.connections.flatMap(connections => plan.variants.map(variant => {
      return summarize({ runs, nextTicks }, variant, connections)
    }))
  } finally {
    for (const server of servers.values()) await server.stop()
  }
}

function loadOf ({ scenario }: Plan, connections: number, seconds: number): Load {
  return { connections, seconds, addresses: scenario.addresses, blockedPercent: scenario.blockedPercent }
}

async function runOnce (server: Child, redis: Redis, load: Load): Promise<Measurement> {
  const [cpuBefore, useBefore] = [await server.cpuMicros(), await readUse(redis)]
  const result = await runWrk(server.port, load)
  const [cpuAfter, useAfter] = [await server.cpuMicros(), await readUse(redis)]
  return perRequest(
    result,
    cpuAfter - cpuBefore,
    useAfter.cpuMicros - useBefore.cpuMicros,
    useAfter.commands - useBefore.commands
  )
}

function perRequest (result: LoadResult, cpuMicros: number, redisMicros: number, commands: number): Measurement {
  const { requests, durationMicros, p50Micros, p99Micros, refused, failed } = result
  return {
    requestsPerSecond: requests / durationMicros * 1e6,
    p50Ms: p50Micros / 1000,
    p99Ms: p99Micros / 1000,
    cpuMicrosPerRequest: cpuMicros / requests,
    redisMicrosPerRequest: redisMicros / requests,
    redisCommandsPerRequest: commands / requests,
    refusedPercent: refused / requests * 100,
    failed
  }
}

/** What all servers of a scenario showed. */
interface Runs {
  /** by `idOf` */
  readonly runs: ReadonlyMap<string, readonly Measurement[]>
  /** ns of one call, by variant */
  readonly nextTicks: ReadonlyMap<VariantName, number>
}

function summarize ({ runs, nextTicks }: Runs, variant: VariantName, connections: number): Row {
  const own = runs.get(idOf(variant, connections))!
  const nextTickNs = nextTicks.get(variant)!
  const of = (field: keyof Measurement) => median(own.map(run => run[field]))
  const ratios: Partial<Record<VariantName, Ratios>> = {}
  for (const other of comparedWith) {
    const others = runs.get(idOf(other, connections))
    if (others === undefined || !isSameState(nextTickNs, nextTicks.get(other)!)) continue
    const ratio = (field: keyof Ratios) => median(own.map((run, round) => run[field] / others[round]![field]))
    ratios[other] = Object.fromEntries(compared.map(field => [field, ratio(field)])) as Ratios
  }
  return {
    variant,
    connections,
    nextTickNs,
    requestsPerSecond: of('requestsPerSecond'),
    p50Ms: of('p50Ms'),
    p99Ms: of('p99Ms'),
    cpuMicrosPerRequest: of('cpuMicrosPerRequest'),
    redisMicrosPerRequest: of('redisMicrosPerRequest'),
    redisCommandsPerRequest: of('redisCommandsPerRequest'),
    refusedPercent: of('refusedPercent'),
    failed: own.reduce((sum, run) => sum + run.failed, 0),
    ratios
  }
}

function nextTickOf (name: VariantName): NextTick {
  const { nextTick = 'kept' }: Variant = variants[name]
  return nextTick
}

/** A call takes 25 ns or 190; a busy machine makes both longer. */
function isSameState (ns: number, otherNs: number): boolean {
  return Math.max(ns, otherNs) < 3 * Math.min(ns, otherNs)
}

function rotated<T> (list: readonly T[], by: number): T[] {
  return list.map((_, i) => list[(i + by) % list.length]!)
}

function idOf (variant: VariantName, connections: number): string {
  return `${variant} ${connections}`
}
