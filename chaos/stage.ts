/** The stages on which faults are played: real servers, and how each instance reaches them. */
import { Cluster, Redis, type RedisOptions } from 'ioredis'
import { Authority, type Certificate } from '../tools/certificates.js'
import { RedisCluster } from '../tools/redis-cluster.js'
import { RedisServer, tlsArguments } from '../tools/redis-server.js'
import { Sentinel, sentinelName } from '../tools/sentinel.js'
import { TcpProxy } from '../tools/tcp-proxy.js'
import { until } from '../tools/until.js'
import type { RedisSettings } from './instance.js'

export const instanceCount = 2

export interface Stage {
  /** @param instance  0 or 1 */
  settingsOf: (instance: number) => RedisSettings
  /** makes a client that bypasses the fault; the caller ends it */
  client: () => Redis | Cluster
  stop: () => Promise<void>
}

/** One server, with a proxy of its own before each instance. */
export class ServerStage implements Stage {
  readonly server: RedisServer
  readonly proxies: readonly TcpProxy[]
  readonly #options: RedisOptions

  protected constructor (server: RedisServer, proxies: readonly TcpProxy[], options: RedisOptions) {
    this.server = server
    this.proxies = proxies
    this.#options = options
  }

  static async start (...args: string[]): Promise<ServerStage> {
    const server = await RedisServer.start(...args)
    return new ServerStage(server, await proxiesTo(server), {})
  }

  settingsOf (instance: number): RedisSettings {
    return { redis: { ...this.#options, host: '127.0.0.1', port: this.proxies[instance]!.port } }
  }

  client (): Redis {
    return quiet(new Redis({ ...this.#options, host: '127.0.0.1', port: this.server.port }))
  }

  async stop (): Promise<void> {
    await Promise.all(this.proxies.map(async proxy => await proxy.stop()))
    await this.server.stop()
  }
}

/** A server with a password, which the instances get from a credentials function. */
export class PasswordStage extends ServerStage {
  password: string

  private constructor (server: RedisServer, proxies: readonly TcpProxy[], password: string) {
    super(server, proxies, {})
    this.password = password
  }

  static override async start (): Promise<PasswordStage> {
    const password = 'the first'
    const server = await RedisServer.start('--requirepass', password)
    return new PasswordStage(server, await proxiesTo(server), password)
  }

  override settingsOf (instance: number): RedisSettings {
    return { ...super.settingsOf(instance), password: this.password }
  }

  override client (): Redis {
    return quiet(new Redis({ host: '127.0.0.1', port: this.server.port, password: this.password }))
  }
}

/** A server with TLS only, and two authorities, of which the instances trust the first. */
export class TlsStage extends ServerStage {
  readonly #folders: readonly (() => Promise<void>)[]
  readonly #trustedCa: string
  /** certificates of the server by these authorities */
  readonly trusted: Certificate
  readonly unknown: Certificate

  private constructor (
    server: RedisServer,
    proxies: readonly TcpProxy[],
    authorities: readonly [Authority, Authority],
    certificates: readonly [Certificate, Certificate],
    folders: readonly (() => Promise<void>)[]
  ) {
    super(server, proxies, { tls: { ca: authorities.map(({ ca }) => ca) } })
    this.#trustedCa = authorities[0].ca
    ;[this.trusted, this.unknown] = certificates
    this.#folders = folders
  }

  static override async start (): Promise<TlsStage> {
    const folders: (() => Promise<void>)[] = []
    const owner = { teardown: (remove: () => Promise<void>) => { folders.push(remove) } }
    const authorities = [await Authority.create(owner), await Authority.create(owner)] as const
    const certificates = [await authorities[0].issue(), await authorities[1].issue()] as const
    const server = await RedisServer.start(...tlsArguments(authorities[0], certificates[0]), '--tls-auth-clients', 'no')
    return new TlsStage(server, await proxiesTo(server), authorities, certificates, folders)
  }

  override settingsOf (instance: number): RedisSettings {
    const { redis } = super.settingsOf(instance)
    return { redis: { ...redis as RedisOptions, tls: { ca: this.#trustedCa } } }
  }

  /** Replaces the certificate of the server; open connections stay. */
  async present ({ certFile, keyFile }: Certificate): Promise<void> {
    const client = this.client()
    try {
      await client.config('SET', 'tls-cert-file', certFile, 'tls-key-file', keyFile)
    } finally {
      client.disconnect()
    }
  }

  override async stop (): Promise<void> {
    await super.stop()
    for (const remove of this.#folders) await remove()
  }
}

/** A primary, its replica, and a Sentinel. */
export class SentinelStage implements Stage {
  readonly primary: RedisServer
  readonly replica: RedisServer
  readonly sentinel: Sentinel

  private constructor (primary: RedisServer, replica: RedisServer, sentinel: Sentinel) {
    this.primary = primary
    this.replica = replica
    this.sentinel = sentinel
  }

  static async start (): Promise<SentinelStage> {
    const primary = await RedisServer.start()
    const replica = await RedisServer.start('--replicaof', '127.0.0.1', String(primary.port))
    await hasCaughtUp(replica)
    const stage = new SentinelStage(primary, replica, await Sentinel.start(primary.port, 500))
    const client = stage.sentinel.client()
    await until(async () => {
      return ((await client.call('SENTINEL', 'REPLICAS', sentinelName)) as unknown[]).length === 1
    }, 15_000).finally(() => client.disconnect())
    return stage
  }

  settingsOf (): RedisSettings {
    return { redis: this.#options() }
  }

  client (): Redis {
    return quiet(new Redis(this.#options()))
  }

  async stop (): Promise<void> {
    await this.sentinel.stop()
    await Promise.all([this.primary.stop(), this.replica.stop()])
  }

  #options (): RedisOptions {
    return { sentinels: [{ host: '127.0.0.1', port: this.sentinel.port }], name: sentinelName }
  }
}

/** Three primaries with a replica each. */
export class ClusterStage implements Stage {
  readonly cluster: RedisCluster

  private constructor (cluster: RedisCluster) {
    this.cluster = cluster
  }

  static async start (): Promise<ClusterStage> {
    return new ClusterStage(await RedisCluster.start({ withReplicas: true }))
  }

  settingsOf (): RedisSettings {
    return { redis: { cluster: this.#nodes() } }
  }

  client (): Cluster {
    return quiet(new Cluster(this.#nodes()))
  }

  async stop (): Promise<void> {
    await this.cluster.stop()
  }

  #nodes (): { host: string, port: number }[] {
    return this.cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port }))
  }
}

async function proxiesTo (server: RedisServer): Promise<TcpProxy[]> {
  return await Promise.all(Array.from({ length: instanceCount }, async () => await TcpProxy.start(server.port)))
}

async function hasCaughtUp (replica: RedisServer): Promise<void> {
  const client = replica.client()
  await until(async () => /master_link_status:up/.test(await client.info('replication')), 15_000).finally(() => {
    client.disconnect()
  })
}

/** A client that reconnects by itself; errors of the connection are ignored. */
function quiet<C extends Redis | Cluster> (client: C): C {
  client.on('error', () => {})
  return client
}
