/**
 * Numbers for what this instance sends, rising in the order of sending: Redis
 * keeps the last one that ran, and runs none below it (store/redis/lua/take.lua).
 */
import type { Ticket } from './batch.js'
import type { Arguments } from '../../redis/script.js'

export class Numbers {
  /** where Redis keeps the last one */
  readonly key: string
  #last = 0

  constructor (key: string) {
    this.key = key
  }

  /** @returns arguments behind a number, a new one for each sending; the ticket says which */
  before (args: Arguments, ticket: Ticket): () => Arguments {
    return () => {
      ticket.number = ++this.#last
      return [ticket.number, ...args]
    }
  }

  /** The number to go on from once the earlier ones are void: no instance sends so many in between. */
  leap (): number {
    return this.#last + 2 ** 32
  }

  goOnFrom (number: number): void {
    this.#last = number
  }
}

/** What Redis told of an instance's numbers when the instance came back (store/redis/lua/fence.lua). */
export interface Fence {
  /** the last that ran; -1: Redis does not know, so none that would still count */
  readonly last: number
  /** of those below, none will run any more */
  readonly next: number
}
