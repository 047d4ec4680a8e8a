/**
 * Functions of the user's that ioredis and Node call when connections come and
 * go. Nobody catches there what they throw or reject, and an answer that makes
 * no sense ends the process as well, or the attempts to connect. So each is
 * wrapped: the guard's own function answers instead, or the lookup fails.
 */
import { isIP } from 'node:net'
import type { ConnectionOptions } from 'node:tls'
import { attempt, isThenable } from '../runtime/awaitable.js'
import { isRecord } from '../settings/option-rules.js'
import { isAddress } from '../settings/redis-option-rules.js'

type UserFunction = (...args: unknown[]) => unknown
/** The last argument of a lookup. */
type Done = (error: Error | null, ...answers: unknown[]) => void
type Wrap = (given: UserFunction) => UserFunction

/** Of ioredis' options for a server, Sentinels and a Cluster alike. */
const ofRedis: Readonly<Record<string, Wrap>> = {
  reconnectOnError: answering(() => true, reconnectOnError),
  retryStrategy: answering(isDelay, delayBeforeRetry),
  clusterRetryStrategy: answering(isDelay, delayBeforeRetry),
  sentinelRetryStrategy: answering(isDelay, delayBeforeRetry),
  sentinelReconnectStrategy: answering(isDelay, delayBeforeRetry),
  // ioredis finds the nodes anew without it.
  clusterNodeRetryStrategy: answering(isDelay, () => null),
  // The address that Redis gives.
  natMap: answering(answer => !answer || isAddress(answer), () => null),
  scaleReads: answering(
    (answer, nodes) => isNode(answer, nodes as readonly unknown[]), nodes => (nodes as readonly unknown[])[0]
  ),
  dnsLookup: lookingUp(
    'dnsLookup', answers => typeof answers[0] === 'string' && answers[0] !== '' ? answers : undefined
  ),
  resolveSrv: lookingUp('resolveSrv', answers => isListOf(answers[0], isSrvRecord) ? answers : undefined)
}

/** Of the options of tls.connect. */
const ofTls: Readonly<Record<string, Wrap>> = {
  checkServerIdentity: answering(
    isIdentityResult, () => new Error('checkServerIdentity failed, so the certificate is not trusted')
  ),
  // Without an answer there is no handshake.
  pskCallback: answering(isPsk, () => null),
  lookup: lookingUp('lookup', readAddresses)
}

/** @returns a copy of ioredis' options, in which each function is safe to call */
export function withSafeFunctions<Options extends object> (options: Options): Options {
  return wrapped(options, ofRedis)
}

/** The same for the options of tls.connect, without those that are undefined. */
export function withSafeTls (options: ConnectionOptions): ConnectionOptions {
  return wrapped(Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)), ofTls)
}

/** Whether an error of Redis is mended by a new connection. */
export function reconnectOnError (error: unknown): boolean {
  return /\b(READONLY|NOAUTH)\b/.test((error as Error).message)
}

/** ms: doubling from 50 to 500, less up to half, so that instances do not come back in step. */
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
 * @param isFine  whether it is an answer to these arguments
 * @param own     answers where the user's function throws, promises an answer, or answers what makes no sense
 */
function answering (isFine: (answer: unknown, ...args: unknown[]) => boolean, own: UserFunction): Wrap {
  return given => (...args) => {
    try {
      const answer = given(...args)
      if (isThenable(answer)) attempt(() => answer, () => {})
      else if (isFine(answer, ...args)) return answer
    } catch {
      // Answered below.
    }
    return own(...args)
  }
}

/** @param read  returns what to hand on; undefined: these make no sense */
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
      if (found === undefined) done(new Error(`${name} answered what is no address`))
      else done(null, ...found)
    }
    attempt(() => given(...args, finish), error => finish(error ?? new Error(`${name} failed`)))
  }
}

/**
 * A timer that gets anything else runs at once. No number at all ends the attempts, which is for the user to decide.
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

/** Anything else, `true` too, would refuse the certificate without a reason. */
function isIdentityResult (answer: unknown): boolean {
  return answer === undefined || answer instanceof Error
}

/** At most as long as OpenSSL takes. */
function isPsk (answer: unknown): boolean {
  if (!isRecord(answer)) return false
  const { psk, identity } = answer
  if (!(psk instanceof Uint8Array) || typeof identity !== 'string') return false
  return psk.length <= 256 && Buffer.byteLength(identity) <= 128
}

/** Node wants all addresses of a name by now, and many a lookup still answers one. */
function readAddresses (answers: readonly unknown[], [, options]: readonly unknown[]): readonly unknown[] | undefined {
  const [found] = answers
  const isOne = typeof found === 'string' && isIP(found) !== 0
  if (!(options as { all?: boolean }).all) return isOne ? [found, isIP(found)] : undefined
  const addresses = isOne ? [{ address: found }] : found
  if (!isListOf(addresses, item => isRecord(item) && isIP(String(item['address'])) !== 0)) return undefined
  return [(addresses as { address: string }[]).map(({ address }) => ({ address, family: isIP(address) }))]
}
