/**
 * User and password that a function of the user's gives, asked for at each
 * connect. ioredis takes both as it begins to connect, before there is an
 * answer, and makes text of them as it sends them. So it is given two objects,
 * whose text is the latest answer, and a connector, of which it wants a socket
 * and which asks first.
 */
import { Socket } from 'node:net'
import { type RedisOptions, SentinelConnector } from 'ioredis'
import { StoreUnavailableError } from '../errors.js'
import { type Connecting, type Emit, ServerConnector } from './connector.js'
import type { CredentialsSource, RedisCredentials } from '../settings/redis-option.js'
import { timers } from '../runtime/timers.js'

/** The latest credentials, and how ioredis comes by them; see above. */
export class Credentials {
  /** Text where it is sent; whoever prints or serializes it sees nothing. */
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

  /** Users and passwords of the last answers: a server may still mention an earlier one. */
  get secrets (): readonly unknown[] {
    return this.#answers.flatMap(({ username, password }) => [username, password])
  }

  /**
   * Asks anew.
   *
   * @throws StoreUnavailableError  of kind `auth`, without a word of what the
   *   function threw or answered: there may be a password in it
   */
  async renew (): Promise<void> {
    const number = ++this.#asked
    const answer = readAnswer(await this.#ask())
    this.#answers.push(answer)
    if (this.#answers.length > mostAnswers) this.#answers.shift()
    // One that was asked for earlier and comes later is out of date.
    if (number < this.#answered) return
    this.#answered = number
    this.#latest = answer
  }

  /** What makes a client of ioredis ask; over all that its options say. */
  optionsFor ({ sentinels }: RedisOptions): Pick<RedisOptions, 'username' | 'password' | 'Connector'> {
    const { username, password } = this
    const Connector = this.#askBefore(sentinels ? SentinelConnector : ServerConnector)
    return { username, password, Connector: Connector as NonNullable<RedisOptions['Connector']> }
  }

  #askBefore (Base: typeof ServerConnector | typeof SentinelConnector): unknown {
    const renew = async () => await this.renew()
    // Their constructors differ in what they read of ioredis' options, of which they are given all.
    return class extends (Base as typeof ServerConnector) {
      override async connect (emit: Emit): Connecting {
        this.connecting = true
        const failure = await renew().then(() => undefined, (error: Error) => error)
        if (failure === undefined && this.connecting) return await super.connect(emit)
        const error = failure ?? new Error('Connection is closed.')
        // A connector that fails ends its client for good, which is right where another one is made for the next
        // attempt, as in a Cluster. Others try again after a socket that broke.
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

/** How many answers are kept, so that they can be redacted. */
const mostAnswers = 10

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
  if (username !== undefined && typeof username !== 'string') throw failed('answered a username that is no text')
  return { username, password }
}

function failed (how: string): StoreUnavailableError {
  return new StoreUnavailableError('auth', `Redis cannot be used (auth): the credentials function ${how}`)
}

/** Name and code of what was thrown; its message may hold what nobody is to read. */
function nameOf (error: unknown): string {
  if (!(error instanceof Error)) return ''
  const { name, code } = error as { name: unknown, code?: unknown }
  const words = [name, code].filter(word => typeof word === 'string' && /^\w{1,60}$/.test(word))
  return words.length === 0 ? '' : ` (${words.join(', ')})`
}
