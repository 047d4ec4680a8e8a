/**
 * A Lua script, sent as its hash, and as text where Redis does not know it
 * yet. Our own, since ioredis' defineCommand would add methods to a client
 * that may be the user's.
 */
import { createHash } from 'node:crypto'
import keySlot from 'cluster-key-slot'
import type { Cluster, Redis } from 'ioredis'

export type RedisClient = Redis | Cluster

export type Arguments = readonly (string | number)[]

/** Keys and arguments of one call. */
export interface ScriptCall {
  /** at least one */
  readonly keys: readonly string[]
  readonly args: Arguments
}

export class Script {
  readonly #source: string
  readonly #sha: string

  /** @param source  Lua */
  constructor (source: string) {
    this.#source = source
    this.#sha = createHash('sha1').update(this.#source).digest('hex')
  }

  /**
   * One round trip; two when Redis does not know the script. NOSCRIPT says that nothing was run, so nothing runs twice.
   *
   * @param args  made anew for the second one by a function
   */
  async run (client: RedisClient, keys: readonly string[], args: Arguments | (() => Arguments)): Promise<unknown> {
    const made = () => typeof args === 'function' ? args() : args
    try {
      return await client.evalsha(this.#sha, keys.length, ...keys, ...made())
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
      return await client.eval(this.#source, keys.length, ...keys, ...made())
    }
  }

  /**
   * Several calls at once, each with keys of one slot; for each node of a
   * Cluster one write, and so one round trip.
   *
   * @returns what each of them returns, in their order
   */
  async runAll (client: RedisClient, calls: readonly ScriptCall[]): Promise<unknown[]> {
    // ioredis puts a prefix before keys only where the Cluster itself is asked.
    if (!isCluster(client) || client.options.keyPrefix) {
      return await Promise.all(calls.map(async ({ keys, args }) => await this.run(client, keys, args)))
    }
    const answers = new Array<unknown>(calls.length)
    await Promise.all([...byNode(client, calls)].map(async ([node, placed]) => {
      const pipeline = node.pipeline()
      for (const { keys, args } of placed) pipeline.evalsha(this.#sha, keys.length, ...keys, ...args)
      const replies = await pipeline.exec()
      await Promise.all(placed.map(async ({ keys, args, place }, i) => {
        // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- one reply for each command, in order
        const [error, answer] = replies![i]!
        if (error === null) answers[place] = answer
        else if (!wasNotRun.test(error.message)) throw error
        else answers[place] = await this.run(client, keys, args)
      }))
    }))
    return answers
  }
}

export function isCluster (client: RedisClient): client is Cluster {
  return client.isCluster
}

/** The node refused because it does not know the script, or because another one has the slot: the Cluster finds it. */
const wasNotRun = /^(NOSCRIPT|MOVED|ASK|TRYAGAIN) /

interface PlacedCall extends ScriptCall {
  /** its index among all calls */
  readonly place: number
}

/** Which node each call belongs to, as far as is known; where it is not, any node says who has the slot. */
function byNode (cluster: Cluster, calls: readonly ScriptCall[]): Map<Redis, PlacedCall[]> {
  const nodes = new Map(cluster.nodes('master').map(node => [`${node.options.host}:${node.options.port}`, node]))
  const grouped = new Map<Redis, PlacedCall[]>()
  calls.forEach((call, place) => {
    const [key = ''] = call.keys
    const [primary = ''] = cluster.slots[keySlot(key)] ?? []
    const node = nodes.get(primary) ?? nodes.values().next().value
    if (node === undefined) throw new Error('Cluster: no node is known')
    const placed = grouped.get(node) ?? []
    grouped.set(node, placed)
    placed.push({ ...call, place })
  })
  return grouped
}
