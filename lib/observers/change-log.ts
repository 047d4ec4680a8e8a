/**
 * Log lines about changes to blocks, limits and counters. Each
 * change is one line, up to `mostLines` a second; the others of that second
 * are counted in one line at its end. So a list of thousands of addresses
 * floods no log, and the line says how many there were.
 */
import { AsyncResource } from 'node:async_hooks'
import { timers } from '../runtime/timers.js'
import { shorten } from './shorten.js'

/** The most lines in a second, and one with the counts of the others. */
export const mostLines = 10

export type Change = 'blocked' | 'unblocked' | 'limit set' | 'limit reset' | 'counters reset'

export class ChangeLog {
  readonly #write: (details: object, message: string) => void
  /** The counts belong to many callers: they are written in the context of none. */
  readonly #endSecond = AsyncResource.bind(() => this.flush())
  readonly #others = new Map<Change, number>()
  #lines = 0
  #timer: NodeJS.Timeout | undefined

  /** @param write  logs a line; must not throw */
  constructor (write: (details: object, message: string) => void) {
    this.#write = write
  }

  /** @param details  fields of the line; long texts are cut */
  note (change: Change, details: Readonly<Record<string, unknown>>): void {
    this.#timer ??= timers.setTimeout(this.#endSecond, 1000).unref()
    if (this.#lines++ < mostLines) {
      const cut = (value: unknown) => typeof value === 'string' ? shorten(value) : value
      const fields = Object.entries(details).map(([name, value]) => [name, cut(value)])
      this.#write({ change: Object.fromEntries(fields) }, change)
    } else {
      this.#others.set(change, (this.#others.get(change) ?? 0) + 1)
    }
  }

  /** Ends the second: writes the counts, if there are any. */
  flush (): void {
    timers.clearTimeout(this.#timer)
    this.#timer = undefined
    this.#lines = 0
    if (this.#others.size > 0) this.#write({ changes: Object.fromEntries(this.#others) }, 'more changes in one second')
    this.#others.clear()
  }
}
