/** What Redis says about itself, and how it is asked. */
import type { GuardedRedis } from './breaker.js'
import { isCluster } from './script.js'

export interface RedisInfo {
  /** the reply to INFO */
  readonly info: string
  /** entries in the slow log; undefined where that may not be asked */
  readonly slowLogLength: number | undefined
}

/**
 * @returns the reply to INFO of each primary that may be asked
 * @throws StoreUnavailableError  as `GuardedRedis.run`
 */
export async function infoOfPrimaries (guarded: GuardedRedis): Promise<readonly string[]> {
  const infos = await guarded.run(async client => {
    const nodes = isCluster(client) ? client.nodes('master') : [client]
    return await Promise.all(nodes.map(async node => await node.info().catch(unlessRefused)))
  })
  return infos.filter(info => info !== undefined)
}

/** @throws where Redis may not be asked, and as `GuardedRedis.run` */
export async function readInfo (guarded: GuardedRedis): Promise<RedisInfo> {
  const [info, slowLogLength] = await guarded.run(async client => await Promise.all([
    client.info().catch(unlessRefused),
    client.slowlog('LEN').then(Number).catch(unlessRefused)
  ]))
  if (info === undefined) throw new Error('Redis does not allow INFO')
  return { info, slowLogLength }
}

/** The `name:value` lines of a reply to INFO. */
export function parseInfo (text: string): ReadonlyMap<string, string> {
  const lines = text.split('\r\n').filter(line => line.includes(':'))
  return new Map(lines.map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]))
}

/** Managed Redis and ACL users are often not allowed to ask: that is no failure of Redis. */
function unlessRefused (error: Error): undefined {
  if (error.name !== 'ReplyError') throw error
}
