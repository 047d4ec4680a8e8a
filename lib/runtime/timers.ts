/**
 * Node's timers and its monotonic clock, for the guard's own machinery. They
 * are taken once, when this module is loaded, since the fake timers of a test
 * replace the global ones: a batch that waits for a faked setImmediate is never
 * sent, and Redis is never tried again after an outage.
 *
 * What decides limits and blocks in memory follows a fake clock: see clock.ts.
 */
import { performance } from 'node:perf_hooks'
import * as node from 'node:timers'

const { setTimeout, clearTimeout, setInterval, clearInterval, setImmediate } = node

export const timers = {
  setTimeout,
  clearTimeout,
  setInterval,
  clearInterval,
  setImmediate,
  /** ms; it never steps */
  monotonicMs: performance.now.bind(performance)
}
