import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

/** Waits for a condition; @throws when it does not come true in time, which a busy machine needs */
export async function until (condition: () => boolean | Promise<boolean>, withinMs = 30_000): Promise<void> {
  const endMs = performance.now() + withinMs
  while (!await condition()) {
    if (performance.now() > endMs) throw new Error(`not within ${withinMs} ms: ${String(condition)}`)
    await sleep(5)
  }
}
