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

export class Connection extends EventEmitter<ConnectionEvents> {
  readonly client: RedisClient
  readonly #owned: boolean
  readonly #listeners: Readonly<Record<string, (error?: Error) => void>>

  constructor (settings: Exclude<RedisSettings, { kind: 'none' }>, times: ConnectionTimes) {
    super()
    this.#owned = settings.kind !== 'client'
    this.client = makeClient(settings, times)
    const lost = () => this.emit('lost')
    this.#listeners = {
      ready: () => this.emit('ready'),
      close: lost,
      end: lost,
      error: error => this.emit('error', error!)
    }
    for (const [event, listener] of Object.entries(this.#listeners)) this.client.on(event, listener)
  }

  /** Commands may be sent. Only then: on a user's client they could wait in a queue otherwise, and run much later. */
  get ready (): boolean {
    return this.client.status === 'ready'
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
    // Also covers the handshake, which connectTimeout does not. The breaker's own limit comes first.
    commandTimeout: Math.max(commandTimeout * 2, 1000),
    // A connection that is given up is gone at once, also where nobody answers its goodbye.
    disconnectTimeout: 50,
    retryStrategy: delayBeforeRetry,
    // A primary that became a replica: connecting again finds the new one.
    reconnectOnError: (error: Error) => error.message.startsWith('READONLY')
  } satisfies RedisOptions
}

function makeClient (settings: Exclude<RedisSettings, { kind: 'none' }>, times: ConnectionTimes): RedisClient {
  switch (settings.kind) {
    case 'client': return settings.client
    case 'server': return new Redis({ ...guardOptions(times), ...settings.options, lazyConnect: true })
    case 'cluster': return new Cluster(settings.nodes, {
      enableOfflineQueue: false,
      clusterRetryStrategy: delayBeforeRetry,
      slotsRefreshTimeout: times.connectTimeout,
      ...settings.options,
      lazyConnect: true,
      redisOptions: { ...guardOptions(times), ...settings.options.redisOptions }
    })
  }
}

/** ms: doubling from 50 to 500, less up to half, so that instances do not come back in step. */
function delayBeforeRetry (attempt: number): number {
  return Math.min(500, 50 * 2 ** Math.min(attempt - 1, 10)) * (1 - Math.random() / 2)
}
