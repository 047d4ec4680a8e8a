/**
 * The clock for durations: windows, blocks, values and the journal. It returns
 * ms since 1970 like Date.now(), but never steps. If durations ran on the wall
 * clock, a step two hours ahead would end blocks that are in force, and the
 * step back would not restore them.
 *
 * Fake timers must work too, whether they are installed before the plugin or
 * after it, and whether they replace only Date or also performance. So this
 * clock follows Date.now() while that is not Node's own function, and otherwise
 * the monotonic clock. Like any monotonic clock, it stands still while the
 * process is suspended.
 *
 * Times that people see are on the wall clock: see MemoryBlocks.blocks, and
 * `atMs` of events.
 */
import { performance } from 'node:perf_hooks'

/** The functions that a clock reads. */
export interface ClockSources {
  /** called each time, since fake timers replace the global Date */
  readonly date: () => { now (): number }
  /** ms; it never steps */
  readonly monotonicMs: () => number
  /** whether a function `now` is Node's own */
  readonly isReal: (now: () => number) => boolean
}

/** @returns a function that returns whole ms since 1970; its first call agrees with the wall clock */
export function steadyClock ({ date, monotonicMs, isReal }: ClockSources = system): () => number {
  let source: (() => number) | undefined
  let isSteady = false
  let startedAtMs = 0
  return () => {
    const wall = date()
    if (wall.now !== source) {
      source = wall.now
      isSteady = isReal(source)
      startedAtMs = wall.now() - monotonicMs()
    }
    return isSteady ? Math.round(startedAtMs + monotonicMs()) : wall.now()
  }
}

const system: ClockSources = {
  date: () => Date,
  monotonicMs: () => performance.now(),
  isReal: now => Function.prototype.toString.call(now) === 'function now() { [native code] }'
}
