import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

/**
 * Waits for a condition.
 *
 * @param withinMs  long, since it is used up only by a test that fails, and a busy machine is slow
 * @throws when the condition does not come true in time
 */
export async function until (condition: () => boolean | Promise<boolean>, withinMs = 30_000): Promise<void> {
  const endMs = performance.now() + withinMs
  while (!await condition()) {
    if (performance.now() > endMs) throw new Error(`not within ${withinMs} ms: ${String(condition)}`)
    await sleep(5)
  }
}
