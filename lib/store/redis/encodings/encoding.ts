/** The arguments and the reply of one script. */
import type { Arguments, Script } from '../../../redis/script.js'

export interface Encoding<Given, Answer> {
  readonly script: Script
  /** all of them but the number of the call (sequence.ts) */
  args (given: Given): Arguments
  /** @throws StoreUnavailableError  of kind `reply`, unless the reply is one to this call */
  read (reply: unknown, given: Given): Answer
}
