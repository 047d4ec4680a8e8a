/**
 * Redis behind a circuit breaker. Every round trip has a time limit. The first
 * one that fails opens the breaker, for a guard that tries again and again
 * keeps each client waiting. From then on nothing is sent but a probe, one
 * cheap write after each `resetTimeout` and whenever the connection is back;
 * the first that succeeds closes the breaker. No request ever is the probe.
 */
import { AsyncResource } from 'node:async_hooks'
import { EventEmitter } from 'node:events'
import CircuitBreaker from 'opossum'
import { StoreUnavailableError, type ValueError } from '../errors.js'
import { timers } from '../runtime/timers.js'
import type { Connection } from './connection.js'
import { failureOf, OutOfStepError, valueErrorOf } from './failure.js'
import { type RedisClient, Script } from './script.js'
import { scripts } from './lua/scripts.js'

export interface BreakerOptions {
  /** ms */
  readonly commandTimeout: number
  /** ms */
  readonly resetTimeout: number
  /** the key that the probe writes */
  readonly probeKey: string
}

export const breakerStates = ['closed', 'open', 'half-open'] as const
export type BreakerState = typeof breakerStates[number]

interface GuardedRedisEvents {
  /** Redis may be used again */
  up: []
  /** Redis may not be used any more */
  down: [failure: StoreUnavailableError]
  state: [state: BreakerState]
  /** a probe came to an end, well or not */
  probed: []
  /** no command is under way any more */
  idle: []
  roundTrip: [seconds: number]
  failure: [failure: StoreUnavailableError]
}

type Command = (client: RedisClient) => Promise<unknown>

/** The longest time that a timer of Node takes, ms: some 25 days. */
const longestTimerMs = 2 ** 31 - 1

/** What a decision needs of Redis: scripts, its clock, and a write, which a full Redis and a replica refuse. */
const probe = new Script(scripts.probe)

/** The connection, the breaker before it, and what they tell; see above. */
export class GuardedRedis extends EventEmitter<GuardedRedisEvents> {
  readonly #connection: Connection
  readonly #options: BreakerOptions
  readonly #breaker: CircuitBreaker<[Command], unknown>
  readonly #window: NodeJS.Timeout
  #failure: StoreUnavailableError
  #probing = false
  /** the breaker is open, and Redis is being tried */
  #isHalfOpen = false
  /** until Redis is tried */
  #retry: NodeJS.Timeout | undefined
  /** commands under way */
  #running = 0
  #stopped = false

