/**
 * Checks the memory of Redis at its first use and every minute, and warns before Redis loses counters or when it does.
 */
import { parseInfo } from '../redis/info.js'
import { timers } from '../runtime/timers.js'
import type { GuardWarning } from '../api/warning.js'
import { checkEviction } from './warnings.js'

export interface MemoryWatchOptions {
  /** the reply to INFO of each primary that may be asked */
  readonly ask: () => Promise<readonly string[]>
  /**
   * called once for each bad policy, each time that memory becomes high, and for evictions after an hour without any
   */
  readonly warn: (warning: GuardWarning, details: object) => void
  /** ms, monotonic */
  readonly now: () => number
}

/** Time between two checks. */
const intervalMs = 60_000

/** Parts of maxmemory. Memory becomes high above the first, and stays high until it is below the second. */
const high = 0.8
const notHigh = 0.75

/** Time without evictions after which new ones are reported again. */
const quietMs = 3_600_000

export class MemoryWatch {
  readonly #options: MemoryWatchOptions
  readonly #policies = new Set<string>()
  #isHigh = false
  /** keys evicted so far, by the run id of the server: a restarted server has a new id and counts from 0 */
  readonly #evicted = new Map<string, number>()
  #lastEvictionMs = -Infinity
  #timer: NodeJS.Timeout | undefined

  constructor (options: MemoryWatchOptions) {
    this.#options = options
  }

  /** Checks now, and then at every interval. */
  start (): void {
    const look = () => { this.look().catch(() => {}) }
    look()
    this.#timer = timers.setInterval(look, intervalMs).unref()
  }

  close (): void {
    timers.clearInterval(this.#timer)
  }

  /** @throws what `ask` throws, such as while Redis is away */
  async look (): Promise<void> {
    const servers = (await this.#options.ask()).map(readServerMemory)
    for (const { policy } of servers) this.#checkPolicy(policy)
    this.#checkMemory(servers)
    this.#checkEvictions(servers)
  }

  #checkPolicy (policy: string): void {
    if (this.#policies.has(policy)) return
    this.#policies.add(policy)
    const warning = checkEviction(policy)
    if (warning !== undefined) this.#options.warn(warning, {})
  }

  #checkMemory (servers: readonly ServerMemory[]): void {
    const [fullest] = servers.toSorted((a, b) => b.used - a.used)
    const { used, usedBytes, maxBytes, policy } = fullest ?? nothing
    if (used > high && !this.#isHigh) {
      this.#isHigh = true
      this.#options.warn(memoryHigh, { usedBytes, maxBytes, policy })
    }
    if (used < notHigh) this.#isHigh = false
  }

  #checkEvictions (servers: readonly ServerMemory[]): void {
    const { now, warn } = this.#options
    const count = servers.reduce((sum, { id, evicted }) => sum + Math.max(0, evicted - (this.#evicted.get(id) ?? 0)), 0)
    // A server that did not answer this time is kept: otherwise its old evictions would count as new ones next time.
    for (const { id, evicted } of servers) this.#evicted.set(id, evicted)
    if (count === 0) return
    if (now() - this.#lastEvictionMs > quietMs) warn(keysEvicted, { evictedKeys: count })
    this.#lastEvictionMs = now()
  }
}

/** The memory of a server, as its reply to INFO says. */
interface ServerMemory {
  readonly id: string
  readonly policy: string
  readonly usedBytes: number
  /** 0: no limit */
  readonly maxBytes: number
  /** part of maxmemory; 0: no limit */
  readonly used: number
  /** keys, since the server started */
  readonly evicted: number
}

function readServerMemory (info: string): ServerMemory {
  const fields = parseInfo(info)
  const numberOf = (name: string) => Number(fields.get(name)) || 0
  const [usedBytes, maxBytes] = [numberOf('used_memory'), numberOf('maxmemory')]
  return {
    id: fields.get('run_id') ?? '',
    policy: fields.get('maxmemory_policy') ?? '',
    usedBytes,
    maxBytes,
    used: maxBytes === 0 ? 0 : usedBytes / maxBytes,
    evicted: numberOf('evicted_keys')
  }
}

/** Stands for the fullest server if the user may ask none. */
const nothing = { used: 0, usedBytes: 0, maxBytes: 0, policy: '' }

const memoryHigh: GuardWarning = {
  code: 'GUARD_WARN_MEMORY',
  message: 'Redis uses more than 80% of its maxmemory. Once it is full, it either rejects writes, so that each ' +
    'instance limits on its own, or drops counters and blocks, as its maxmemory-policy says. Raise maxmemory, lower ' +
    'maxEvents, or look for other data in this Redis'
}

const keysEvicted: GuardWarning = {
  code: 'GUARD_WARN_EVICTED',
  message: 'Redis has evicted keys to stay below its maxmemory. A client whose counter was evicted has a new quota. ' +
    'With an allkeys-* policy, blocks may be gone, too. Raise maxmemory, and give the guard its own Redis with ' +
    'noeviction'
}
