/** How one script is spoken to: the arguments that it gets, and the reply that it sends. */
import type { Arguments, Script } from '../../../redis/script.js'

export interface Encoding<Given, Told> {
  readonly script: Script
  /** all of them but the number of the call (sequence.ts) */
  args (given: Given): Arguments
  /** @throws StoreUnavailableError  of kind `reply`, unless the reply is one to this call */
  read (reply: unknown, given: Given): Told
}
