/**
 * The state of `process.nextTick` in a server. One full garbage collection can slow it down for the life of a process
 * (lib/runtime/tick-shape.ts), which costs a request more than many limiters do. It is a matter of luck, so the bench
 * sets the state of each server, and compares only servers in the same one.
 *
 * A server imports this module first, since a collection may come while the other modules are loaded.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { keepTickShape } from '../lib/runtime/tick-shape.js'

export type NextTick = 'kept' | 'lost'

/** The state that this server shall have: the last argument of the process. */
const wanted = process.argv.at(-1)

if (wanted !== 'lost') keepTickShape()

/** Makes full garbage collections slow nextTick down, if that is wanted. */
export async function settleNextTick (): Promise<void> {
  if (wanted !== 'lost') return
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  for (let i = 0; i < 4; i++) {
    collect()
    await sleep(10)
  }
}

/** ns of one call, in the fastest of several rounds. */
export async function nextTickNanos (): Promise<number> {
  const calls = 20_000
  const noop = () => {}
  let least = Infinity
  for (let round = 0; round < 20; round++) {
    const from = process.hrtime.bigint()
    for (let i = 0; i < calls; i++) process.nextTick(noop)
    least = Math.min(least, Number(process.hrtime.bigint() - from) / calls)
    await sleep(1)
  }
  return least
}
