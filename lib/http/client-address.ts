/**
 * Reads the address of a client. Behind a list of trusted proxies, `request.ip` parses the address of the connection
 * and the whole X-Forwarded-For at each read, so it is read once for each pair of the two.
 */
import type { FastifyRequest } from 'fastify'
import type { Client } from '../guard/client.js'
import type { Clients } from '../guard/clients.js'

/** Longer headers are read each time, so that clients cannot fill the cache with them. */
export const longestHeader = 100

/** @param trustProxy  Fastify's option; undefined: not given, or not known */
export function clientReader (
  trustProxy: unknown, clients: Pick<Clients, 'byAddress' | 'byConnection'>
): (request: FastifyRequest) => Client {
  // A function may answer differently at each call, and without a proxy there is nothing to parse.
  if (typeof trustProxy !== 'string' && !Array.isArray(trustProxy)) return request => clients.byAddress(request.ip)
  return request => {
    const { headers, socket } = request.raw
    const header = headers['x-forwarded-for'] ?? ''
    // The application has set `request.ip` itself, perhaps from another header.
    const isReplaced = Object.hasOwn(request, 'ip')
    if (typeof header !== 'string' || header.length > longestHeader || isReplaced) return clients.byAddress(request.ip)
    return clients.byConnection(socket.remoteAddress, header, request)
  }
}
