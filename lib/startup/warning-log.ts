/** Logs the warnings of one registration, and keeps them for `redisGuard.warnings`. */
import type { GuardWarning } from '../api/warning.js'
import type { SafeLog } from '../observers/safe-log.js'

export class WarningLog {
  readonly #log: SafeLog
  readonly #found: GuardWarning[] = []

  constructor (log: SafeLog) {
    this.#log = log
  }

  /** Each warning once, in the order in which it was first found. The array grows. */
  get found (): readonly GuardWarning[] {
    return this.#found
  }

  /**
   * Logs a warning, even if it was found before.
   *
   * @param details  fields of the log line
   */
  warn (warning: GuardWarning, details: object = {}): void {
    if (!this.#isFound(warning)) this.#found.push(warning)
    this.#log.warn({ code: warning.code, ...details }, warning.message)
  }

  /** Logs a warning unless it was found before. */
  warnOnce (warning: GuardWarning): void {
    if (!this.#isFound(warning)) this.warn(warning)
  }

  #isFound ({ message }: GuardWarning): boolean {
    return this.#found.some(known => known.message === message)
  }
}
