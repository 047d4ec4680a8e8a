/** Log lines about outages of Redis: when one begins and ends, what is lost in it, and commands that Redis refuses. */
import type { StoreUnavailableError } from '../errors.js'
import type { StoreStatus } from '../outage/availability.js'
import type { JournalKind } from '../outage/journal.js'
import { timers } from '../runtime/timers.js'
import type { SafeLog } from './safe-log.js'

/** ms between two lines about refused commands. */
const refusedIntervalMs = 60_000

export class OutageLog {
  readonly #log: SafeLog
  /** kinds of entries that were dropped in this outage */
  readonly #dropped = new Set<JournalKind>()
  #refusedAtMs = -Infinity

  constructor (log: SafeLog) {
    this.#log = log
  }

  switched ({ store, reason }: StoreStatus): void {
    if (store === 'memory') return this.#log.warn({ reason }, 'Redis is away, memory answers')
    this.#dropped.clear()
    this.#log.info('Redis answers')
  }

  /** The journal has no room for an entry. One line for each kind in an outage. */
  journalFull (kind: JournalKind): void {
    if (this.#dropped.has(kind)) return
    this.#dropped.add(kind)
    this.#log.warn({ kind }, `the journal is full: some of the ${kind} that Redis has missed will not reach it`)
  }

  rejected (kind: JournalKind, count: number, error: Error): void {
    this.#log.error({ err: error, kind, count }, 'Redis rejected journal entries during replay; they are lost')
  }

  /** Redis answers, but refuses a command, such as for want of a right: nothing else tells of it. */
  commandRefused (failure: StoreUnavailableError): void {
    if (timers.monotonicMs() - this.#refusedAtMs < refusedIntervalMs) return
    this.#refusedAtMs = timers.monotonicMs()
    this.#log.warn({ err: failure }, 'Redis refuses a command, memory answers for it')
  }
}
