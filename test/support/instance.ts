/** Instances of a service in their own processes, which run the code that `npm test` has built. */
import { Agent, get } from 'node:http'
import type { RedisGuardOptions, RouteRateLimitOptions } from '../../lib/settings/options.js'
import { inRepository } from './paths.js'
import { Program } from '../../tools/program.js'

export class Instance {
  readonly #program: Program
  readonly #agent = new Agent({ keepAlive: true })

  private constructor (program: Program) {
    this.#program = program
  }

  /**
   * @param env  replaces the environment of this process, except PATH
   * @param routes  paths beside `/`, each with its own limit
   */
  static async start (
    options: RedisGuardOptions, env: Record<string, string> = {}, routes: Record<string, RouteRateLimitOptions> = {}
  ): Promise<Instance> {
    const args = [inRepository('test/support/instance.mjs'), JSON.stringify(options), JSON.stringify(routes)]
    const program = new Program(process.execPath, args, { env: { PATH: process.env['PATH'], ...env } })
    await program.saying(/port \d+/)
    return new Instance(program)
  }

  get port (): number {
    return Number(/port (\d+)/.exec(this.#program.output)![1])
  }

  /** The store in use when the instance was up. */
  get store (): string {
    return /store (\w+)/.exec(this.#program.output)![1]!
  }

  /** @returns the status of GET */
  async get (headers: Record<string, string> = {}, path = '/'): Promise<number> {
    return await new Promise((resolve, reject) => {
      get({ port: this.port, host: '127.0.0.1', path, agent: this.#agent, headers }, response => {
        response.resume().on('end', () => resolve(response.statusCode!))
      }).on('error', reject)
    })
  }

  async stop (): Promise<void> {
    this.#agent.destroy()
    await this.#program.stop()
  }
}
