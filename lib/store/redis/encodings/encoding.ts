/** The arguments and the reply of one script. */
import type { Arguments, Script } from '../../../redis/script.js'

/** A script whose reply says nothing. */
export interface Command<Given> {
  readonly script: Script
  /** all of them but the number of the call (sequence.ts) */
  args (given: Given): Arguments
}

export interface Encoding<Given, Answer> extends Command<Given> {
  /** @throws StoreUnavailableError  of kind `reply`, unless the reply is one to this call */
  read (reply: unknown, given: Given): Answer
}
