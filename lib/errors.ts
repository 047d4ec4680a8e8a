/**
 * The errors of the package; their messages say what to do. Inside the guard, refusals are values (guard/decision.ts);
 * only the answer to a client is a `RefusalError`.
 */

/** The codes of all errors of the package. They do not change within a major version. */
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

/** The base class of all errors of the package, except `RefusalError`. */
export class GuardError extends Error {
  /** Stable name of the error; docs/api.md lists them. */
  readonly code: GuardErrorCode

  constructor (code: GuardErrorCode, message: string, cause?: Error) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = new.target.name
    this.code = code
  }
}

/**
 * Why a request was refused: it is over a limit, the client is banned by the limit, its address is blocked, or Redis is
 * away and `onOutage` is `deny`.
 */
export type RefusalCode = 'GUARD_LIMITED' | 'GUARD_BANNED' | 'GUARD_BLOCKED' | 'GUARD_DENIED'

/**
 * The error that error handlers get for a refused request. It is no failure of the guard, so it is no `GuardError`.
 *
 * It inherits from `Error`, but like Fastify's own errors it is not made by the constructor of `Error`: in a flood that
 * would take a twentieth of the time of an answer. So it has no stack of calls, and `isNativeError` is false.
 */
export class RefusalError implements Error {
  /** `Error`, as in @fastify/rate-limit. */
  declare readonly name: string
  /** What the client may read. */
  message: string
  /** 429, 403 or 503. */
  readonly statusCode: number
  /** Why the request was refused. */
  readonly code: RefusalCode
  /** Name of the limit that refused; absent if no limit did. */
  declare readonly limit?: string

  constructor (statusCode: number, code: RefusalCode, message: string, limit?: string) {
    this.message = message
    this.statusCode = statusCode
    this.code = code
    if (limit !== undefined) this.limit = limit
  }

  /** Name and message. */
  get stack (): string {
    return `${this.name}: ${this.message}`
  }

  set stack (stack: string) {
    Object.defineProperty(this, 'stack', { value: stack, writable: true, configurable: true })
  }

  /** The same as `statusCode`. Frameworks such as NestJS know errors of HTTP by `status` and `expose`. */
  get status (): number {
    return this.statusCode
  }

  /** Whether the message may be sent to the client: true, except with a 503. */
  get expose (): boolean {
    return this.statusCode < 500
  }
}

Object.setPrototypeOf(RefusalError.prototype, Error.prototype)

/** One wrong option, with all that a reader needs to correct it. */
export interface OptionProblem {
  /** Path of the option, such as `redis.url`, or the environment variable, such as `REDIS_URL`. */
  readonly option: string
  /** What the option must be. */
  readonly rule: string
  /** The value, shortened; never a secret. */
  readonly received: string
  /** What to do, if that is more than following the rule. */
  readonly remedy?: string
}

/** All wrong and unknown options of one registration, in one error. */
export class OptionsError extends GuardError {
  /** Each wrong option. */
  readonly problems: readonly OptionProblem[]

  constructor (problems: readonly OptionProblem[]) {
    const lines = problems.map(problem => `  - ${describe(problem)}`)
    super('GUARD_ERR_OPTIONS', ['fastify-redis-guard cannot start:', ...lines].join('\n'))
    this.problems = problems
  }
}

/** A method was called with a wrong argument. */
export class ArgumentError extends GuardError {
  constructor (problem: OptionProblem) {
    super('GUARD_ERR_ARGUMENT', describe(problem))
  }
}

/**
 * A limit cannot be decided: its numbers are out of range, or a key is no usable id. A client sees no more than that;
 * the `cause` names limit, route, option and value.
 */
export class LimitError extends GuardError {
  constructor (message: string, cause?: Error) {
    super('GUARD_ERR_LIMIT', message, cause)
  }
}

/** A stored value is not what a method needs, such as text for `incr`. Redis itself works. */
export class ValueError extends GuardError {
  constructor (message: string) {
    super('GUARD_ERR_VALUE', message)
  }
}

/** `rotate` was called without a function `redis.credentials`. */
export class NoCredentialsError extends GuardError {
  constructor () {
    super(
      'GUARD_ERR_NO_CREDENTIALS',
      'rotate() asks the function in redis: { credentials }, and none is given. Pass one to rotate credentials'
    )
  }
}

/** Redis could not be used at the start, and `redis` has `required: true`. */
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

/** A method was called after the application began to close. */
export class ClosedError extends GuardError {
  constructor () {
    super('GUARD_ERR_CLOSED', 'the application is closed, so the guard neither reads nor writes any more')
  }
}

/**
 * Redis is not connected, did not answer in time, or rejected a command. The `cause` has the words of Redis, without
 * the command.
 */
export class StoreUnavailableError extends GuardError {
  /** A request that fails with this error gets a 500. */
  readonly statusCode = 500
  /** Why Redis could not be used. */
  readonly kind: StoreFailure

  constructor (kind: StoreFailure, message: string, cause?: Error) {
    super('GUARD_ERR_STORE_UNAVAILABLE', message, cause)
    this.kind = kind
  }
}

/** Each kind of failure of Redis, and what it means. The kinds are the label of `redis_guard_errors_total`. */
export const storeFailureMeanings = {
  connection: 'there is none, or it broke',
  timeout: 'no answer in time',
  auth: 'Redis refused user or password, or the credentials function failed',
  oom: 'Redis is full',
  readonly: 'Redis takes no writes: it is a replica, or cannot persist or replicate',
  loading: 'Redis is loading its data, or busy',
  cluster: 'a slot has no node, or moves',
  tls: 'one side refused a certificate, or the handshake failed',
  lost: 'Redis has lost its data',
  reply: 'Redis rejected one command, or its reply made no sense; Redis stays in use'
} as const

/** Why Redis could not be used, or rejected a command. */
export type StoreFailure = keyof typeof storeFailureMeanings

export const storeFailures = Object.keys(storeFailureMeanings) as readonly StoreFailure[]

export function describe (problem: OptionProblem): string {
  const remedy = problem.remedy === undefined ? '' : `; ${problem.remedy}`
  return `${problem.option} must be ${problem.rule}, got ${problem.received}${remedy}`
}

/** Shows a received value in a message: its type is visible, and its length is bounded. */
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
