/** A real redis-server for a test, on a free port, without persistence unless its arguments say otherwise. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis, type RedisOptions } from 'ioredis'
import type { Authority, Certificate } from './certificates.js'
import { findProgram, onFreePort, Program } from './program.js'

/** Arguments for a server that accepts only TLS with a client certificate of the authority, also from other servers. */
export function tlsArguments ({ caFile }: Authority, { certFile, keyFile }: Certificate): readonly string[] {
  return [
    '--port', '0', '--tls-port', '{port}', '--tls-auth-clients', 'yes', '--tls-cluster', 'yes',
    '--tls-replication', 'yes',
    '--tls-ca-cert-file', caFile, '--tls-cert-file', certFile, '--tls-key-file', keyFile
  ]
}

export class RedisServer {
  readonly port: number
  readonly #folder: string
  readonly #args: readonly string[]
  #program: Program

  private constructor (port: number, folder: string, args: readonly string[]) {
    this.port = port
    this.#folder = folder
    this.#args = args
    this.#program = this.#spawn()
  }

  /** @param args  additional arguments of redis-server, such as `--requirepass secret`; `--port 0` with TLS */
  static async start (...args: string[]): Promise<RedisServer> {
    const folder = await mkdtemp(join(tmpdir(), 'redis-'))
    return await onFreePort(async port => {
      const server = new RedisServer(port, folder, args)
      await server.ready()
      return server
    })
  }

  get url (): string {
    return `redis://127.0.0.1:${this.port}`
  }

  /** A new client with ioredis' defaults; the test closes it. */
  client (options: RedisOptions = {}): Redis {
    return new Redis({ host: '127.0.0.1', port: this.port, ...options })
  }

  signal (signal: NodeJS.Signals): void {
    this.#program.signal(signal)
  }

  async kill (): Promise<void> {
    await this.#program.stop('SIGKILL')
  }

  /** Starts again on the same port; empty, unless its data is on disk. */
  async restart (): Promise<void> {
    this.launch()
    await this.ready()
  }

  /** Restarts without waiting: a large file takes a while to load. */
  launch (): void {
    this.#program = this.#spawn()
  }

  async ready (): Promise<void> {
    await this.#program.saying(/Ready to accept connections/)
  }

  async stop (): Promise<void> {
    await this.kill()
    await rm(this.#folder, { recursive: true, force: true })
  }

  #spawn (): Program {
    const given = this.#args.includes('--tls-port') ? [] : ['--port', String(this.port)]
    return new Program(findProgram('redis-server', 'valkey-server'), [
      ...given, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', this.#folder,
      '--enable-debug-command', 'yes',
      ...this.#args.map(argument => argument.replace('{port}', String(this.port)))
    ])
  }
}
