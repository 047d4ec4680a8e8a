/**
 * Log lines about changes to blocks, limits and counters: one line for each change, up to `mostLines` in a second. One
 * more line at the end of the second counts the others, so blocking thousands of addresses does not flood the log.
 */
import { AsyncResource } from 'node:async_hooks'
import { timers } from '../runtime/timers.js'
import { shorten } from './shorten.js'

/** Lines in a second, without the one that counts the others. */
export const mostLines = 10

export type ChangeKind = 'blocked' | 'unblocked' | 'limit set' | 'limit reset' | 'counters reset'

export class ChangeLog {
  readonly #write: (details: object, message: string) => void
  /** Bound here: the counts belong to many callers, so they are logged in the asynchronous context of none. */
  readonly #endSecond = AsyncResource.bind(() => this.flush())
  readonly #others = new Map<ChangeKind, number>()
  #lines = 0
  #timer: NodeJS.Timeout | undefined

  /** @param write  logs a line; must not throw */
  constructor (write: (details: object, message: string) => void) {
    this.#write = write
  }

  /** @param details  fields of the line; long strings are cut */
  note (change: ChangeKind, details: Readonly<Record<string, unknown>>): void {
    this.#timer ??= timers.setTimeout(this.#endSecond, 1000).unref()
    if (this.#lines++ < mostLines) {
      const cut = (value: unknown) => typeof value === 'string' ? shorten(value) : value
      const fields = Object.entries(details).map(([name, value]) => [name, cut(value)])
      this.#write({ change: Object.fromEntries(fields) }, change)
    } else {
      this.#others.set(change, (this.#others.get(change) ?? 0) + 1)
    }
  }

  /** Ends the second now, and logs the counts if there are any. */
  flush (): void {
    timers.clearTimeout(this.#timer)
    this.#timer = undefined
    this.#lines = 0
    if (this.#others.size > 0) this.#write({ changes: Object.fromEntries(this.#others) }, 'more changes in one second')
    this.#others.clear()
  }
}
