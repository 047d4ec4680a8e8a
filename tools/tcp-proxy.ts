/** A TCP proxy before a server, which delays, cuts, resets and swallows what passes, or only what is large. */
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'

export class TcpProxy {
  /** ms added to each direction */
  delayMs = 0
  /** accept, and pass nothing on */
  blackhole = false
  /** the most bytes that a client may send at once: behind more, nothing of its connection passes any more */
  largest = Infinity
  /** pass on what clients send, and none of the answers: behind one, no answer of its connection passes any more */
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

  /** how many connections there have been */
  get accepted (): number {
    return this.#accepted
  }

  /** how many connections there are */
  get connected (): number {
    return this.#clients.size
  }

  /** Sends bytes to all clients that the server has not sent. */
  say (bytes: string): void {
    for (const client of this.#clients) client.write(bytes)
  }

  /** Resets all connections; new ones are accepted. */
  cut (): void {
    for (const socket of this.#sockets) {
      // Node.js 20 spins for ever at exit after a reset of one that is connecting.
      if (socket.connecting || socket.destroyed || socket.writableEnded) socket.destroy()
      else socket.resetAndDestroy()
    }
  }

  /** Resets all connections again and again. @param everyMs  undefined: no more */
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
