/**
 * Where the address of a client comes from. Behind a list of trusted proxies
 * `request.ip` parses the connection's address and the whole X-Forwarded-For
 * each time it is read, so it is read once for each pair of the two.
 */
import type { FastifyRequest } from 'fastify'
import type { Client } from '../guard/client.js'
import type { Clients } from '../guard/clients.js'

/** Longer headers are read each time: nobody is to fill the memory with them. */
export const longestHeader = 100

/**
 * @param trustProxy  Fastify's option; undefined where it is not known
 */
export function clientReader (
  trustProxy: unknown, clients: Pick<Clients, 'byAddress' | 'byConnection'>
): (request: FastifyRequest) => Client {
  // A function may answer differently tomorrow, and without a proxy there is nothing to parse.
  if (typeof trustProxy !== 'string' && !Array.isArray(trustProxy)) return request => clients.byAddress(request.ip)
  return request => {
    const { headers, socket } = request.raw
    const header = headers['x-forwarded-for'] ?? ''
    // One of its own is what an application has set, from another header perhaps.
    const isOwn = Object.hasOwn(request, 'ip')
    if (typeof header !== 'string' || header.length > longestHeader || isOwn) return clients.byAddress(request.ip)
    return clients.byConnection(socket.remoteAddress, header, request)
  }
}
