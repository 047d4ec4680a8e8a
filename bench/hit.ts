/**
 * Counts what one allowed hit costs in the guard's own code: calls, closures, allocations. Counts are the same on
 * every machine, unlike times:
 *
 *   npm run bench:hit
 *   npm run bench:hit -- --calls-only   without allocations, in a few seconds
 *
 * Each row is a mean per request, with one fixed window of 1 minute, headers and metrics on, no lists. `inject` sends
 * the requests, one after the other (`redis`) or 32 in one turn of the event loop (`redis, 32 at once`, which share a
 * batch).
 *
 * - calls: of functions of dist/lib, as V8 counts them (precise coverage)
 * - closures: function literals of dist/lib that were evaluated
 * - allocations, bytes: objects that functions of dist/lib allocated (V8's tracker of allocations)
 *
 * Needs --no-opt --no-maglev: V8 counts neither the calls of an inlined function nor the objects that optimized code
 * avoids.
 */
import { Session } from 'node:inspector/promises'
import type { HeapProfiler, Profiler } from 'node:inspector'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import Fastify from 'fastify'
import { RedisServer } from '../tools/redis-server.js'

export interface Cost {
  readonly store: string
  readonly calls: number
  readonly closures: number
  /** undefined with --calls-only, as are the bytes */
  readonly allocations: number | undefined
  readonly bytes: number | undefined
}

const { values } = parseArgs({ options: { 'calls-only': { type: 'boolean', default: false } } })

const lib = new URL('../lib/', import.meta.url)
/** of each measurement */
const requests = 640

const session = new Session()
session.connect()
await session.post('Profiler.enable')
await session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })
// Only now: V8 counts the blocks of functions that it compiles after the start.
const { redisGuard } = await import('fastify-redis-guard')

const server = await RedisServer.start()
try {
  const costs = [
    await costOf('memory', undefined, 1),
    await costOf('redis', server.port, 1),
    await costOf('redis, 32 at once', server.port, 32)
  ]
  for (const cost of costs) console.log(JSON.stringify(cost))
} finally {
  await server.stop()
}

async function costOf (store: string, port: number | undefined, atOnce: number): Promise<Cost> {
  const app = Fastify()
  try {
    await app.register(redisGuard, {
      redis: port === undefined ? false : { port },
      max: 1_000_000,
      timeWindow: '1 minute'
    })
    app.get('/', async () => 'ok')
    const send = async (): Promise<void> => {
      for (let i = 0; i < requests / atOnce; i++) {
        const replies = await Promise.all(Array.from({ length: atOnce }, async () => await app.inject('/')))
        if (replies.some(({ statusCode }) => statusCode !== 200)) throw new Error('a hit was refused')
      }
    }
    await send()
    if (port !== undefined && app.redisGuard.status.store !== 'redis') throw new Error('Redis does not answer')
    const counted = await countCalls(send)
    const allocated = values['calls-only'] ? undefined : await countAllocations(send)
    const each = (count: number): number => Math.round(10 * count / requests) / 10
    return {
      store,
      calls: each(counted.calls),
      closures: each(counted.closures),
      allocations: allocated && each(allocated.count),
      bytes: allocated && Math.round(allocated.bytes / requests)
    }
  } finally {
    await app.close()
  }
}

async function countCalls (send: () => Promise<void>): Promise<{ calls: number, closures: number }> {
  await session.post('Profiler.takePreciseCoverage')
  await send()
  const { result } = await session.post('Profiler.takePreciseCoverage')
  let calls = 0
  let closures = 0
  for (const { functions: reported } of result.filter(({ url }) => url.startsWith(lib.href))) {
    // V8's function for the fields of a class has the whole class as its range.
    const functions = reported.filter(({ functionName }) => functionName !== '<instance_members_initializer>')
    for (const called of functions) {
      calls += outer(called).count
      closures += evaluations(called, functions)
    }
  }
  return { calls, closures }
}

/** How often the function's literal was evaluated: the count of the innermost block of another function around it. */
function evaluations (inner: Profiler.FunctionCoverage, functions: readonly Profiler.FunctionCoverage[]): number {
  const { startOffset, endOffset } = outer(inner)
  let innermost: Profiler.CoverageRange | undefined
  for (const other of functions) {
    if (other === inner) continue
    for (const range of other.ranges) {
      if (range.startOffset > startOffset || range.endOffset < endOffset) continue
      if (innermost === undefined || lengthOf(range) <= lengthOf(innermost)) innermost = range
    }
  }
  return innermost?.count ?? 0
}

function lengthOf ({ startOffset, endOffset }: Profiler.CoverageRange): number {
  return endOffset - startOffset
}

function outer (called: Profiler.FunctionCoverage): Profiler.CoverageRange {
  const [range] = called.ranges
  if (range === undefined) throw new Error(`V8 reports no range of ${called.functionName}`)
  return range
}

interface Snapshot {
  readonly snapshot: {
    readonly meta: {
      readonly trace_function_info_fields: readonly string[],
      readonly trace_node_fields: readonly unknown[]
    }
  }
  readonly trace_function_infos: readonly number[]
  readonly trace_tree: TraceNodes
  readonly strings: readonly string[]
}

/** Flat rows of id, function, count, size and the rows below. */
type TraceNodes = ReadonlyArray<number | TraceNodes>

async function countAllocations (send: () => Promise<void>): Promise<{ count: number, bytes: number }> {
  const chunks: string[] = []
  type Chunk = HeapProfiler.AddHeapSnapshotChunkEventDataType
  session.on('HeapProfiler.addHeapSnapshotChunk', ({ params }: { params: Chunk }) => { chunks.push(params.chunk) })
  await session.post('HeapProfiler.startTrackingHeapObjects', { trackAllocations: true })
  await send()
  await session.post('HeapProfiler.stopTrackingHeapObjects', { reportProgress: false })
  const { snapshot, trace_function_infos: infos, trace_tree: tree, strings } = JSON.parse(chunks.join('')) as Snapshot
  const fields = snapshot.meta.trace_function_info_fields
  const ours = new Set<number>()
  for (let i = 0; i < infos.length; i += fields.length) {
    const script = strings[infos[i + fields.indexOf('script_name')] ?? -1] ?? ''
    if (isOurs(script)) ours.add(i / fields.length)
  }
  const total = { count: 0, bytes: 0 }
  const add = (nodes: TraceNodes): void => {
    for (let i = 0; i < nodes.length; i += 5) {
      const [, of, count, size, below] = nodes.slice(i, i + 5) as [number, number, number, number, TraceNodes]
      if (ours.has(of)) {
        total.count += count
        total.bytes += size
      }
      add(below)
    }
  }
  add(tree)
  return total
}

function isOurs (script: string): boolean {
  return script.startsWith(lib.href) || script.startsWith(fileURLToPath(lib))
}
