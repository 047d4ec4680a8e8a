/**
 * Listeners on an emitter that many registrations share, such as the user's
 * client. Node warns of a leak at the eleventh listener of one event, and the
 * limit is the user's to raise. So all of them share one.
 */
import type { EventEmitter } from 'node:events'

type Listener = (...args: never[]) => void

/** The part of an emitter that is needed; each version of ioredis types its own. */
type Emitter = Pick<EventEmitter, 'on' | 'off' | 'listeners'>

interface Shared {
  readonly listeners: Set<Listener>
  readonly call: (...args: unknown[]) => void
}

/** Registrations know nothing of each other, so what they share is kept with the emitter. */
const allShared = new WeakMap<Emitter, Map<string, Shared>>()

/**
 * Like `on`; several listeners for an event put one on the emitter.
 *
 * @param listener  a function of the caller's own, which is in use nowhere else
 * @returns stops listening; the last one to stop leaves nothing on the emitter
 */
export function listen (emitter: Emitter, event: string, listener: Listener): () => void {
  const ofEmitter = allShared.get(emitter) ?? new Map<string, Shared>()
  allShared.set(emitter, ofEmitter)
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
