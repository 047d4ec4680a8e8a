/**
 * Replies that no command waits for, such as one that a proxy sent twice.
 * ioredis reports them and goes on, and throws on one that is null, in a place
 * where nobody can catch it: that ends the process. Here the connection ends.
 */
import { Command, type Redis } from 'ioredis'
import { OutOfStepError } from './failure.js'

interface Item {
  readonly command: Command
  readonly stream: unknown
  readonly select: number
}

/** The members of an ioredis client that it uses itself. */
interface Internals {
  commandQueue: { shift: () => Item | undefined }
  readonly condition: { readonly select: number }
  readonly stream: Redis['stream']
  resetCommandQueue: () => void
  flushQueue: (...args: unknown[]) => void
}

/** Makes a client end its connection at a reply that no command waits for; a client that is not connected yet. */
export function endAtUnasked (redis: Redis): void {
  const client = redis as unknown as Internals
  const { resetCommandQueue, flushQueue } = client
  let isFlushing = false
  // It shifts until there is nothing left.
  client.flushQueue = (...args) => {
    isFlushing = true
    flushQueue.apply(client, args)
    isFlushing = false
  }
  // With each new connection.
  client.resetCommandQueue = () => {
    resetCommandQueue.call(client)
    const { commandQueue } = client
    const shift = commandQueue.shift.bind(commandQueue)
    // All other callers look first whether the queue is empty: then it is a reply.
    commandQueue.shift = () => shift() ?? (isFlushing ? undefined : unasked(client))
  }
}

/** Ends the connection. @returns what takes the reply, and may fail or be sent again like any other command */
function unasked ({ stream, condition: { select } }: Internals): Item {
  stream.destroy(new OutOfStepError())
  const command = new Command('ping')
  command.promise.catch(() => {})
  return { command, stream: undefined, select }
}
