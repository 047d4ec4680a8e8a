/** One Sentinel that watches a primary named `main`, and may replace it by a replica on its own. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { findProgram, onFreePort, Program } from './program.js'

export const sentinelName = 'main'

export class Sentinel {
  readonly port: number
  readonly #folder: string
  readonly #program: Program

  private constructor (port: number, folder: string) {
    this.port = port
    this.#folder = folder
    // Debian's redis-sentinel is the same program under another name.
    const args = [join(folder, 'sentinel.conf'), '--sentinel']
    this.#program = new Program(findProgram('redis-server', 'valkey-server'), args)
  }

  /**
   * @param downAfterMs  without an answer for this long, the primary counts as gone
   * @param args  additional arguments of redis-server, with a value each; `--port 0` with TLS
   */
  static async start (primaryPort: number, downAfterMs = 1000, args: readonly string[] = []): Promise<Sentinel> {
    const folder = await mkdtemp(join(tmpdir(), 'sentinel-'))
    return await onFreePort(async port => {
      await writeFile(join(folder, 'sentinel.conf'), [
        `port ${port}`, 'bind 127.0.0.1', `sentinel monitor ${sentinelName} 127.0.0.1 ${primaryPort} 1`,
        `sentinel down-after-milliseconds ${sentinelName} ${downAfterMs}`,
        `sentinel failover-timeout ${sentinelName} 3000`,
        ...args.join(' ').replace('{port}', String(port)).split(/ ?--/), ''
      ].join('\n'))
      const sentinel = new Sentinel(port, folder)
      await sentinel.#program.saying(/\+monitor/)
      return sentinel
    })
  }

  /** A client of the Sentinel itself; the test closes it. */
  client (): Redis {
    return new Redis({ host: '127.0.0.1', port: this.port })
  }

  /** The port of the primary, as the Sentinel reports it. */
  async primaryPort (): Promise<number> {
    const client = this.client()
    try {
      const [, port] = await client.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', sentinelName) as [string, string]
      return Number(port)
    } finally {
      client.disconnect()
    }
  }

  async stop (): Promise<void> {
    await this.#program.stop()
    await rm(this.#folder, { recursive: true, force: true })
  }
}
