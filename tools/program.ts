/** Programs that tests start: found where distributions put them, and stopped by their own process id. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

// Otherwise tap would measure coverage in children too; every line of lib is covered without them.
process.env['_TAPJS_PROCESSINFO_COVERAGE_'] = '0'

const usual = ['/usr/bin', '/usr/sbin', '/usr/local/bin', '/opt/homebrew/bin']
const folders = [...(process.env['PATH'] ?? '').split(delimiter), ...usual]

/** @param names  alternatives; @throws if none is installed: a missing program fails the test */
export function findProgram (...names: string[]): string {
  const found = names.flatMap(name => folders.map(folder => join(folder, name))).find(path => existsSync(path))
  if (found === undefined) throw new Error(`${names.join(' or ')} is not installed; see CONTRIBUTING.md`)
  return found
}

/**
 * A port on which nothing listens. It lies below the ports that the system gives to clients, so that no connection
 * takes it while a server is down. Nothing listens 10,000 above it either, where a node of a Cluster talks to the
 * others.
 */
export async function freePort (): Promise<number> {
  while (true) {
    const port = randomInt(10_240, 22_000)
    if (await isFree(port) && await isFree(port + 10_000)) return port
  }
}

/** Starts a program on a free port, and on another one if that was taken in the meantime. */
export async function onFreePort<Started> (start: (port: number) => Promise<Started>): Promise<Started> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await start(await freePort())
    } catch (error) {
      if (attempt === 10 || !/Address already in use/.test(String(error))) throw error
    }
  }
}

async function isFree (port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1')
  try {
    await once(server, 'listening')
  } catch {
    return false
  }
  server.close()
  await once(server, 'close')
  return true
}

export class Program {
  readonly #child: ChildProcess
  #output = ''

  constructor (path: string, args: readonly string[], options: { cwd?: string, env?: NodeJS.ProcessEnv } = {}) {
    this.#child = spawn(path, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options })
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => { this.#output += text })
    }
  }

  get output (): string {
    return this.#output
  }

  /** @throws with the program's output, if it ends or does not print the pattern in time */
  async saying (pattern: RegExp, withinMs = 30_000): Promise<void> {
    const untilMs = Date.now() + withinMs
    while (!pattern.test(this.#output)) {
      if (this.#child.exitCode !== null || Date.now() > untilMs) {
        throw new Error(`not seen: ${String(pattern)}, in:\n${this.#output}`)
      }
      await sleep(5)
    }
  }

  signal (signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** @returns the exit code; null: a signal ended it */
  async exited (): Promise<number | null> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit')
    return this.#child.exitCode
  }

  async stop (signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    // A stopped program receives only SIGKILL.
    if (signal !== 'SIGKILL') this.signal('SIGCONT')
    this.signal(signal)
    await this.exited()
  }
}
