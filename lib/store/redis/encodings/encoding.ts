/** How the arguments of a script are written, and how its reply is read. */
import type { Arguments, Script } from '../../../redis/script.js'

/** A script whose reply is not read. */
export interface Command<Given> {
  readonly script: Script
  /** @returns all arguments except the number of the call (sequence.ts) */
  args (given: Given): Arguments
}

/** A script whose reply is read. */
export interface Encoding<Given, Answer> extends Command<Given> {
  /** @throws StoreUnavailableError  of kind `reply`, if the reply does not fit the call */
  read (reply: unknown, given: Given): Answer
}
