/**
 * Opens the sockets for ioredis. It differs from ioredis' own connector in five
 * points:
 * - Every error of a socket has a listener. ioredis listens for one error, but
 *   TLS may report two, and the second would end the process.
 * - TLS names the server (SNI), since proxies and clouds route by it.
 * - Functions in the TLS options are safe to call.
 * - A socket belongs to no request. Otherwise a socket that replaces a broken one
 *   would keep the asynchronous context of the request that found it broken.
 * - When a connection is given up, so are the clients that still ask Sentinels. A
 *   Sentinel that hangs would keep the process alive.
 */
import { AsyncResource } from 'node:async_hooks'
import { connect as connectTcp, isIP, type NetConnectOpts } from 'node:net'
import { type ConnectionOptions, connect as connectTls } from 'node:tls'
import { AbstractConnector, type Redis, type RedisOptions, SentinelConnector } from 'ioredis'
import { timers } from '../runtime/timers.js'
import { endAtUnasked } from './unasked-replies.js'
import { withSafeTls } from './user-functions.js'

type Connector = NonNullable<RedisOptions['Connector']>
export type Emit = Parameters<AbstractConnector['connect']>[0]
export type Connecting = ReturnType<AbstractConnector['connect']>

/** The primary's place, as a Sentinel reports it. */
interface Place {
  readonly host: string
  readonly port: number
}

/** Adds two methods that ioredis does not export; only its connector for Sentinels has them. */
interface AnyConnector extends ServerConnector {
  connectToSentinel (endpoint: unknown, options?: RedisOptions): Redis
  resolve (endpoint: unknown): Promise<Place | null>
}

/** @param options  a `Connector` in them is extended; default: that of ioredis for Sentinels, or ServerConnector */
export function connectorFor ({ Connector, sentinels, disconnectTimeout }: RedisOptions): Connector {
  const given: unknown = Connector ?? (sentinels ? SentinelConnector : ServerConnector)
  const Base = given as new (options: RedisOptions) => AnyConnector
  const inOwn = AsyncResource.bind(async (connect: () => Connecting) => await connect())
  return class extends Base {
    /** clients that still ask Sentinels */
    readonly #asked = new Set<Redis>()

    constructor (options: RedisOptions) {
      super(withCurrentTls(options))
    }

    override async connect (emit: Emit): Connecting {
      const socket = await inOwn(async () => await super.connect(emit))
      return socket.on('error', () => {})
    }

    override disconnect (): void {
      const { stream } = this
      super.disconnect()
      for (const sentinel of this.#asked) sentinel.disconnect()
      // A Redis that hangs does not close its end. ioredis would destroy the socket by a timer that a test may fake.
      timers.setTimeout(() => stream?.destroy(), disconnectTimeout).unref()
    }

    override connectToSentinel (endpoint: unknown, options?: RedisOptions): Redis {
      const own = { Connector: connectorFor({ disconnectTimeout }), disconnectTimeout }
      const sentinel = super.connectToSentinel(endpoint, { ...own, ...options })
      endAtUnasked(sentinel)
      this.#asked.add(sentinel)
      sentinel.once('end', () => this.#asked.delete(sentinel))
      return sentinel
    }

    override async resolve (endpoint: unknown): Promise<Place | null> {
      // ioredis waits between two rounds of Sentinels, and then does not check whether the connection was given up.
      if (!this.connecting) throw new Error('Connection is closed.')
      const place = await super.resolve(endpoint)
      // Options in `tls` override these.
      return place && { ...place, ...serverNameOf(place.host) }
    }
  } as Connector
}

/** Reads `tls` again at each connect: the user may replace certificates and keys in that object. */
function withCurrentTls (options: RedisOptions): RedisOptions {
  const { tls } = options
  return tls ? { ...options, get tls () { return withSafeTls(tls) } } : options
}

/** The server's name for TLS. An address is not a name. */
function serverNameOf (host: string | undefined): ConnectionOptions {
  return host === undefined || isIP(host) !== 0 ? {} : { servername: host.replace(/\.$/, '') }
}

/** Connects to one server. ioredis has such a connector, but does not export it. */
export class ServerConnector extends AbstractConnector {
  protected readonly options: RedisOptions

  constructor (options: RedisOptions) {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- ioredis fills in its default
    super(options.disconnectTimeout!)
    this.options = options
  }

  override async connect (_emit: Emit): Connecting {
    const { path, host, port, family, tls } = this.options
    const address = path ? { path } : { host, port, family, ...serverNameOf(host) }
    const place = { ...address, ...tls } as ConnectionOptions & NetConnectOpts
    this.stream = tls ? connectTls(place) : connectTcp(place)
    this.stream.once('error', error => { this.firstError = error })
    return this.stream
  }
}
