/**
 * The connection to Redis: one of our own, made with the options that a guard
 * needs, or the user's client as it is.
 */
import { EventEmitter } from 'node:events'
import { Cluster, Redis, type RedisOptions } from 'ioredis'
import type { RedisSettings } from '../redis-option.js'
import type { RedisClient } from './script.js'

export interface ConnectionTimes {
  /** ms */
  readonly connectTimeout: number
  /** ms */
  readonly commandTimeout: number
}

interface ConnectionEvents {
  ready: []
  /** the connection went, or could not be made */
  lost: []
  error: [error: Error]
}

/** One connection, and when it comes and goes. */
export class Connection extends EventEmitter<ConnectionEvents> {
  readonly client: RedisClient
  readonly #owned: boolean
  readonly #listeners: Readonly<Record<string, (error?: Error) => void>>
  readonly #watched = new WeakSet<Redis>()
  #wasReady = false

  constructor (settings: Exclude<RedisSettings, { kind: 'none' }>, times: ConnectionTimes) {
    super()
    this.#owned = settings.kind !== 'client'
    this.client = makeClient(settings, times)
    const lost = () => this.emit('lost')
    this.#listeners = {
      ready: () => this.#comeUp(),
      '+node': () => this.#watchNodes(),
      close: lost,
      end: lost,
      error: error => this.emit('error', error!)
    }
    for (const [event, listener] of Object.entries(this.#listeners)) this.client.on(event, listener)
  }

  /** Commands may be sent. Only then: on a user's client they could wait in a queue otherwise, and run much later. */
  get ready (): boolean {
    return this.client.status === 'ready' && this.#primaries().every(({ status }) => status === 'ready')
  }

  /** Starts connecting, where nobody has yet; failures come as events. */
  open (): void {
    if (this.client.status === 'wait') this.client.connect().catch(() => {})
  }

  /**
   * Gives up a connection that took commands and does not answer, and makes a
   * new one: it may be dead whatever TCP believes, and answers that are
   * outstanding on it would come before those to new commands. A user's client
   * stays as it is.
   */
  renew (): void {
    if (this.#owned && this.ready) this.client.disconnect(true)
  }

  #comeUp (): void {
    this.#watchNodes()
    if (!this.ready) return
    this.#wasReady = true
    this.emit('ready')
  }

  #goDown (): void {
    if (!this.#wasReady || this.ready) return
    this.#wasReady = false
    this.emit('lost')
  }

  #primaries (): readonly Redis[] {
    return this.client.isCluster ? (this.client as Cluster).nodes('master') : []
  }

  /**
   * ioredis connects to a node of a Cluster when its first command is due, and
   * that command fails for want of a connection. So all of them are connected
   * before the Cluster counts as ready; and while one is away it does not: a
   * Cluster of which a part answers would open and close the breaker for ever.
   */
  #watchNodes (): void {
    for (const node of this.#primaries()) {
      if (this.#watched.has(node)) continue
      this.#watched.add(node)
      node.on('ready', () => this.#comeUp())
      node.on('close', () => this.#goDown())
      if (node.status === 'wait') node.connect().catch(() => {})
    }
  }

  /** Ends our own connection at once; a user's client stays as it is. */
  close (): void {
    for (const [event, listener] of Object.entries(this.#listeners)) {
      if (!this.#owned || event !== 'error') this.client.off(event, listener)
    }
    if (this.#owned) this.client.disconnect()
  }
}

/**
 * What a guard needs of a connection it makes; see "ioredis" in README's
 * Design. A command fails rather than wait for a connection, and none is ever
 * sent a second time.
 */
function guardOptions ({ connectTimeout, commandTimeout }: ConnectionTimes) {
  return {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    connectTimeout,
    // For each command of the handshake, which connectTimeout does not cover: a server that accepts and says
    // nothing would else be waited for when it is well again. Other commands have the breaker's limit, which is shorter.
    commandTimeout: Math.max(commandTimeout * 2, 1000),
    // A connection that is given up is gone at once, also where nobody answers its goodbye.
    disconnectTimeout: 50,
    retryStrategy: delayBeforeRetry,
    // A primary that became a replica: connecting again finds the new one.
    reconnectOnError: (error: Error) => /\bREADONLY\b/.test(error.message)
  } satisfies RedisOptions
}

/** What no option may change. */
const alwaysOptions = { lazyConnect: true, stringNumbers: false }

function makeClient (settings: Exclude<RedisSettings, { kind: 'none' }>, times: ConnectionTimes): RedisClient {
  switch (settings.kind) {
    case 'client': return settings.client
    case 'server': return new Redis({ ...guardOptions(times), ...settings.options, ...alwaysOptions })
    case 'cluster': return new Cluster(settings.nodes, {
      enableOfflineQueue: false,
      clusterRetryStrategy: delayBeforeRetry,
      // It asks a node that may not be connected yet, and fails. Ours comes when all of them are: the breaker's probe.
      enableReadyCheck: false,
      // With a delay, ioredis sends commands again whose node went away: they may have run.
      retryDelayOnFailover: 0,
      retryDelayOnClusterDown: 0,
      slotsRefreshTimeout: times.connectTimeout,
      ...settings.options,
      lazyConnect: true,
      redisOptions: { ...guardOptions(times), ...settings.options.redisOptions, stringNumbers: false }
    })
  }
}

/** ms: doubling from 50 to 500, less up to half, so that instances do not come back in step. */
function delayBeforeRetry (attempt: number): number {
  return Math.min(500, 50 * 2 ** Math.min(attempt - 1, 10)) * (1 - Math.random() / 2)
}
