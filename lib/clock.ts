/**
 * The clock that durations run on: windows, blocks, values and what waits for
 * Redis. It tells ms since 1970 like Date.now(), and never steps. By the wall
 * clock, a step of two hours ahead would end blocks that are in force, and a
 * step back would not bring them back.
 *
 * Fake timers must work all the same, whether they come before the plugin or
 * after it, and whether they replace Date alone or performance, too. So this
 * clock follows Date.now() as long as that is not Node's own function, and the
 * monotonic clock otherwise. A process that is suspended stands still on it,
 * as on any monotonic clock.
 *
 * What is shown to people as a time is a matter of the wall clock: see
 * MemoryStore.blocks, and `atMs` of events.
 */
import { performance } from 'node:perf_hooks'

/** Where a clock gets its time from. */
export interface ClockSources {
  /** looked up at each call, since fake timers replace it */
  readonly date: () => { now (): number }
  /** ms, never steps */
  readonly monotonicMs: () => number
  /** whether a function `now` is Node's own */
  readonly isReal: (now: () => number) => boolean
}

/** @returns a function that tells whole ms since 1970, as the wall clock did when it was first called */
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
