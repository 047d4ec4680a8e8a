/** Log lines about outages of Redis (beginning, end and losses), and about commands that Redis rejects. */
import type { StoreUnavailableError } from '../errors.js'
import type { StoreStatus } from '../outage/availability.js'
import type { JournalKind } from '../outage/journal.js'
import { timers } from '../runtime/timers.js'
import type { SafeLog } from './safe-log.js'

/** The most reasons of one outage that are logged. */
const mostReasons = 5

/** Time between two lines about rejected commands. */
const rejectedIntervalMs = 60_000

export class OutageLog {
  readonly #log: SafeLog
  /** kinds of entries that the journal has dropped in this outage */
  readonly #dropped = new Set<JournalKind>()
  /** reasons of this outage that are logged already; empty: there is no outage */
  readonly #reasons = new Set<string>()
  #rejectedAtMs = -Infinity

  constructor (log: SafeLog) {
    this.#log = log
  }

  startedWithoutRedis (reason: string): void {
    this.#reasons.add(reason)
    this.#log.warn({ reason }, notUsableYet)
  }

  switched ({ reason }: StoreStatus): void {
    if (reason !== undefined) {
      this.#reasons.add(reason)
      return this.#log.warn({ reason }, redisAway)
    }
    this.#dropped.clear()
    this.#reasons.clear()
    this.#log.info('Redis is in use: it answers from now on')
  }

  /** A probe of this outage has failed. Often only its reason says what to fix: the first was a closed connection. */
  stillAway ({ message: reason }: StoreUnavailableError): void {
    const { size } = this.#reasons
    if (size === 0 || size >= mostReasons || this.#reasons.has(reason)) return
    this.#reasons.add(reason)
    this.#log.warn({ reason }, redisStillAway)
  }

  /** The journal has dropped an entry. One line for each kind in an outage. */
  journalFull (kind: JournalKind): void {
    if (this.#dropped.has(kind)) return
    this.#dropped.add(kind)
    this.#log.warn({ kind },
      `the journal is full: some of the ${kind} of this outage will not reach Redis. To keep more, raise maxJournal`)
  }

  rejected (kind: JournalKind, count: number, error: Error): void {
    this.#log.error({ err: error, kind, count }, 'Redis rejected journal entries during replay; they are lost')
  }

  /** Redis rejects a command but stays in use, for example if its user lacks a right. No other line would say so. */
  commandRejected (failure: StoreUnavailableError): void {
    if (timers.monotonicMs() - this.#rejectedAtMs < rejectedIntervalMs) return
    this.#rejectedAtMs = timers.monotonicMs()
    this.#log.warn({ err: failure }, commandRejected)
  }
}

const notUsableYet =
  'Redis cannot be used yet, memory answers. The guard keeps trying Redis; `reason` says what to fix'

const redisAway = 'Redis is away, memory answers. The guard keeps trying Redis; `reason` says what to fix'

const redisStillAway = 'Redis is still away, now for another reason; `reason` says what to fix'

const commandRejected = 'Redis rejected a command, memory answers for it. Redis stays in use; `err` says what to ' +
  'fix. This is logged once a minute'
