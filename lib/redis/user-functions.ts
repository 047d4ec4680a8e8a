/**
 * Wraps the user's functions that ioredis and Node call when a connection is
 * made or lost. If such a function throws, rejects or gives an invalid answer,
 * nothing catches that: the process ends, or no further attempt to connect is
 * made. So the wrapper answers with the guard's own function, or lets the lookup
 * fail.
 */
import { isIP } from 'node:net'
import type { ConnectionOptions } from 'node:tls'
import { attempt, isThenable } from '../runtime/awaitable.js'
import { isRecord } from '../settings/option-rules.js'
import { isAddress } from '../settings/redis-option-rules.js'

type UserFunction = (...args: unknown[]) => unknown
/** The callback of a lookup, its last argument. */
type Done = (error: Error | null, ...answers: unknown[]) => void
type Wrap = (given: UserFunction) => UserFunction

/** By name: functions in ioredis' options for a server, Sentinels or a Cluster. */
const ofRedis: Readonly<Record<string, Wrap>> = {
  reconnectOnError: answering(() => true, reconnectOnError),
  retryStrategy: answering(isDelay, delayBeforeRetry),
  clusterRetryStrategy: answering(isDelay, delayBeforeRetry),
  sentinelRetryStrategy: answering(isDelay, delayBeforeRetry),
  sentinelReconnectStrategy: answering(isDelay, delayBeforeRetry),
  // null: no retry of this node; the Cluster discovers its nodes again.
  clusterNodeRetryStrategy: answering(isDelay, () => null),
  // null: the address that Redis reports is used.
  natMap: answering(answer => !answer || isAddress(answer), () => null),
  scaleReads: answering(
    (answer, nodes) => isNode(answer, nodes as readonly unknown[]), nodes => (nodes as readonly unknown[])[0]
  ),
  dnsLookup: lookingUp(
    'dnsLookup', answers => typeof answers[0] === 'string' && answers[0] !== '' ? answers : undefined
  ),
  resolveSrv: lookingUp('resolveSrv', answers => isListOf(answers[0], isSrvRecord) ? answers : undefined)
}

/** By name: functions in the options of tls.connect. */
const ofTls: Readonly<Record<string, Wrap>> = {
  checkServerIdentity: answering(
    isIdentityResult, () => new Error('checkServerIdentity failed, so the certificate is not trusted')
  ),
  // null: the handshake fails.
  pskCallback: answering(isPsk, () => null),
  lookup: lookingUp('lookup', readAddresses)
}

/** @returns a copy of ioredis' options in which each function is safe to call */
export function withSafeFunctions<Options extends object> (options: Options): Options {
  return wrapped(options, ofRedis)
}

/** Like `withSafeFunctions`, for the options of tls.connect. Options that are undefined are dropped. */
export function withSafeTls (options: ConnectionOptions): ConnectionOptions {
  return wrapped(Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)), ofTls)
}

/** Whether a new connection can fix an error of Redis. */
export function reconnectOnError (error: unknown): boolean {
  return /\b(READONLY|NOAUTH)\b/.test((error as Error).message)
}

/**
 * ms to wait before an attempt to connect: doubles from 50 to 500, less a random part of up to half, so that instances
 * do not reconnect at the same moment.
 */
export function delayBeforeRetry (attempt: unknown): number {
  return Math.min(500, 50 * 2 ** Math.min(Number(attempt) - 1, 10)) * (1 - Math.random() / 2)
}

function wrapped<Options extends object> (options: Options, wraps: Readonly<Record<string, Wrap>>): Options {
  const safe = Object.entries(wraps).flatMap(([name, wrap]) => {
    const given = (options as Readonly<Record<string, unknown>>)[name]
    return typeof given === 'function' ? [[name, wrap(given as UserFunction)] as const] : []
  })
  return { ...options, ...Object.fromEntries(safe) }
}

/**
 * Wraps a function that must answer synchronously.
 *
 * @param isFine  whether an answer to these arguments is valid
 * @param own     answers if the user's function throws, returns a promise, or gives an invalid answer
 */
function answering (isFine: (answer: unknown, ...args: unknown[]) => boolean, own: UserFunction): Wrap {
  return given => (...args) => {
    try {
      const answer = given(...args)
      if (isThenable(answer)) attempt(() => answer, () => {})
      else if (isFine(answer, ...args)) return answer
    } catch {
      // `own` answers below.
    }
    return own(...args)
  }
}

/** Wraps a lookup. @param read  returns the answers to pass on; undefined: they are invalid */
function lookingUp (
  name: string, read: (answers: readonly unknown[], args: readonly unknown[]) => readonly unknown[] | undefined
): Wrap {
  return given => (...args) => {
    const done = args.pop() as Done
    let isDone = false
    const finish = (error: unknown, ...answers: unknown[]) => {
      if (isDone) return
      isDone = true
      if (error) return done(error instanceof Error ? error : new Error(`${name} failed`))
      const found = read(answers, args)
      if (found === undefined) done(new Error(`${name} did not answer with an address`))
      else done(null, ...found)
    }
    attempt(() => given(...args, finish), error => finish(error ?? new Error(`${name} failed`)))
  }
}

/**
 * Whether an answer is a delay that a timer can wait. With other numbers the timer would run at once. undefined, null
 * and false end the attempts to connect, which the user may want.
 */
function isDelay (answer: unknown): boolean {
  if (answer === undefined || answer === null || answer === false) return true
  return typeof answer === 'number' && answer >= 0 && answer < 2 ** 31
}

function isNode (answer: unknown, nodes: readonly unknown[]): boolean {
  const chosen = Array.isArray(answer) ? answer : [answer]
  return chosen.length > 0 && chosen.every(node => nodes.includes(node))
}

function isListOf (value: unknown, isItem: (item: unknown) => boolean): boolean {
  return Array.isArray(value) && value.length > 0 && value.every(isItem)
}

function isSrvRecord (value: unknown): boolean {
  if (!isRecord(value)) return false
  const { name, port, priority, weight } = value
  const isWhole = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0
  return isAddress({ host: name, port }) && isWhole(priority) && isWhole(weight)
}

/** Whether an answer is valid: any other, even `true`, would refuse the certificate without a reason. */
function isIdentityResult (answer: unknown): boolean {
  return answer === undefined || answer instanceof Error
}

/** Whether an answer is a pre-shared key of at most the length that OpenSSL accepts. */
function isPsk (answer: unknown): boolean {
  if (!isRecord(answer)) return false
  const { psk, identity } = answer
  if (!(psk instanceof Uint8Array) || typeof identity !== 'string') return false
  return psk.length <= 256 && Buffer.byteLength(identity) <= 128
}

/** Reads one address or a list. Node now asks for all addresses of a name, but many lookups still return one. */
function readAddresses (answers: readonly unknown[], [, options]: readonly unknown[]): readonly unknown[] | undefined {
  const [found] = answers
  const isOne = typeof found === 'string' && isIP(found) !== 0
  if (!(options as { all?: boolean }).all) return isOne ? [found, isIP(found)] : undefined
  const addresses = isOne ? [{ address: found }] : found
  if (!isListOf(addresses, item => isRecord(item) && isIP(String(item['address'])) !== 0)) return undefined
  return [(addresses as { address: string }[]).map(({ address }) => ({ address, family: isIP(address) }))]
}
