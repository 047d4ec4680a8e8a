/**
 * The state of a request's connection: whether it was reset, and whether an
 * answer was delivered.
 */
import type { ServerHttp2Stream } from 'node:http2'
import { type Server, Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { timers } from '../runtime/timers.js'

/**
 * Whether the connection was reset before its peer's address was read. Then the
 * system has forgotten the address, so nobody knows who sent the request, and
 * no client waits for the answer. Such a request must not be handled; otherwise
 * a reset would evade every block and limit.
 *
 * Connections that never have an address are no resets: those of a unix socket
 * or named pipe, and streams that are no sockets, as in `inject`.
 */
export function isReset ({ raw }: FastifyRequest): boolean {
  const { socket } = raw
  if (socket?.remoteAddress !== undefined) return false
  // An HTTP/2 request whose session is over shows its stream in place of the socket.
  if (!(socket instanceof Socket)) return raw.httpVersionMajor === 2
  // The server that accepted the socket: for `localhost`, Fastify makes more than one. Node's HTTP server sets `server`
  // to itself when the application hands it a socket of another server.
  const { server, _server } = socket as Socket & { server?: Server, _server?: Server | null }
  const accepting = _server ?? server
  const address = accepting?.address()
  // A path stays known while its server closes; a unix socket that came as a file descriptor has none.
  return typeof address !== 'string' && !(address === null && accepting?.listening)
}

/** Closes the connection without an answer. No later hook and no handler runs. */
export function hangUp (reply: FastifyReply): void {
  reply.hijack()
  // In a later turn: over HTTP/2 with TLS, a stream destroyed while Node reads its frames leaves the connection open.
  timers.setImmediate(() => { reply.raw.destroy() })
}

/**
 * Whether the whole answer was handed to the system; to be called at `finish`.
 * Node also emits `finish` for an HTTP/2 stream that was reset before its
 * answer, and for an HTTP/1.1 answer that could not be written.
 */
export function wasDelivered ({ raw }: FastifyRequest, reply: FastifyReply): boolean {
  const { stream } = reply.raw as { stream?: ServerHttp2Stream }
  // Each alone is not enough: Node ends an aborted stream, and a client may reset one with the code for no error.
  if (stream !== undefined) return !stream.aborted && stream.writableFinished && stream.rstCode === 0
  return !raw.socket?.destroyed && !raw.socket?.errored
}
