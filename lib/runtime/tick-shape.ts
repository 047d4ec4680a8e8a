/**
 * Keeps `process.nextTick` fast for the life of the process.
 *
 * Each call of it makes an object with two symbols as keys. V8 keeps the shape of such objects only as long as one of
 * them is alive. If a full garbage collection comes while there is none, as often during start-up, the shape is made
 * again. From then on the code that makes these objects handles several shapes, and a call takes 200 ns in place of 25,
 * until the process ends. A request makes five or more calls. One such object that stays alive prevents it. Seen on
 * Node.js 20, 22, 24 and 26.
 */
import { executionAsyncResource } from 'node:async_hooks'
import { attached } from './attached.js'

interface KeptTick {
  /** undefined: the first tick has not run yet */
  object: object | undefined
}

const keptTick = Symbol('fastify-redis-guard.kept-tick')

/** Keeps the object of one tick; further calls in the process do nothing. */
export function keepTickShape (): void {
  attached(process, keptTick, () => {
    const kept: KeptTick = { object: undefined }
    // Inside of a tick, its object is the current asynchronous resource. A fake nextTick may never run this.
    // eslint-disable-next-line no-restricted-properties -- Node's own is what this is about
    process.nextTick(() => { kept.object = executionAsyncResource() })
    return kept
  })
}
