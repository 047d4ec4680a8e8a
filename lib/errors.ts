/**
 * Errors, whose messages say what to do. Inside of the guard, limited and blocked requests are values (see
 * guard/decision.ts). They are answered with a `RefusalError`.
 */

/** Every error of this package has one of these codes; they do not change within a major version. */
export type GuardErrorCode =
  | 'GUARD_ERR_OPTIONS'
  | 'GUARD_ERR_ARGUMENT'
  | 'GUARD_ERR_LIMIT'
  | 'GUARD_ERR_STORE_UNAVAILABLE'
  | 'GUARD_ERR_VALUE'
  | 'GUARD_ERR_NO_CREDENTIALS'
  | 'GUARD_ERR_REDIS_REQUIRED'
  | 'GUARD_ERR_CLOSED'
  | 'GUARD_ERR_METRICS_ROUTE'
  | 'GUARD_ERR_METRICS_REGISTRY'

export class GuardError extends Error {
  readonly code: GuardErrorCode

  constructor (code: GuardErrorCode, message: string, cause?: Error) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = new.target.name
    this.code = code
  }
}

/** Why a request was refused: over a limit, banned by it, blocked, or nobody can count and `onOutage` is `deny`. */
export type RefusalCode = 'GUARD_LIMITED' | 'GUARD_BANNED' | 'GUARD_BLOCKED' | 'GUARD_DENIED'

/** A refused request: what an error handler gets. It is no failure of the guard, so it is no GuardError. */
export class RefusalError extends Error {
  /** 429, 403 or 503 */
  readonly statusCode: number
  readonly code: RefusalCode
  /** name of the limit; absent: no limit has decided */
  declare readonly limit?: string

  constructor (statusCode: number, code: RefusalCode, message: string, limit?: string) {
    super(message)
    this.statusCode = statusCode
    this.code = code
    if (limit !== undefined) this.limit = limit
  }
}

/** One wrong option, in four parts, so that a reader can mend it without the manual. */
export interface OptionProblem {
  /** path of the option, such as `redis.url`, or the environment variable, such as `REDIS_URL` */
  readonly option: string
  /** what it has to be */
  readonly rule: string
  /** what it was, shortened; never a secret */
  readonly received: string
  /** what to do about it, where that is more than following the rule */
  readonly remedy?: string
}

/** All wrong and unknown options of one registration, together. */
export class OptionsError extends GuardError {
  readonly problems: readonly OptionProblem[]

  constructor (problems: readonly OptionProblem[]) {
    const lines = problems.map(problem => `  - ${describe(problem)}`)
    super('GUARD_ERR_OPTIONS', ['fastify-redis-guard cannot start:', ...lines].join('\n'))
    this.problems = problems
  }
}

/** A method was called with something that it cannot take. */
export class ArgumentError extends GuardError {
  constructor (problem: OptionProblem) {
    super('GUARD_ERR_ARGUMENT', describe(problem))
  }
}

/**
 * A limit cannot be decided: its numbers are out of range, or a key is no
 * usable id. The error of a request says no more to its client; its cause names
 * limit, route, option and value.
 */
export class LimitError extends GuardError {
  constructor (message: string, cause?: Error) {
    super('GUARD_ERR_LIMIT', message, cause)
  }
}

/** A stored value is not what the command needs, such as `incr` on text. Redis is well. */
export class ValueError extends GuardError {
  constructor (message: string) {
    super('GUARD_ERR_VALUE', message)
  }
}

/** `rotate` has nobody to ask. */
export class NoCredentialsError extends GuardError {
  constructor () {
    super(
      'GUARD_ERR_NO_CREDENTIALS',
      'there is nothing to rotate: rotate asks the function in redis: { credentials }, which is not given'
    )
  }
}

/** The application does not start without Redis, since `redis: { required: true }` asks for that. */
export class RedisRequiredError extends GuardError {
  /** @param reason  why Redis could not be used, without secrets */
  constructor (withinMs: number, reason: string) {
    super(
      'GUARD_ERR_REDIS_REQUIRED',
      `Redis could not be used within ${withinMs} ms, and redis: { required: true } keeps the application from ` +
      `starting without it: ${reason}`
    )
  }
}

/** A method was called after the application had begun to close. */
export class ClosedError extends GuardError {
  constructor () {
    super('GUARD_ERR_CLOSED', 'the application is closed, so the guard neither reads nor writes any more')
  }
}

/** Redis did not answer in time, refused, or is not connected. The cause holds its words, without the command. */
export class StoreUnavailableError extends GuardError {
  readonly statusCode = 500
  readonly kind: StoreFailure

  constructor (kind: StoreFailure, message: string, cause?: Error) {
    super('GUARD_ERR_STORE_UNAVAILABLE', message, cause)
    this.kind = kind
  }
}

/** Why Redis could not be used, or rejected a command: the `kind` label of `redis_guard_errors_total`, explained. */
export const storeFailureMeanings = {
  connection: 'there is none, or it broke',
  timeout: 'no answer in time',
  auth: 'Redis refused user or password, or the function credentials failed',
  oom: 'Redis is full',
  readonly: 'Redis takes no writes: it is a replica, or cannot persist or replicate',
  loading: 'Redis is loading its data, or busy',
  cluster: 'a slot has no node, or moves',
  tls: 'one side refused a certificate, or the handshake failed',
  lost: 'Redis has lost its data',
  reply: 'Redis rejected one command, or its reply made no sense; Redis stays in use'
} as const

export type StoreFailure = keyof typeof storeFailureMeanings

export const storeFailures = Object.keys(storeFailureMeanings) as readonly StoreFailure[]

export function describe (problem: OptionProblem): string {
  const remedy = problem.remedy === undefined ? '' : `; ${problem.remedy}`
  return `${problem.option} must be ${problem.rule}, got ${problem.received}${remedy}`
}

/** How a received value is shown in a message: its type is visible, and its length is bounded. */
export function show (value: unknown): string {
  switch (typeof value) {
    case 'string': return JSON.stringify(shorten(value))
    case 'function': return 'a function'
    case 'symbol': return 'a symbol'
    case 'bigint': return shorten(`${value}n`)
    case 'object':
      if (value === null) return 'null'
      if (Array.isArray(value)) return `an array of ${value.length}`
      return 'an object'
    default: return String(value)
  }
}

function shorten (text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}...` : text
}
