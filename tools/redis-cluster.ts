/** A real Cluster of three primaries, each with a replica if requested. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Redis, RedisOptions } from 'ioredis'
import { RedisServer } from './redis-server.js'

interface ClusterStart {
  readonly withReplicas?: boolean
  /** for each server */
  readonly args?: readonly string[]
  readonly client?: RedisOptions
}

export class RedisCluster {
  /** the initial primaries, then their replicas in the same order */
  readonly servers: readonly RedisServer[]

  private constructor (servers: readonly RedisServer[]) {
    this.servers = servers
  }

  /**
   * @param args  additional arguments of redis-server
   * @param client  options that a client of these servers needs, such as `tls`
   */
  static async start (
    { withReplicas = false, args = [], client: clientOptions = {} }: ClusterStart = {}
  ): Promise<RedisCluster> {
    const count = withReplicas ? 6 : 3
    const servers = await Promise.all(Array.from({ length: count }, async (_, i) =>
      await RedisServer.start(
        '--cluster-enabled', 'yes', '--cluster-config-file', `nodes-${i}.conf`, '--cluster-node-timeout', '2000',
        // Without these, a replica gets its first data, and then its first command, seconds later.
        '--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1', ...args
      )))
    const clients = servers.map(server => server.client(clientOptions))
    await Promise.all(clients.map(async (client, i) => {
      const slots = [Math.ceil(i * 16384 / 3), Math.ceil((i + 1) * 16384 / 3) - 1]
      if (i < 3) await client.call('CLUSTER', 'ADDSLOTSRANGE', ...slots)
      if (i > 0) await clients[0]!.call('CLUSTER', 'MEET', '127.0.0.1', servers[i]!.port)
    }))
    const whole = new RegExp(`cluster_state:ok[^]*cluster_known_nodes:${count}`)
    const isWhole = async (client: Redis) => whole.test(String(await client.call('CLUSTER', 'INFO')))
    for (const client of clients) while (!await isWhole(client)) await sleep(20)
    for (const [i, client] of clients.slice(3).entries()) {
      await client.call('CLUSTER', 'REPLICATE', String(await clients[i]!.call('CLUSTER', 'MYID')))
    }
    for (const client of clients.slice(3)) {
      while (!/master_link_status:up/.test(await client.info('replication'))) await sleep(20)
    }
    // A node may not know yet that a replica has its first data, and leaves that replica out.
    const namesAll = async (client: Redis) => {
      const ranges = await client.call('CLUSTER', 'SLOTS') as readonly unknown[][]
      return ranges.flatMap(([, , ...nodes]) => nodes).length === count
    }
    for (const client of clients) while (!await namesAll(client)) await sleep(20)
    for (const client of clients) client.disconnect()
    return new RedisCluster(servers)
  }

  async stop (): Promise<void> {
    await Promise.all(this.servers.map(async server => await server.stop()))
  }
}
