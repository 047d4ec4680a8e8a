/** A real Cluster of three primaries, without replicas. */
import { setTimeout as sleep } from 'node:timers/promises'
import { RedisServer } from './redis-server.js'

export class RedisCluster {
  readonly servers: readonly RedisServer[]

  private constructor (servers: readonly RedisServer[]) {
    this.servers = servers
  }

  static async start (): Promise<RedisCluster> {
    const servers = await Promise.all(Array.from({ length: 3 }, async (_, i) =>
      await RedisServer.start('--cluster-enabled', 'yes', '--cluster-config-file', `nodes-${i}.conf`, '--cluster-node-timeout', '2000')))
    const clients = servers.map(server => server.client())
    await Promise.all(clients.map(async (client, i) => {
      await client.call('CLUSTER', 'ADDSLOTSRANGE', Math.ceil(i * 16384 / 3), Math.ceil((i + 1) * 16384 / 3) - 1)
      if (i > 0) await clients[0]!.call('CLUSTER', 'MEET', '127.0.0.1', servers[i]!.port)
    }))
    for (const client of clients) {
      while (!/cluster_state:ok[^]*cluster_known_nodes:3/.test(String(await client.call('CLUSTER', 'INFO')))) await sleep(20)
      client.disconnect()
    }
    return new RedisCluster(servers)
  }

  async stop (): Promise<void> {
    await Promise.all(this.servers.map(async server => await server.stop()))
  }
}
