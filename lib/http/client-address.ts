/**
 * Whose request it is. Behind a list of trusted proxies `request.ip` parses the
 * connection's address and the whole X-Forwarded-For each time it is read,
 * which costs more than all else that the guard does for a request; but equal
 * connections and headers give equal addresses, so each is read once.
 */
import type { FastifyRequest } from 'fastify'
import type { Client } from '../guard/client.js'
import type { Guard } from '../guard/guard.js'

/** How many pairs of connection and header are remembered. */
export const mostPairs = 10_000

/** Longer headers are read each time: nobody is to fill the memory with them. */
export const longestHeader = 100

/**
 * @param trustProxy  Fastify's option; undefined where it is not known
 */
export function clientReader (trustProxy: unknown, guard: Pick<Guard, 'identify' | 'read'>): (request: FastifyRequest) => Client {
  // A function may answer differently tomorrow, and without a proxy there is nothing to parse.
  if (typeof trustProxy !== 'string' && !Array.isArray(trustProxy)) return request => guard.identify(request.ip)
  const byConnection = new Map<string | undefined, Map<string, Client>>()
  let remembered = 0
  let misses = 0
  let overflowed = false
  return request => {
    const { raw } = request
    const header = raw.headers['x-forwarded-for'] ?? ''
    // One of its own is what an application has set, from another header perhaps.
    if (typeof header !== 'string' || header.length > longestHeader || Object.hasOwn(request, 'ip')) return guard.identify(request.ip)
    const address = raw.socket.remoteAddress
    const known = byConnection.get(address)?.get(header)
    if (known !== undefined) return known
    const client = guard.read(request.ip)
    // In a flood of more pairs than fit, remembering each would cost more than it saves.
    if (overflowed && ++misses % 8 !== 0) return client
    if (remembered >= mostPairs) {
      byConnection.clear()
      remembered = 0
      overflowed = true
    }
    let byHeader = byConnection.get(address)
    if (byHeader === undefined) byConnection.set(address, byHeader = new Map())
    byHeader.set(header, client)
    remembered++
    return client
  }
}
