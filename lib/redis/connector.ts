/**
 * What ioredis has its sockets from: as its own does it, save that every error
 * of a socket is listened for. ioredis listens for one, and TLS may tell of
 * two: a certificate that is refused, and what the server says to a handshake
 * that was broken off. The second would end the process. A socket also belongs
 * to no request: a new one that replaces a broken one would otherwise keep the
 * asynchronous context of the request whose command found it broken.
 */
import { AsyncResource } from 'node:async_hooks'
import { connect as connectTcp, type NetConnectOpts } from 'node:net'
import { type ConnectionOptions, connect as connectTls } from 'node:tls'
import { AbstractConnector, type Redis, type RedisOptions, SentinelConnector } from 'ioredis'
import { timers } from '../timers.js'
import { endAtUnasked } from './unasked.js'

type Connector = NonNullable<RedisOptions['Connector']>
export type Emit = Parameters<AbstractConnector['connect']>[0]
export type Connecting = ReturnType<AbstractConnector['connect']>

/** Only the one for Sentinels makes clients of its own; ioredis hides the method. */
interface AnyConnector extends ServerConnector {
  connectToSentinel (...args: unknown[]): Redis
}

/** @param options  whose connector, if they have one, is the one that is used */
export function connectorFor ({ Connector, sentinels, disconnectTimeout }: RedisOptions): Connector {
  const given: unknown = Connector ?? (sentinels ? SentinelConnector : ServerConnector)
  const Base = given as new (options: RedisOptions) => AnyConnector
  const inOwn = AsyncResource.bind(async (connect: () => Connecting) => await connect())
  return class extends Base {
    override async connect (emit: Emit): Connecting {
      const socket = await inOwn(async () => await super.connect(emit))
      return socket.on('error', () => {})
    }

    override disconnect (): void {
      const { stream } = this
      super.disconnect()
      // A Redis that hangs does not close its end. ioredis destroys the socket by a global timer, which a test may fake.
      timers.setTimeout(() => stream?.destroy(), disconnectTimeout).unref()
    }

    override connectToSentinel (...args: unknown[]): Redis {
      const sentinel = super.connectToSentinel(...args)
      endAtUnasked(sentinel)
      return sentinel
    }
  } as Connector
}

/** To one server; ioredis does not export its own. */
export class ServerConnector extends AbstractConnector {
  protected readonly options: RedisOptions

  constructor (options: RedisOptions) {
    super(options.disconnectTimeout!)
    this.options = options
  }

  override async connect (_emit: Emit): Connecting {
    const { path, host, port, family, tls } = this.options
    const place = { ...(path ? { path } : { host, port, family }), ...tls } as ConnectionOptions & NetConnectOpts
    this.stream = tls ? connectTls(place) : connectTcp(place)
    this.stream.once('error', error => { this.firstError = error })
    return this.stream
  }
}
