/**
 * Runs Lua scripts. A script is sent as its hash, or as text if Redis does not
 * know it yet. ioredis' defineCommand is not used: it would add methods to the
 * client, which may be the user's.
 */
import { createHash } from 'node:crypto'
import keySlot from 'cluster-key-slot'
import type { Cluster, Redis } from 'ioredis'

export type RedisClient = Redis | Cluster

export type Arguments = readonly (string | number)[]

/** Keys and arguments of one call. */
export interface ScriptCall {
  /** keys in Redis, at least one */
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
   * Runs the script: one round trip, or two if Redis does not know the script. NOSCRIPT means that nothing ran, so
   * nothing runs twice.
   *
   * @param args  a function makes new arguments for the second round trip
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
   * Runs several calls at once: one round trip for each node of a Cluster. The keys of each call lie in one slot.
   *
   * @returns the replies, in the order of the calls
   */
  async runAll (client: RedisClient, calls: readonly ScriptCall[]): Promise<unknown[]> {
    // With a key prefix the calls go through the Cluster: ioredis does not add the prefix if a node is asked directly.
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

/** Errors of a node that does not know the script or does not have the slot. The call is then sent by the Cluster. */
const wasNotRun = /^(NOSCRIPT|MOVED|ASK|TRYAGAIN) /

interface PlacedCall extends ScriptCall {
  /** index of the call among all calls */
  readonly place: number
}

/** Groups calls by node. If the node of a slot is unknown, any node will do: it replies which node has the slot. */
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
