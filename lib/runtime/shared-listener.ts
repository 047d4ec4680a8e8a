/**
 * Listeners on an emitter that many registrations share, such as the user's
 * client. Node warns of a leak at the eleventh listener of one event, and the
 * limit is the user's to raise. So all of them share one.
 */
import type { EventEmitter } from 'node:events'
import { attached } from './attached.js'

type Listener = (...args: never[]) => void

/** The part of an emitter that is needed; each version of ioredis types its own. */
type Emitter = Pick<EventEmitter, 'on' | 'off' | 'listeners'>

interface Shared {
  readonly listeners: Set<Listener>
  readonly call: (...args: unknown[]) => void
}

/** Under which an emitter keeps what registrations share on it, by event: they know nothing of each other. */
const sharedListeners = Symbol('fastify-redis-guard.listeners')

/**
 * Like `on`; several listeners for an event put one on the emitter.
 *
 * @param listener  a function of the caller's own, which is in use nowhere else
 * @returns stops listening; the last one to stop leaves nothing on the emitter
 */
export function listen (emitter: Emitter, event: string, listener: Listener): () => void {
  const ofEmitter = attached(emitter, sharedListeners, () => new Map<string, Shared>())
  const { listeners, call } = ofEmitter.get(event) ?? share(emitter, event, ofEmitter)
  listeners.add(listener)
  // Asked each time: the application may have removed all listeners of its client.
  if (!emitter.listeners(event).includes(call)) emitter.on(event, call)
  return () => {
    if (!listeners.delete(listener) || listeners.size > 0) return
    ofEmitter.delete(event)
    emitter.off(event, call)
  }
}

function share (emitter: Emitter, event: string, ofEmitter: Map<string, Shared>): Shared {
  const listeners = new Set<Listener>()
  // A copy: what begins to listen during an event hears of the next one.
  const call = (...args: unknown[]) => { for (const listener of [...listeners]) Reflect.apply(listener, emitter, args) }
  const shared = { listeners, call }
  ofEmitter.set(event, shared)
  return shared
}
