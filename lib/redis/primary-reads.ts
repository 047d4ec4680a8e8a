/**
 * Reads from primaries alone. A Cluster with `scaleReads` sends reads to
 * replicas, which lag: a block would be missing, and a value that was just
 * written be an old one.
 */
import { isCluster, type RedisClient } from './script.js'

/** @returns the same client, or another view of it whose reads go to primaries, whatever its `scaleReads` */
export function readingPrimaries (client: RedisClient): RedisClient {
  if (!isCluster(client) || client.options.scaleReads === 'master') return client
  const options = { ...client.options, scaleReads: 'master' }
  // ioredis decides by its options, for each command. All else is the client's own, also what is changed here.
  return new Proxy(client, {
    get: (target, name) => name === 'options' ? options : Reflect.get(target, name) as unknown
  })
}
