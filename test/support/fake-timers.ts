/** Timers and clocks as test frameworks fake them: no timer fires by itself, and time stands still. */
import { createRequire } from 'node:module'
import { mock } from 'node:test'
import type { Test } from 'tap'
import { timers } from '../../lib/runtime/timers.js'

const common = [
  'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'setImmediate', 'clearImmediate', 'Date', 'performance'
] as const

/**
 * What the frameworks fake by default. Jest also fakes process.nextTick: then neither Fastify nor Node's own streams
 * work, with or without the guard.
 */
export const frameworks = {
  Vitest: common,
  'Jest without nextTick': [...common, 'hrtime', 'queueMicrotask']
} as const

export type Framework = keyof typeof frameworks

/** A clock that a test sets. */
export interface FakeClock {
  nowMs: number
}

/** Fakes timers until the test ends: the global functions and those of require('node:timers'), like their package. */
export function fakeTimers (t: Test, framework: Framework): FakeClock {
  const clock: FakeClock = { nowMs: Date.now() }
  const timer = { ref: () => timer, unref: () => timer, hasRef: () => false, refresh: () => timer, close: () => timer }
  const RealDate = Date
  const fakes: Readonly<Record<string, unknown>> = {
    Date: class extends RealDate {
      constructor (...args: unknown[]) {
        super(...(args.length === 0 ? [clock.nowMs] : args) as [number])
      }

      static override now () {
        return clock.nowMs
      }
    },
    performance: { now: () => clock.nowMs }
  }
  const module = createRequire(import.meta.url)('node:timers') as object
  for (const name of frameworks[framework]) {
    const value = fakes[name] ?? (() => timer)
    t.intercept(name === 'hrtime' ? process : globalThis, name as never, { value, configurable: true } as never)
    if (Object.hasOwn(module, name)) t.intercept(module, name as never, { value, configurable: true } as never)
  }
  return clock
}

/**
 * Until the test ends, the guard's own timers follow those of node:test, which no application does.
 *
 * @throws  if other tests of the file run in parallel: it would stop their timers too
 */
export function mockMachinery (t: Test, api: 'setTimeout' | 'setInterval'): typeof mock.timers {
  if (t.buffered) throw new Error('the timers of a process are faked in a test that runs alone: { buffered: false }')
  mock.timers.enable({ apis: [api] })
  t.teardown(() => mock.timers.reset())
  const clear = api === 'setTimeout' ? 'clearTimeout' : 'clearInterval'
  t.intercept(timers, api, { value: globalThis[api] })
  t.intercept(timers, clear, { value: globalThis[clear] })
  return mock.timers
}
