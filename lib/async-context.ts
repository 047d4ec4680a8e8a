/**
 * In whose asynchronous context something runs: what AsyncLocalStorage, tracers
 * and loggers see there. One batch, timer or connection serves many requests,
 * and what it calls runs in the context of whoever began it: the user, the
 * tenant and the trace of somebody else.
 *
 * What waits for something shared comes back by this function. What the guard
 * does for itself is bound at start by `AsyncResource.bind`, so that it belongs
 * to no request.
 */
import { AsyncResource } from 'node:async_hooks'

/**
 * Binds a callback that is called once to the context in which this is called.
 * A fraction of what `AsyncResource.bind` costs, which adds properties to what
 * it returns.
 */
export function onceInThisContext<Arguments extends unknown[]> (done: (...args: Arguments) => void): (...args: Arguments) => void {
  // Destroyed below: whoever watches asynchronous resources would else wait for a garbage collection.
  const context = new AsyncResource('redis-guard', { requireManualDestroy: true })
  return (...args) => {
    context.runInAsyncScope(done, undefined, ...args)
    context.emitDestroy()
  }
}
