/** The state of the connection of a request: whether it was reset, and whether the answer was delivered. */
import type { ServerHttp2Stream } from 'node:http2'
import { type Server, Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { timers } from '../runtime/timers.js'

/**
 * Whether the connection was reset before the address of its peer was read. Then the system has forgotten the address,
 * and no client waits for the answer. Such a request must not be handled; otherwise a reset would evade every block and
 * limit.
 *
 * A connection that never has an address was not reset: that of a unix socket or named pipe, or a stream that is no
 * socket, as in `inject`.
 */
export function isReset ({ raw }: FastifyRequest): boolean {
  const { socket } = raw
  if (socket?.remoteAddress !== undefined) return false
  // An HTTP/2 request whose session has ended has its stream in place of the socket.
  if (!(socket instanceof Socket)) return raw.httpVersionMajor === 2
  // The server that accepted the socket: for `localhost`, Fastify makes more than one. Node's HTTP server sets `server`
  // to itself when the application hands it a socket of another server.
  const { server, _server } = socket as Socket & { server?: Server, _server?: Server | null }
  const accepting = _server ?? server
  const address = accepting?.address()
  // A server on a path still has it while it closes. A unix socket that was passed as a file descriptor has no path.
  return typeof address !== 'string' && !(address === null && accepting?.listening)
}

/** Closes the connection without an answer. No later hook and no handler run. */
export function hangUp (reply: FastifyReply): void {
  reply.hijack()
  // In a later turn: over HTTP/2 with TLS, a stream destroyed while Node reads its frames leaves the connection open.
  timers.setImmediate(() => { reply.raw.destroy() })
}

/**
 * Whether the whole answer was handed to the system. To be called at `finish`, which Node also emits for an HTTP/2
 * stream that was reset before its answer, and for an HTTP/1.1 answer that could not be written.
 */
export function wasDelivered ({ raw }: FastifyRequest, reply: FastifyReply): boolean {
  const { stream } = reply.raw as { stream?: ServerHttp2Stream }
  // All three are needed: Node ends an aborted stream, and a client may reset a stream with the code for "no error".
  if (stream !== undefined) return !stream.aborted && stream.writableFinished && stream.rstCode === 0
  return !raw.socket?.destroyed && !raw.socket?.errored
}
