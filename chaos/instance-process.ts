/** An instance, as seen by the process that started it. */
import { Child } from '../tools/child.js'
import type { Ask, InstanceSettings, InstanceState, Standing } from './instance.js'

const file = new URL('./instance.js', import.meta.url)

export class InstanceProcess {
  readonly #child: Child

  private constructor (child: Child) {
    this.#child = child
  }

  static async start (settings: InstanceSettings): Promise<InstanceProcess> {
    return new InstanceProcess(await Child.start(undefined, file, JSON.stringify(settings)))
  }

  get port (): number {
    return this.#child.port
  }

  async state (): Promise<InstanceState> {
    return await this.#child.ask<InstanceState>({ ask: 'state' } satisfies Ask)
  }

  async standing (): Promise<Standing> {
    return await this.#child.ask<Standing>({ ask: 'standing' } satisfies Ask)
  }

  async call<T> (method: Extract<Ask, { ask: 'call' }>['method'], ...args: readonly unknown[]): Promise<T> {
    return await this.#child.ask<T>({ ask: 'call', method, args } satisfies Ask)
  }

  async tellPassword (password: string): Promise<void> {
    await this.#child.ask({ ask: 'password', password } satisfies Ask)
  }

  async stop (): Promise<void> {
    await this.#child.stop()
  }
}
