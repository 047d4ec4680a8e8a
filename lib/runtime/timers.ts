/**
 * Node's real timers and its monotonic clock, for the guard's own machinery.
 * They are read once, when this module is loaded, since the fake timers of a
 * test replace the global ones. With a faked setImmediate, a batch would never be
 * sent, and Redis would never be tried again after an outage.
 *
 * Limits and blocks in memory do follow a fake clock: see clock.ts.
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
