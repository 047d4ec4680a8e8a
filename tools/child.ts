/**
 * A Node.js process of the bench or of chaos: it prints its port when it is ready, answers questions of its parent, and
 * ends with its parent.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { pinned } from './cores.js'

/** Long enough for a machine under load to start it and to answer. */
const startWithinMs = 60_000
const answerWithinMs = 60_000

export interface Question {
  readonly id: number
  readonly question: unknown
}

export interface Answer {
  readonly id: number
  readonly answer: unknown
}

export class Child {
  readonly port: number
  readonly #process: ChildProcess
  readonly #waiting = new Map<number, (answer: unknown) => void>()
  #lastId = 0

  private constructor (process: ChildProcess, port: number) {
    this.#process = process
    this.port = port
    process.on('message', ({ id, answer }: Answer) => {
      this.#waiting.get(id)?.(answer)
      this.#waiting.delete(id)
    })
  }

  /**
   * @param core  undefined: any
   * @throws if it does not print `port N` in time
   */
  static async start (core: number | undefined, file: URL, ...args: string[]): Promise<Child> {
    const ofNode = [fileURLToPath(file), ...args]
    const [program, all] = core === undefined ? [process.execPath, ofNode] : pinned(core, process.execPath, ofNode)
    // As in production, and without variables that the guard reads.
    const env = { PATH: process.env['PATH'], NODE_ENV: 'production' }
    const child = spawn(program, all, { stdio: ['ignore', 'pipe', 'inherit', 'ipc'], env })
    const lines = createInterface(child.stdout!)
    try {
      const signal = AbortSignal.timeout(startWithinMs)
      const [line] = await Promise.race([once(lines, 'line', { signal }), once(child, 'exit', { signal })]) as [unknown]
      const port = /^port (\d+)$/.exec(String(line))?.[1]
      if (port === undefined) throw new Error(`${file.pathname} ${args.join(' ')} did not start: ${String(line)}`)
      return new Child(child, Number(port))
    } catch (error) {
      child.kill('SIGKILL')
      throw error
    }
  }

  /** CPU time used since the start, in us. */
  async cpuMicros (): Promise<number> {
    return await this.ask<number>('cpu')
  }

  /** @param question  a question that the process answers (`answerParent`) */
  async ask<T> (question: unknown): Promise<T> {
    const id = ++this.#lastId
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no answer to ${JSON.stringify(question)}`)), answerWithinMs)
      this.#waiting.set(id, answer => {
        clearTimeout(timer)
        resolve(answer as T)
      })
      this.#process.send({ id, question } satisfies Question)
    })
  }

  async stop (): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return
    this.#process.kill('SIGKILL')
    await once(this.#process, 'exit')
  }
}

/** Runs in the child: answers the questions of its parent, and ends with it. */
export function answerParent (answer: (question: unknown) => unknown): void {
  process.on('message', ({ id, question }: Question) => {
    Promise.resolve(answer(question)).then(
      answer => process.send!({ id, answer } satisfies Answer), (error: unknown) => { throw error }
    )
  })
  process.once('disconnect', () => process.exit(0))
}
