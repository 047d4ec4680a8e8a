/** Reads what Redis reports about itself: INFO and the length of the slow log. */
import type { GuardedRedis } from './breaker.js'
import { isCluster } from './script.js'

export interface RedisInfo {
  /** the reply to INFO */
  readonly info: string
  /** entries in the slow log; undefined: the user may not ask */
  readonly slowLogLength: number | undefined
}

/**
 * @returns the reply to INFO of each primary, without those that do not allow INFO
 * @throws StoreUnavailableError  see GuardedRedis.run
 */
export async function infoOfPrimaries (guarded: GuardedRedis): Promise<readonly string[]> {
  const infos = await guarded.run(async client => {
    const nodes = isCluster(client) ? client.nodes('master') : [client]
    return await Promise.all(nodes.map(async node => await node.info().catch(unlessRefused)))
  })
  return infos.filter(info => info !== undefined)
}

/** @throws Error  if the user may not send INFO; StoreUnavailableError, see GuardedRedis.run */
export async function readInfo (guarded: GuardedRedis): Promise<RedisInfo> {
  const [info, slowLogLength] = await guarded.run(async client => await Promise.all([
    client.info().catch(unlessRefused),
    client.slowlog('LEN').then(Number).catch(unlessRefused)
  ]))
  if (info === undefined) throw new Error('Redis does not allow this user to send INFO')
  return { info, slowLogLength }
}

/** The `name:value` lines of a reply to INFO. */
export function parseInfo (text: string): ReadonlyMap<string, string> {
  const lines = text.split('\r\n').filter(line => line.includes(':'))
  return new Map(lines.map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]))
}

/** Ignores a refusal: managed Redis and ACL users often may not send these commands, and that is not a failure. */
function unlessRefused (error: Error): undefined {
  if (error.name !== 'ReplyError') throw error
}
