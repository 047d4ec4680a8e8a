/**
 * Puts one listener on an emitter for many registrations, such as on the user's
 * client. Node warns of a leak at the eleventh listener of one event, and only
 * the user may raise that number.
 */
import type { EventEmitter } from 'node:events'
import { attached } from './attached.js'

type Listener = (...args: never[]) => void

/** The methods that are used; each version of ioredis has its own types. */
type Emitter = Pick<EventEmitter, 'on' | 'off' | 'listeners'>

/** The one listener on the emitter for an event, and the listeners that it calls. */
interface SharedListener {
  readonly listeners: Set<Listener>
  readonly call: (...args: unknown[]) => void
}

/** The property under which an emitter keeps its shared listeners, by event. Registrations do not know each other. */
const sharedListeners = Symbol('fastify-redis-guard.listeners')

/**
 * Like `emitter.on`, but all listeners of an event put only one on the emitter.
 *
 * @param listener  a function that is used nowhere else
 * @returns a function that stops listening; the last one removes the shared listener
 */
export function listen (emitter: Emitter, event: string, listener: Listener): () => void {
  const byEvent = attached(emitter, sharedListeners, () => new Map<string, SharedListener>())
  const { listeners, call } = byEvent.get(event) ?? makeShared(emitter, event, byEvent)
  listeners.add(listener)
  // Checked each time: the application may have removed all listeners of its client.
  if (!emitter.listeners(event).includes(call)) emitter.on(event, call)
  return () => {
    if (!listeners.delete(listener) || listeners.size > 0) return
    byEvent.delete(event)
    emitter.off(event, call)
  }
}

function makeShared (emitter: Emitter, event: string, byEvent: Map<string, SharedListener>): SharedListener {
  const listeners = new Set<Listener>()
  // Calls a copy: a listener that is added during an event gets the next event first.
  const call = (...args: unknown[]) => { for (const listener of [...listeners]) Reflect.apply(listener, emitter, args) }
  const shared = { listeners, call }
  byEvent.set(event, shared)
  return shared
}
