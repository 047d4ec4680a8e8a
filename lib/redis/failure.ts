/**
 * Sorts the errors of Redis and the network into failures, after which memory
 * answers, and value errors. A value error is the caller's mistake: the command
 * cannot use the value, and Redis stays in use.
 */
import { StoreUnavailableError, type StoreFailure, ValueError } from '../errors.js'
import type { Redact } from './redaction.js'

/** A reply belongs to another command. A reply was lost or came twice, so all later replies would be wrong too. */
export class OutOfStepError extends StoreUnavailableError {
  constructor () {
    super('connection', 'Redis cannot be used (connection): a reply belonged to another command')
  }
}

/** The first match wins. The words may be anywhere: Redis 6 puts its own words before an error inside a script. */
const kinds: readonly (readonly [kind: StoreFailure, pattern: RegExp])[] = [
  ['lost', /\bGUARDLOST\b/],
  ['auth', /\b(NOAUTH|WRONGPASS)\b|invalid (username|password)/],
  ['oom', /\bOOM\b/],
  ['readonly', /\b(READONLY|MISCONF|NOREPLICAS)\b/],
  ['loading', /\b(LOADING|BUSY|MASTERDOWN)\b/],
  ['cluster', /\b(CLUSTERDOWN|MOVED|ASK|TRYAGAIN|CROSSSLOT)\b|slots cache|Cluster/],
  ['timeout', /timed? ?out|ETIMEDOUT/i],
  // Before tls, whose words these errors may contain: ENOTFOUND for a host such as redis-tls.internal, or ECONNRESET
  // from a server that goes away during the TLS handshake.
  ['connection', /\b(ENOTFOUND|EAI_AGAIN|ECONNRESET)\b/],
  ['tls', /certificate|TLS|SSL|_CERT/i]
]

/**
 * Makes a StoreUnavailableError of any error.
 *
 * @param error   as thrown by ioredis or opossum; its command, which may contain a password, is dropped
 * @param redact  removes usernames and passwords from the message
 */
export function failureOf (error: unknown, redact: Redact = unredacted): StoreUnavailableError {
  if (error instanceof StoreUnavailableError) return error
  const ofNode = lastNodeError(error, redact)
  if (ofNode !== undefined) return ofNode
  const cause = withoutCommand(error)
  const { message, code } = cause as Error & { code?: string }
  const text = `${message} ${code ?? ''}`.trim()
  // Matched before the redaction: the word that decides may be part of a password.
  const [known] = kinds.find(([, pattern]) => pattern.test(text)) ?? []
  const kind = known ?? (cause.name === 'ReplyError' ? 'reply' : 'connection')
  cause.message = redact(message)
  if (cause.stack !== undefined) cause.stack = redact(cause.stack)
  return new StoreUnavailableError(kind, `Redis cannot be used (${kind}): ${cause.message || code}`, cause)
}

const unredacted: Redact = text => text

/** @returns a ValueError if the command cannot use the value; undefined for all other errors */
export function valueErrorOf (error: unknown, redact: Redact = unredacted): ValueError | undefined {
  const { message } = withoutCommand(error)
  return valueWords.test(message) ? new ValueError(redact(message)) : undefined
}

/** Redis 6 puts its own words before an error inside a script. */
const valueWords = /(^|@user_script: ?\d+: )(WRONGTYPE|ERR value is not an integer|ERR increment or decrement would)/

/** The failure of the last node, if no node of a Cluster answers and the user can fix that failure. */
function lastNodeError (error: unknown, redact: Redact): StoreUnavailableError | undefined {
  const { lastNodeError: cause } = Object(error) as { lastNodeError?: unknown }
  const failure = cause instanceof Error ? failureOf(cause, redact) : undefined
  return failure?.kind === 'auth' || failure?.kind === 'tls' ? failure : undefined
}

/**
 * A copy of an error without the command. ioredis adds the command and its
 * arguments to its errors. The arguments of AUTH are the password, and loggers
 * print the whole error. A Redis that does not know AUTH or HELLO repeats the
 * arguments in its message.
 */
function withoutCommand (error: unknown): Error {
  if (!(error instanceof Error)) return new Error(String(error))
  const { code, errors } = error as { code?: string, errors?: readonly Error[] }
  // If a name has several addresses and all fail, the error has no message of its own but a list of errors.
  const message = error.message.replace(/, with args beginning with:.*/s, '').trim()
  const clean = new Error(message === '' ? (errors ?? []).map(({ message }) => message).join('; ') : message)
  clean.name = error.name
  if (error.stack !== undefined) clean.stack = error.stack.replace(error.message, () => message)
  return code === undefined ? clean : Object.assign(clean, { code })
}
