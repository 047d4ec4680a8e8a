/**
 * Username and password from the user's credentials function, which is asked at
 * each connect. ioredis reads both options when it begins to connect, before the
 * function has answered, but turns them into text only when it sends them. So
 * both options are objects whose text is the latest answer, and a connector asks
 * the function before it opens the socket.
 */
import { Socket } from 'node:net'
import { type RedisOptions, SentinelConnector } from 'ioredis'
import { StoreUnavailableError } from '../errors.js'
import { type Connecting, type Emit, ServerConnector } from './connector.js'
import type { CredentialsSource, RedisCredentials } from '../settings/redis-option.js'
import { timers } from '../runtime/timers.js'

/** The latest credentials, and the options with which ioredis asks for them. */
export class Credentials {
  /** Becomes text only when it is sent. Printed or serialized it shows nothing. */
  readonly username = new Secret(() => this.#latest.username || 'default') as unknown as string
  readonly password = new Secret(() => this.#latest.password) as unknown as string
  readonly #source: CredentialsSource
  readonly #timeoutMs: number
  readonly #answers: RedisCredentials[] = []
  #latest: RedisCredentials = { password: '' }
  #asked = 0
  #answered = 0

  constructor (source: CredentialsSource, timeoutMs: number) {
    this.#source = source
    this.#timeoutMs = timeoutMs
  }

  /** Usernames and passwords of the last ten answers, to redact: a server may still mention an earlier one. */
  get secrets (): readonly unknown[] {
    return this.#answers.flatMap(({ username, password }) => [username, password])
  }

  /**
   * Asks the function for new credentials.
   *
   * @throws StoreUnavailableError  of kind `auth`. The message holds nothing that
   *   the function threw or answered, since that may contain a password
   */
  async renew (): Promise<void> {
    const number = ++this.#asked
    const answer = readAnswer(await this.#ask())
    this.#answers.push(answer)
    if (this.#answers.length > mostAnswers) this.#answers.shift()
    // An answer that was asked for earlier but arrives later is out of date.
    if (number < this.#answered) return
    this.#answered = number
    this.#latest = answer
  }

  /** The options with which an ioredis client asks for credentials; they override the user's. */
  optionsFor ({ sentinels }: RedisOptions): Pick<RedisOptions, 'username' | 'password' | 'Connector'> {
    const { username, password } = this
    const Connector = this.#askBefore(sentinels ? SentinelConnector : ServerConnector)
    return { username, password, Connector: Connector as NonNullable<RedisOptions['Connector']> }
  }

  #askBefore (Base: typeof ServerConnector | typeof SentinelConnector): unknown {
    const renew = async () => await this.renew()
    // The two constructors read different options, but both get all of them.
    return class extends (Base as typeof ServerConnector) {
      override async connect (emit: Emit): Connecting {
        this.connecting = true
        const failure = await renew().then(() => undefined, (error: Error) => error)
        if (failure === undefined && this.connecting) return await super.connect(emit)
        const error = failure ?? new Error('Connection is closed.')
        // A connector that throws ends its client for good. That is right in a Cluster, which makes another client for
        // the next attempt. Other clients must retry, so they get a broken socket.
        if (typeof this.options.retryStrategy !== 'function') throw error
        this.firstError = error
        this.stream = new Socket().destroy()
        return this.stream
      }
    }
  }

  async #ask (): Promise<unknown> {
    const limitMs = this.#timeoutMs
    return await new Promise((resolve, reject) => {
      const timer = timers.setTimeout(() => reject(failed(`did not answer within ${limitMs} ms`)), limitMs).unref()
      const answer = (async () => await this.#source())()
      const refuse = (error: unknown) => reject(failed(`failed${nameOf(error)}`))
      answer.finally(() => timers.clearTimeout(timer)).then(resolve, refuse)
    })
  }
}

/** The number of answers that are kept, to redact them. */
const mostAnswers = 10

/** Hides a secret from loggers: only `toString` returns it. */
class Secret {
  readonly #read: () => string

  constructor (read: () => string) {
    this.#read = read
  }

  toString (): string {
    return this.#read()
  }
}

function readAnswer (answer: unknown): RedisCredentials {
  if (typeof answer !== 'object' || answer === null) {
    const received = answer === null ? 'null' : `a value of type ${typeof answer}`
    throw failed(`answered ${received}, not { username, password }`)
  }
  const { username, password } = answer as Readonly<Record<string, unknown>>
  if (typeof password !== 'string' || password === '') throw failed('answered no password')
  if (username !== undefined && typeof username !== 'string') throw failed('answered a username that is not a string')
  return { username, password }
}

function failed (how: string): StoreUnavailableError {
  return new StoreUnavailableError('auth', `Redis cannot be used (auth): the credentials function ${how}`)
}

/** Name and code of a thrown error. Its message is left out, since it may contain a secret. */
function nameOf (error: unknown): string {
  if (!(error instanceof Error)) return ''
  const { name, code } = error as { name: unknown, code?: unknown }
  const words = [name, code].filter(word => typeof word === 'string' && /^\w{1,60}$/.test(word))
  return words.length === 0 ? '' : ` (${words.join(', ')})`
}
