/**
 * Tells apart what Redis and the network can answer: failures, on which memory
 * takes over, and values that a command cannot work on, which are the
 * caller's mistake and leave Redis in use.
 */
import { StoreUnavailableError, type StoreFailure, ValueError } from '../errors.js'
import type { Redact } from './redaction.js'

/** A reply that is one to another command: something was lost, or came twice, and the next ones would be wrong, too. */
export class OutOfStepError extends StoreUnavailableError {
  constructor () {
    super('connection', 'Redis cannot be used (connection): a reply was one to another command')
  }
}

/** First match wins. Redis 6 puts words of its own before an error inside a script, so these may stand anywhere. */
const kinds: readonly (readonly [kind: StoreFailure, pattern: RegExp])[] = [
  ['lost', /\bGUARDLOST\b/],
  ['auth', /\b(NOAUTH|WRONGPASS)\b|invalid (username|password)/],
  ['oom', /\bOOM\b/],
  ['readonly', /\b(READONLY|MISCONF|NOREPLICAS)\b/],
  ['loading', /\b(LOADING|BUSY|MASTERDOWN)\b/],
  ['cluster', /\b(CLUSTERDOWN|MOVED|ASK|TRYAGAIN|CROSSSLOT)\b|slots cache|Cluster/],
  ['timeout', /timed? ?out|ETIMEDOUT/i],
  // Before tls, of which these speak all the same: ENOTFOUND with a host such as redis-tls.internal, ECONNRESET of a
  // server that goes during the handshake.
  ['connection', /\b(ENOTFOUND|EAI_AGAIN|ECONNRESET)\b/],
  ['tls', /certificate|TLS|SSL|_CERT/i]
]

/**
 * @param error   as thrown by ioredis or opossum; its command, and with it a password, is left behind
 * @param redact  removes user and password from messages of servers and ioredis
 */
export function failureOf (error: unknown, redact: Redact = asItIs): StoreUnavailableError {
  if (error instanceof StoreUnavailableError) return error
  const ofNode = lastNodeError(error, redact)
  if (ofNode !== undefined) return ofNode
  const cause = withoutCommand(error)
  const { message, code } = cause as Error & { code?: string }
  const text = `${message} ${code ?? ''}`.trim()
  // Before the redaction: the word that decides may be part of a password.
  const [known] = kinds.find(([, pattern]) => pattern.test(text)) ?? []
  const kind = known ?? (cause.name === 'ReplyError' ? 'reply' : 'connection')
  cause.message = redact(message)
  if (cause.stack !== undefined) cause.stack = redact(cause.stack)
  return new StoreUnavailableError(kind, `Redis cannot be used (${kind}): ${cause.message || code}`, cause)
}

const asItIs: Redact = text => text

/** The error for a value that a command cannot work on; undefined for all others. */
export function valueErrorOf (error: unknown, redact: Redact = asItIs): ValueError | undefined {
  const { message } = withoutCommand(error)
  // Redis 6 puts its own words before an error inside a script.
  return valueWords.test(message) ? new ValueError(redact(message)) : undefined
}

const valueWords = /(^|@user_script: ?\d+: )(WRONGTYPE|ERR value is not an integer|ERR increment or decrement would)/

/** Of a Cluster of which no node answers: the reason of the last one, where that can be mended. */
function lastNodeError (error: unknown, redact: Redact): StoreUnavailableError | undefined {
  const { lastNodeError: cause } = Object(error) as { lastNodeError?: unknown }
  const failure = cause instanceof Error ? failureOf(cause, redact) : undefined
  return failure?.kind === 'auth' || failure?.kind === 'tls' ? failure : undefined
}

/**
 * ioredis hangs the command on its errors, with the arguments: those of AUTH
 * are the password, and loggers print all of an error. A Redis that does not
 * know AUTH, or HELLO, says so with the arguments.
 */
function withoutCommand (error: unknown): Error {
  if (!(error instanceof Error)) return new Error(String(error))
  const { code, errors } = error as { code?: string, errors?: readonly Error[] }
  // A name with several addresses fails as one error without a message.
  const message = error.message.replace(/, with args beginning with:.*/s, '').trim()
  const clean = new Error(message === '' ? (errors ?? []).map(({ message }) => message).join('; ') : message)
  clean.name = error.name
  if (error.stack !== undefined) clean.stack = error.stack.replace(error.message, () => message)
  return code === undefined ? clean : Object.assign(clean, { code })
}
