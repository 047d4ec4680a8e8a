/**
 * Redis behind a circuit breaker. Every round trip has a time limit. The first
 * failure opens the breaker, because a guard that tries several times keeps each
 * client waiting. While the breaker is open, only a probe is sent: one cheap
 * write after each `resetTimeout`, and whenever the connection is back. The first
 * probe that succeeds closes the breaker. A request is never the probe.
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
  /** ms after which a command has failed */
  readonly commandTimeout: number
  /** ms between two probes */
  readonly resetTimeout: number
  /** the key in Redis that the probe writes */
  readonly probeKey: string
}

export const breakerStates = ['closed', 'open', 'half-open'] as const
export type BreakerState = typeof breakerStates[number]

interface GuardedRedisEvents {
  /** the breaker closed: Redis may be used */
  up: []
  /** the breaker opened: Redis may not be used */
  down: [failure: StoreUnavailableError]
  state: [state: BreakerState]
  /** a probe ended, with or without success */
  probed: []
  /** the last command under way has ended */
  idle: []
  roundTrip: [seconds: number]
  failure: [failure: StoreUnavailableError]
}

type Command = (client: RedisClient) => Promise<unknown>

/** The longest time of a timer in Node, some 25 days. */
const longestTimerMs = 2 ** 31 - 1

/** Tries what a decision needs: scripts, Redis' clock, and a write, which a full Redis and a replica refuse. */
const probe = new Script(scripts.probe)

/** The connection and the breaker before it. Emits their changes and failures. */
export class GuardedRedis extends EventEmitter<GuardedRedisEvents> {
  readonly #connection: Connection
  readonly #options: BreakerOptions
  readonly #breaker: CircuitBreaker<[Command], unknown>
  readonly #window: NodeJS.Timeout
  #failure: StoreUnavailableError
  #probing = false
  /** the breaker is open, and the next probe is due or under way */
  #isHalfOpen = false
  /** timer until the next probe */
  #retry: NodeJS.Timeout | undefined
  /** number of commands under way */
  #running = 0
  #stopped = false

  constructor (connection: Connection, options: BreakerOptions) {
    super()
    this.#connection = connection
    this.#options = options
    this.#failure = failureOf(new Error(connection.firstReason))
    const rotateBucketController = new EventEmitter()
    this.#breaker = new CircuitBreaker((command: Command) => this.#send(command), {
      // #inTime limits the time instead: opossum's timeout cannot read once more before it gives up.
      timeout: false,
      // Opossum uses global timers, which a test may fake. So our timers half-open the breaker and rotate its window.
      resetTimeout: longestTimerMs,
      rotateBucketController,
      errorThresholdPercentage: 0,
      // The first failure decides, so earlier ones need not be remembered.
      rollingCountBuckets: 1,
      rollingPercentilesEnabled: false,
      enableSnapshots: false
    })
    this.#window = timers.setInterval(() => { rotateBucketController.emit('rotate') }, 1000).unref()
    this.#breaker.open()
    // Bound here, outside of any request: the timers that they start outlive the request whose command failed.
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

  /** The last reason why Redis could not be used. */
  get failure (): StoreUnavailableError {
    return this.#failure
  }

  /** ms */
  get commandTimeout (): number {
    return this.#options.commandTimeout
  }

  /** Connects, and waits at most `withinMs` until Redis can be used or the first attempt has failed. */
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
   * Runs a command: one round trip.
   *
   * @throws StoreUnavailableError  if Redis may not be used, failed, or did not
   *   answer within `commandTimeout`; the command may still have run
   * @throws ValueError  if Redis works, but the value is not one that the command can use
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
    if (answer instanceof ReturnedError) {
      if (answer.error instanceof StoreUnavailableError) this.emit('failure', answer.error)
      throw answer.error
    }
    return answer as T
  }

  /**
   * Turns any error of `run` into a failure of Redis, for callers that do not tell errors apart. An error that is none
   * yet is also reported as a failure.
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

  /** Resolves when no command is under way, including commands that are sent on the answer to another. */
  async idle (): Promise<void> {
    do {
      if (this.#running > 0) await new Promise<void>(resolve => this.once('idle', resolve))
      await new Promise<void>(resolve => timers.setImmediate(resolve))
    } while (this.#running > 0)
  }

  /** Refuses all further commands. Those under way still end. */
  stop (): void {
    this.#stopped = true
    this.#failure = new StoreUnavailableError('connection', 'Redis is no longer used: the application is closing')
  }

  /** Ends the timers, and the connection if it is our own. */
  close (): void {
    this.#breaker.shutdown()
    timers.clearInterval(this.#window)
    this.#retryIn(undefined)
    this.#connection.removeAllListeners()
    this.#connection.on('error', () => {})
    this.#connection.close()
  }

  /**
   * The action of the breaker. An error about one value or command, such as one
   * on a key that another program has written, is not a failure of Redis. So it is
   * returned, not thrown: the breaker would refuse all other commands too.
   */
  async #send (command: Command): Promise<unknown> {
    try {
      return await this.#inTime(command(this.#connection.guardClient))
    } catch (error) {
      const { redact } = this.#connection
      const valueError = valueErrorOf(error, redact)
      if (valueError !== undefined) return new ReturnedError(valueError)
      const failure = failureOf(error, redact)
      if (failure.kind === 'reply' || failure.kind === 'lost') return new ReturnedError(failure)
      if (failure instanceof OutOfStepError) this.#connection.renew()
      // Set before the breaker opens, so that `down` carries this reason.
      this.#failure = failure
      throw failure
    }
  }

  /**
   * Waits `commandTimeout` for an answer. A computation or the machine may block
   * this process for longer. Then the answer may have arrived but not been read,
   * so the event loop reads once more before the command is given up.
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

  /** Schedules the next probe. @param ms  delay; undefined: no probe */
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
    // Still not connected: no probe can be sent, and there is no new failure to report.
    if (!this.#connection.ready) {
      this.#connection.refreshSlots().catch(() => {})
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
        // A node of a Cluster may have gone or come meanwhile. Another probe follows when all nodes are connected.
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
    await this.#connection.refreshSlots()
    await probe.run(this.#connection.guardClient, [this.#options.probeKey], [])
  }
}

/** An error that the breaker's action returns, since it is not a failure of Redis. */
class ReturnedError {
  readonly error: ValueError | StoreUnavailableError

  constructor (error: ValueError | StoreUnavailableError) {
    this.error = error
  }
}
