/**
 * Measures the memory that clients and blocks take in this process, and the time
 * to find a block. Prints JSON. Needs --expose-gc, and a process that does
 * nothing else.
 */
import { createRequire } from 'node:module'
import { RateLimiterMemory } from 'rate-limiter-flexible'
import { algorithms } from '../lib/rules/algorithms.js'
import type { Limit } from '../lib/rules/rate-limit.js'
import { Keys } from '../lib/store/keys.js'
import { MemoryStore } from '../lib/store/memory/memory-store.js'

export interface HeapBytes {
  readonly label: string
  readonly bytes: number
}

export interface BlockLookup {
  readonly entries: number
  readonly bytesPerEntry: number
  /** ns, for an address that is not blocked, one that is, and one that is not while there are ranges as well */
  readonly missNs: number
  readonly hitNs: number
  readonly missWithRangesNs: number
}

export interface HeapReport {
  readonly clients: readonly HeapBytes[]
  readonly blocks: readonly BlockLookup[]
}

const clientCount = 100_000
const lookups = 1_000_000
/** objects that must not be collected before they are measured */
const held = new Set<object>()

const report: HeapReport = {
  clients: await measureClients(),
  blocks: [1000, 100_000, 1_000_000].map(measureBlocks)
}
console.log(JSON.stringify(report))
// rate-limiter-flexible has a timer for each client.
process.exit(0)

async function measureClients (): Promise<HeapBytes[]> {
  const rows: HeapBytes[] = []
  const LocalStore = createRequire(import.meta.url)('@fastify/rate-limit/store/LocalStore') as LocalStoreConstructor
  const local = new LocalStore(false, false, clientCount)
  rows.push(await each('@fastify/rate-limit', ip => local.incr(ip, () => {}, 60_000, 1000), local))
  const flexible = new RateLimiterMemory({ points: 1000, duration: 60 })
  rows.push(await each('rate-limiter-flexible', async ip => await flexible.consume(ip), flexible))
  for (const algorithm of algorithms) {
    const store = newStore()
    const limit: Limit = { algorithm, max: 1000, windowMs: 60_000, burst: 1000, excess: 'none', longestMs: 60_000 }
    rows.push(await each(
      `fastify-redis-guard, ${algorithm}`,
      ip => store.limits.take({ clientKey: ip, checks: [{ name: 'global', limit, cost: 1 }] }),
      store
    ))
  }
  return rows
}

/** @param holder  kept until the end of the measurement */
async function each (label: string, count: (ip: string) => unknown, holder: object): Promise<HeapBytes> {
  const before = heapUsed()
  for (let i = 0; i < clientCount; i++) await count(addressOf(i))
  const bytes = (heapUsed() - before) / clientCount
  held.add(holder)
  return { label, bytes }
}

function measureBlocks (entries: number): BlockLookup {
  const before = heapUsed()
  const store = newStore()
  for (let i = 0; i < entries; i++) {
    store.blocks.block({ ip: eitherAddressOf(i), durationMs: 3_600_000, reason: 'bench', origin: 'api' })
  }
  const bytesPerEntry = (heapUsed() - before) / entries
  const blocked = Array.from({ length: 10_000 }, (_, i) => eitherAddressOf((i * 7919) % entries))
  const others = Array.from({ length: 10_000 }, (_, i) => {
    return i % 2 === 0 ? `203.0.${i >> 8}.${i & 255}` : `2001:db9::${i.toString(16)}`
  })
  const missNs = nsPerLookup(store, others, false)
  const hitNs = nsPerLookup(store, blocked, true)
  for (const range of ['192.0.2.0/24', '198.51.0.0/16', '2001:db8::/32']) {
    store.blocks.block({ ip: range, durationMs: 3_600_000, reason: 'bench', origin: 'api' })
  }
  return { entries, bytesPerEntry, missNs, hitNs, missWithRangesNs: nsPerLookup(store, others, false) }
}

function nsPerLookup (store: MemoryStore, addresses: readonly string[], expected: boolean): number {
  let found = 0
  for (let i = 0; i < lookups / 10; i++) store.blocks.isBlocked(addresses[i % addresses.length]!)
  const startedAt = process.hrtime.bigint()
  for (let i = 0; i < lookups; i++) if (store.blocks.isBlocked(addresses[i % addresses.length]!)) found++
  const ns = Number(process.hrtime.bigint() - startedAt) / lookups
  if (found !== (expected ? lookups : 0)) throw new Error(`${found} of ${lookups} lookups found a block`)
  return ns
}

function newStore (): MemoryStore {
  return new MemoryStore({ keys: new Keys('guard:'), capacity: clientCount, maxEvents: 1, now: Date.now })
}

/** Addresses of both families by turns. */
function eitherAddressOf (i: number): string {
  return i % 2 === 0 ? addressOf(i) : `2001:db8:${(i >> 16).toString(16)}:${(i & 65535).toString(16)}::1`
}

/** 11.0.0.0 and following; each call makes a new string, as a header does. */
function addressOf (i: number): string {
  return `11.${i >> 16}.${(i >> 8) & 255}.${i & 255}`
}

/** Typed arrays lie outside the heap. */
function heapUsed (): number {
  globalThis.gc!()
  globalThis.gc!()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

interface LocalStoreConstructor {
  new (continueExceeding: boolean, exponentialBackoff: boolean, cache: number): {
    incr (ip: string, callback: () => void, timeWindowMs: number, max: number): void
  }
}