  constructor (connection: Connection, options: BreakerOptions) {
    super()
    this.#connection = connection
    this.#options = options
    this.#failure = failureOf(new Error(connection.firstReason))
    const rotateBucketController = new EventEmitter()
    this.#breaker = new CircuitBreaker((command: Command) => this.#send(command), {
      // Our own, below: opossum's cannot look twice.
      timeout: false,
      // Opossum's timers are global ones, which a test may fake. So ours say when it half opens, and rotate its window.
      resetTimeout: longestTimerMs,
      rotateBucketController,
      errorThresholdPercentage: 0,
      // The first failure decides, so there is nothing to remember of earlier ones.
      rollingCountBuckets: 1,
      rollingPercentilesEnabled: false,
      enableSnapshots: false
    })
    this.#window = timers.setInterval(() => { rotateBucketController.emit('rotate') }, 1000).unref()
    this.#breaker.open()
    // These run in no request's context: what they start lasts longer than the request whose command failed.
    this.#breaker.on('open', AsyncResource.bind(() => {
      this.#opened()
      this.emit('down', this.#failure)
    }))
    this.#breaker.on('close', AsyncResource.bind(() => {
      this.#retryIn(undefined)
      this.emit('state', 'closed')
      this.emit('up')
    }))
    this.#retryIn(options.resetTimeout)
    connection.on('ready', AsyncResource.bind(() => this.#probe()))
    connection.on('lost', () => this.#lost())
    connection.on('error', error => { this.#fail(error) })
  }

  get client (): RedisClient {
    return this.#connection.client
  }

  /** See Connection. */
  get isEnded (): boolean {
    return this.#connection.isEnded
  }

  get usable (): boolean {
    return !this.#stopped && this.#breaker.closed && this.#connection.ready
  }

  get state (): BreakerState {
    if (this.#breaker.closed) return 'closed'
    return this.#isHalfOpen ? 'half-open' : 'open'
  }

  /** Why Redis could not be used when it last could not. */
  get failure (): StoreUnavailableError {
    return this.#failure
  }

  /** How long a command may take, ms. */
  get commandTimeout (): number {
    return this.#options.commandTimeout
  }

  /**
   * Connects, and waits until Redis can be used or the first attempt has
   * failed; at most `withinMs`.
   */
  async connect (withinMs: number): Promise<void> {
    await new Promise<void>(resolve => {
      const settle = () => {
        timers.clearTimeout(timer)
        this.off('probed', settle)
        this.#connection.off('lost', settle)
        resolve()
      }
      const timer = timers.setTimeout(settle, withinMs)
      this.on('probed', settle)
      this.#connection.on('lost', settle)
      this.#connection.open()
      if (this.#connection.ready) this.#probe()
      else if (this.#connection.isEnded) settle()
    })
  }

  /**
   * One round trip.
   *
   * @throws StoreUnavailableError  when Redis may not be used, failed, or did
   *   not answer within `commandTimeout`; the command may have run all the same
   * @throws ValueError  when Redis is well, but the value is not what the command needs
   */
  async run<T> (command: (client: RedisClient) => Promise<T>): Promise<T> {
    if (!this.usable) throw this.#failure
    const startMs = timers.monotonicMs()
    this.#running++
    let answer: unknown
    try {
      answer = await this.#breaker.fire(command)
    } catch (error) {
      throw this.#fail(error)
    } finally {
      this.emit('roundTrip', (timers.monotonicMs() - startMs) / 1000)
      if (--this.#running === 0) this.emit('idle')
    }
    if (answer instanceof Refused) {
      if (answer.error instanceof StoreUnavailableError) this.emit('failure', answer.error)
      throw answer.error
    }
    return answer as T
  }

  /**
   * What a failed `run` means to those who only need Redis to work. One that no failure of Redis explains is counted
   * as such a failure.
   */
  report (error: unknown): StoreUnavailableError {
    return error instanceof StoreUnavailableError ? error : this.#fail(error)
  }

  /** @throws NoCredentialsError, StoreUnavailableError  see Connection.rotate */
  async rotate (): Promise<void> {
    try {
      await this.#connection.rotate()
    } catch (error) {
      if (error instanceof StoreUnavailableError) this.emit('failure', error)
      throw error
    }
  }

  /** Resolves when no command is under way, nor one that follows on the answer to another. */
  async idle (): Promise<void> {
    do {
      if (this.#running > 0) await new Promise<void>(resolve => this.once('idle', resolve))
      await new Promise<void>(resolve => timers.setImmediate(resolve))
    } while (this.#running > 0)
  }

  /** Begins no command any more; those under way come to their end. */
  stop (): void {
    this.#stopped = true
    this.#failure = new StoreUnavailableError('connection', 'Redis is not used any more: the application closes')
  }

  /** Ends timers, and our own connection. */
  close (): void {
    this.#breaker.shutdown()
    timers.clearInterval(this.#window)
    this.#retryIn(undefined)
    this.#connection.removeAllListeners()
    this.#connection.on('error', () => {})
    this.#connection.close()
  }

  /**
   * An error about one value or command is no failure of Redis: the breaker
   * does not see it, since it would end all other commands as well. An example
   * is a command on a key that another program has written.
   */
  async #send (command: Command): Promise<unknown> {
    try {
      return await this.#inTime(command(this.#connection.guardClient))
    } catch (error) {
      const { redact } = this.#connection
      const valueError = valueErrorOf(error, redact)
      if (valueError !== undefined) return new Refused(valueError)
      const failure = failureOf(error, redact)
      if (failure.kind === 'reply' || failure.kind === 'lost') return new Refused(failure)
      if (failure instanceof OutOfStepError) this.#connection.renew()
      // Set before the breaker sees it, so that `down` tells the reason.
      this.#failure = failure
      throw failure
    }
  }

  /**
   * Waits `commandTimeout` for an answer. This process itself may be held up
   * for longer, by a computation or by the machine: then the answer may be
   * there, and nobody has read it yet. So it reads once more before it gives up.
   */
  async #inTime<T> (answer: Promise<T>): Promise<T> {
    return await new Promise((resolve, reject) => {
      const { commandTimeout } = this.#options
      const giveUp = () => reject(new Error(`timed out after ${commandTimeout} ms`))
      const timer = timers.setTimeout(() => timers.setImmediate(giveUp), commandTimeout)
      answer.finally(() => timers.clearTimeout(timer)).then(resolve, reject)
    })
  }

  #fail (error: unknown): StoreUnavailableError {
    this.#failure = failureOf(error, this.#connection.redact)
    this.emit('failure', this.#failure)
    return this.#failure
  }

  #lost (): void {
    if (!this.#breaker.closed) return
    this.#fail(new Error('the connection was closed'))
    this.#open()
  }

  #open (): void {
    if (this.#breaker.isShutdown) return
    if (this.#isHalfOpen) this.#opened()
    else this.#breaker.open()
  }

  #opened (): void {
    this.#retryIn(this.#options.resetTimeout)
    this.emit('state', 'open')
  }

  /** @param ms  until the breaker is half-open; undefined: it is not to be */
  #retryIn (ms: number | undefined): void {
    this.#isHalfOpen = false
    timers.clearTimeout(this.#retry)
    if (ms === undefined) return
    this.#retry = timers.setTimeout(() => {
      this.#isHalfOpen = true
      this.emit('state', 'half-open')
      this.#probe()
    }, ms).unref()
  }

  #probe (): void {
    if (this.#probing || this.#breaker.closed) return
    // Still not connected: nothing to ask, and nothing new to tell.
    if (!this.#connection.ready) {
      this.#connection.lookAround().catch(() => {})
      return this.#open()
    }
    this.#probing = true
    let timer: NodeJS.Timeout
    const late = new Promise<never>((resolve, reject) => {
      const limitMs = this.#options.commandTimeout
      timer = timers.setTimeout(() => {
        reject(new Error(`the probe timed out after ${limitMs} ms`))
        this.#connection.renew()
      }, limitMs)
    })
    Promise.race([this.#ask(), late])
      .then(() => {
        if (this.#breaker.isShutdown) return
        // A node of a Cluster may have gone, or come, meanwhile: there is another probe when all of them are connected.
        if (this.#connection.ready) this.#breaker.close()
        else this.#open()
      }, error => {
        this.#fail(error)
        this.#open()
      })
      .finally(() => {
        timers.clearTimeout(timer)
        this.#probing = false
        this.emit('probed')
      })
  }

  async #ask (): Promise<void> {
    await this.#connection.lookAround()
    await probe.run(this.#connection.guardClient, [this.#options.probeKey], [])
  }
}

/** An answer of the breaker's action that stands for an error which is no failure of Redis. */
class Refused {
  readonly error: ValueError | StoreUnavailableError

  constructor (error: ValueError | StoreUnavailableError) {
    this.error = error
  }
}
