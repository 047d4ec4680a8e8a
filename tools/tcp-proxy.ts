/** A TCP proxy before a server, which can delay, cut, reset and swallow traffic, or only large packets. */
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'

export class TcpProxy {
  /** ms added to each direction */
  delayMs = 0
  /** accept connections, and pass nothing on */
  blackhole = false
  /** the most bytes that a client may send at once; after more, nothing passes on that connection */
  largest = Infinity
  /** pass on what clients send, and no answers; after a swallowed answer, none passes on that connection */
  swallowsAnswers = false
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #clients = new Set<Socket>()
  #accepted = 0
  #resets: NodeJS.Timeout | undefined

  private constructor (targetPort: number) {
    this.#server = createServer(client => {
      const target = connect(targetPort, '127.0.0.1').setNoDelay()
      client.setNoDelay()
      this.#accepted++
      this.#clients.add(client)
      client.on('close', () => this.#clients.delete(client))
      this.#pass(client, target, () => this.largest)
      this.#pass(target, client, () => this.swallowsAnswers ? 0 : Infinity)
    })
  }

  static async start (targetPort: number): Promise<TcpProxy> {
    const proxy = new TcpProxy(targetPort)
    proxy.#server.listen(0, '127.0.0.1')
    await once(proxy.#server, 'listening')
    return proxy
  }

  get port (): number {
    return (this.#server.address() as { port: number }).port
  }

  /** all connections so far */
  get accepted (): number {
    return this.#accepted
  }

  /** the open connections */
  get connected (): number {
    return this.#clients.size
  }

  /** Sends bytes to all clients that the server did not send. */
  say (bytes: string): void {
    for (const client of this.#clients) client.write(bytes)
  }

  /** Resets all connections; new ones are accepted. */
  cut (): void {
    for (const socket of this.#sockets) {
      // Node.js 20 spins for ever at exit after the reset of a connecting socket.
      if (socket.connecting || socket.destroyed || socket.writableEnded) socket.destroy()
      else socket.resetAndDestroy()
    }
  }

  /** Resets all connections repeatedly. @param everyMs  undefined: stops that */
  reset (everyMs: number | undefined): void {
    clearInterval(this.#resets)
    this.#resets = everyMs === undefined ? undefined : setInterval(() => this.cut(), everyMs)
  }

  async stop (): Promise<void> {
    this.reset(undefined)
    this.#server.close()
    this.cut()
    await once(this.#server, 'close')
  }

  #pass (from: Socket, to: Socket, largest = () => Infinity): void {
    this.#sockets.add(from)
    let isStuck = false
    from.on('data', data => {
      isStuck ||= data.length > largest()
      if (this.blackhole || isStuck) return
      if (this.delayMs === 0) to.write(data)
      else setTimeout(() => to.writable && to.write(data), this.delayMs)
    })
    from.on('error', () => to.destroy())
    from.on('close', () => {
      this.#sockets.delete(from)
      to.destroy()
    })
  }
}
