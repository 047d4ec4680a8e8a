/**
 * What the connection of a request tells: whether anybody is at its other end,
 * and whether an answer has left for there.
 */
import type { ServerHttp2Stream } from 'node:http2'
import { type Server, Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'

/**
 * Whether the connection was reset before anybody read its peer's address.
 * The system has forgotten the address then: nobody can say whose request it
 * is, and nobody is there to answer. Such a request must not be handled, or a
 * reset would be a way around every block and limit.
 *
 * Only the listener of a unix socket (or named pipe), and a stream that is no
 * socket, as `inject` and some servers have, are without an address by nature.
 */
export function isReset ({ raw }: FastifyRequest): boolean {
  const { socket } = raw
  if (socket?.remoteAddress !== undefined) return false
  // An HTTP/2 request whose session is over shows its stream in place of the socket.
  if (!(socket instanceof Socket)) return raw.httpVersionMajor === 2
  // Its own server, not Fastify's: for `localhost` Fastify makes further ones.
  const { server } = socket as Socket & { server?: Server }
  const address = server?.address()
  // A path stays known while its server closes; a unix socket that came as a file descriptor has none.
  return typeof address !== 'string' && !(address === null && server!.listening)
}

/** Hangs up without an answer; no later hook and no handler sees the request. */
export function hangUp (reply: FastifyReply): void {
  reply.hijack()
  // Later: over HTTP/2 with TLS, a stream that is destroyed while Node reads its frames leaves the connection open.
  setImmediate(() => { reply.raw.destroy() })
}

/**
 * Whether an answer was handed to the system as a whole; asked at `finish`.
 * Node emits that too for an HTTP/2 stream that was reset before its answer,
 * and for an answer over HTTP/1.1 whose writing failed.
 */
export function wasDelivered ({ raw }: FastifyRequest, reply: FastifyReply): boolean {
  const { stream } = reply.raw as { stream?: ServerHttp2Stream }
  // An aborted stream is ended by Node, and a client may reset one with the code for no error: none of these says all.
  if (stream !== undefined) return !stream.aborted && stream.writableFinished && stream.rstCode === 0
  return !raw.socket?.destroyed && !raw.socket?.errored
}
