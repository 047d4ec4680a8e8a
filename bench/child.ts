/** A Node.js process of the bench's: prints its port when it is ready, and ends with the bench. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { pinned } from './cores.js'

const startWithinMs = 20_000

export class Child {
  readonly port: number
  readonly #process: ChildProcess

  private constructor (process: ChildProcess, port: number) {
    this.#process = process
    this.port = port
  }

  /** @param file  beside this one; @throws when it does not say `port N` in time */
  static async start (core: number, file: string, ...args: string[]): Promise<Child> {
    const [program, all] = pinned(core, process.execPath, [fileURLToPath(new URL(file, import.meta.url)), ...args])
    // As in production, and without what the guard would read.
    const env = { PATH: process.env['PATH'], NODE_ENV: 'production' }
    const child = spawn(program, all, { stdio: ['ignore', 'pipe', 'inherit', 'ipc'], env })
    const lines = createInterface(child.stdout!)
    try {
      const signal = AbortSignal.timeout(startWithinMs)
      const [line] = await Promise.race([once(lines, 'line', { signal }), once(child, 'exit', { signal })]) as [unknown]
      const port = /^port (\d+)$/.exec(String(line))?.[1]
      if (port === undefined) throw new Error(`${file} ${args.join(' ')} did not start: ${String(line)}`)
      return new Child(child, Number(port))
    } catch (error) {
      child.kill('SIGKILL')
      throw error
    }
  }

  /** CPU time that it has used since its start, in us. */
  async cpuMicros (): Promise<number> {
    const answer = once(this.#process, 'message', { signal: AbortSignal.timeout(5000) })
    this.#process.send('cpu')
    const [micros] = await answer as [number]
    return micros
  }

  async stop (): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return
    this.#process.kill('SIGKILL')
    await once(this.#process, 'exit')
  }
}
