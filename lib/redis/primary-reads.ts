/**
 * Makes the guard read from primaries only. A Cluster with `scaleReads` sends
 * reads to replicas, which lag: a new block could be missing, and a value that
 * was just written could be the old one.
 */
import { isCluster, type RedisClient } from './script.js'

/** @returns the same client, or a proxy of it whose reads go to primaries, whatever its `scaleReads` says */
export function readingPrimaries (client: RedisClient): RedisClient {
  if (!isCluster(client) || client.options.scaleReads === 'master') return client
  const options = { ...client.options, scaleReads: 'master' }
  // ioredis reads its options for each command. The proxy replaces only these; everything else is the client's own.
  return new Proxy(client, {
    get: (target, name) => name === 'options' ? options : Reflect.get(target, name) as unknown
  })
}
