/**
 * A Lua script, sent as its hash, and as text where Redis does not know it
 * yet. Our own, since ioredis' defineCommand would add methods to a client
 * that may be the user's.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Cluster, Redis } from 'ioredis'

export type RedisClient = Redis | Cluster

export class Script {
  readonly #source: string
  readonly #sha: string

  /** @param name  of a file in store/lua, without its ending */
  constructor (name: string) {
    this.#source = readFileSync(new URL(`../store/lua/${name}.lua`, import.meta.url), 'utf8')
    this.#sha = createHash('sha1').update(this.#source).digest('hex')
  }

  /** One round trip; two when Redis does not know the script. NOSCRIPT says that nothing was run, so nothing runs twice. */
  async run (client: RedisClient, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown> {
    try {
      return await client.evalsha(this.#sha, keys.length, ...keys, ...args)
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
      return await client.eval(this.#source, keys.length, ...keys, ...args)
    }
  }
}
