/** The tables that the bench prints. */
import { type Goal, isReached } from './goals.js'
import type { HeapReport } from './heap.js'
import type { ScenarioReport } from './measure.js'
import type { RedisBytes } from './redis-bytes.js'
import { figure, renderTable } from '../tools/table.js'
import { variants } from './variants.js'

/** CPU time comes first: it is steadier than requests per second on a machine that others use, too. */
export function renderScenario ({ title, pingMicros, rows }: ScenarioReport): string {
  const head = [
    'variant', 'counts in', 'connections', 'Node us/req', 'CPU to plain with headers', 'CPU to @fastify, same store',
    'requests/s', 'to plain with headers', 'to @fastify, same store', 'p50 ms', 'p99 ms', 'Redis us/req',
    'Redis commands/req', 'refused %', 'failed', 'nextTick ns'
  ]
  const order = Object.keys(variants)
  const sorted = rows.toSorted((a, b) => {
    return a.connections - b.connections || order.indexOf(a.variant) - order.indexOf(b.variant)
  })
  const cells = sorted.map(row => {
    const { label, store } = variants[row.variant]
    const toHeaders = row.ratios['plain-headers']
    const toFastify = store === 'none' ? undefined : row.ratios[store === 'Redis' ? 'fastify-redis' : 'fastify-memory']
    return [
      label, store, String(row.connections), ...[
        row.cpuMicrosPerRequest, toHeaders?.cpuMicrosPerRequest, toFastify?.cpuMicrosPerRequest,
        row.requestsPerSecond, toHeaders?.requestsPerSecond, toFastify?.requestsPerSecond, row.p50Ms, row.p99Ms,
        row.redisMicrosPerRequest, row.redisCommandsPerRequest, row.refusedPercent
      ].map(figure), String(row.failed), figure(row.nextTickNs)
    ]
  })
  return `${title} (PING to Redis: ${figure(pingMicros)} us)\n\n${renderTable(head, cells)}`
}

/** The goals, and which of them are reached. */
export function renderGoals (goals: readonly Goal[]): string {
  return renderTable(['goal', 'measured', 'wanted', 'reached'], goals.map(goal => [
    goal.what,
    figure(goal.measured),
    `${goal.atLeast === undefined ? '<=' : '>='} ${figure(goal.atLeast ?? goal.atMost)}`,
    isReached(goal) ? 'yes' : 'no'
  ]))
}

/** The latency that each limiter adds to a request that is alone in the server. */
export function renderAdded ({ pingMicros, rows }: ScenarioReport): string | undefined {
  const plain = rows.find(row => row.variant === 'plain')
  const counting = rows.filter(row => variants[row.variant].store === 'Redis')
  if (plain === undefined || counting.length === 0) return undefined
  const head = ['one request at a time', 'p50 us', 'above plain', 'above plain and a PING']
  const cells = counting.map(row => {
    const added = (row.p50Ms - plain.p50Ms) * 1000
    return [variants[row.variant].label, ...[row.p50Ms * 1000, added, added - pingMicros].map(figure)]
  })
  return renderTable(head, cells)
}

export function renderSizes (redisBytes: readonly RedisBytes[], { clients, blocks }: HeapReport): string {
  const blockHead = [
    'entries', 'bytes each', 'not blocked, ns', 'blocked, ns', 'not blocked, with ranges of 3 lengths, ns'
  ]
  return [
    'Redis: bytes for each client (MEMORY USAGE)',
    renderTable(['variant', 'bytes', 'of them the key', 'key'], redisBytes.map(({ variant, bytes, keyLength, key }) => {
      return [variants[variant].label, String(bytes), String(keyLength), key]
    })),
    'Memory: heap bytes for each of 100,000 clients',
    renderTable(['store', 'bytes'], clients.map(({ label, bytes }) => [label, figure(bytes)])),
    'Block list, in the process',
    renderTable(blockHead, blocks.map(({ entries, bytesPerEntry, missNs, hitNs, missWithRangesNs }) => [
      entries.toLocaleString('en-US'), ...[bytesPerEntry, missNs, hitNs, missWithRangesNs].map(figure)
    ]))
  ].join('\n\n')
}
