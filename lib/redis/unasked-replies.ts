/**
 * Ends a connection on a reply that no command waits for, such as one that a
 * proxy sent twice. ioredis only reports such a reply and continues. If it is
 * null, ioredis throws where nobody can catch it, and the process ends.
 */
import { Command, type Redis } from 'ioredis'
import { OutOfStepError } from './failure.js'

interface Item {
  readonly command: Command
  readonly stream: unknown
  readonly select: number
}

/** Internal members of an ioredis client. */
interface Internals {
  commandQueue: { shift: () => Item | undefined }
  readonly condition: { readonly select: number }
  readonly stream: Redis['stream']
  resetCommandQueue: () => void
  flushQueue: (...args: unknown[]) => void
}

/** Makes a client end its connection at a reply that no command waits for. The client must not be connected yet. */
export function endAtUnasked (redis: Redis): void {
  const client = redis as unknown as Internals
  const { resetCommandQueue, flushQueue } = client
  let isFlushing = false
  // flushQueue shifts until the queue is empty, so shifting an empty queue does not mean a reply here.
  client.flushQueue = (...args) => {
    isFlushing = true
    flushQueue.apply(client, args)
    isFlushing = false
  }
  // ioredis makes a new queue for each connection.
  client.resetCommandQueue = () => {
    resetCommandQueue.call(client)
    const { commandQueue } = client
    const shift = commandQueue.shift.bind(commandQueue)
    // All other callers check first whether the queue is empty. So a shift of an empty queue means an unasked reply.
    commandQueue.shift = () => shift() ?? (isFlushing ? undefined : unasked(client))
  }
}

/** Ends the connection. @returns a command that takes the reply; like any other, it may fail or be sent again */
function unasked ({ stream, condition: { select } }: Internals): Item {
  stream.destroy(new OutOfStepError())
  const command = new Command('ping')
  command.promise.catch(() => {})
  return { command, stream: undefined, select }
}
