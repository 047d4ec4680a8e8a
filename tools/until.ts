/** Waiting for a condition in place of a fixed sleep. */
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

/**
 * Waits for a condition.
 *
 * @param withinMs  long, since only a failing test uses it up, and a busy machine is slow
 * @throws if the condition does not become true in time
 */
export async function until (condition: () => boolean | Promise<boolean>, withinMs = 30_000): Promise<void> {
  const endMs = performance.now() + withinMs
  while (!await condition()) {
    if (performance.now() > endMs) throw new Error(`not within ${withinMs} ms: ${String(condition)}`)
    await sleep(5)
  }
}
