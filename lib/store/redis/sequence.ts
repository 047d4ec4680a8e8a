/**
 * The one sequence of numbers under which this instance sends its hits, refunds, resets, values and events. Redis keeps
 * the last number that ran, and runs none below it, so a fence tells afterwards which calls ran.
 */
import { isCluster, type RedisClient, type Script, type ScriptCall } from '../../redis/script.js'
import type { Ticket } from './batch.js'

/** What Redis reported of an instance's numbers when the instance came back (store/redis/lua/fence.lua). */
export interface Fence {
  /** the last that ran; -1: Redis does not know, so none that would still count */
  readonly last: number
  /** of those below, none will run any more */
  readonly next: number
}

/** In a Cluster calls have no numbers: nobody knows whether one ran. */
export const noNumbers: Fence = { last: 0, next: 0 }

/** ms that Redis keeps what it knows of an instance that is gone; an outage may be as long. */
export const keptMs = 86_400_000

export class Sequence {
  /** where Redis keeps the last number */
  readonly key: string
  #last = 0

  constructor (key: string) {
    this.key = key
  }

  /**
   * Runs a script whose first argument is the number of the call, and whose last key is that of the sequence; in a
   * Cluster without a number, which is 0, and without that key.
   *
   * @param ticket  notes the number; a script that is sent twice gets a new one
   */
  async run (client: RedisClient, script: Script, { keys, args }: ScriptCall, ticket: Ticket): Promise<unknown> {
    if (isCluster(client)) return await script.run(client, keys, [0, ...args])
    return await script.run(client, [...keys, this.key], () => {
      ticket.number = ++this.#last
      return [ticket.number, ...args]
    })
  }

  /** The number to go on from once the earlier ones are void: no instance sends so many in between. */
  leap (): number {
    return this.#last + 2 ** 32
  }

  goOnFrom (number: number): void {
    this.#last = number
  }
}
