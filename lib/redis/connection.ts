/**
 * The connection to Redis: the guard's own, with the options that it needs, or
 * the user's client, unchanged.
 */
import { EventEmitter } from 'node:events'
import type { Cluster, Redis } from 'ioredis'
import { NoCredentialsError } from '../errors.js'
import type { RedisSettings } from '../settings/redis-option.js'
import { listen } from '../runtime/shared-listener.js'
import { timers } from '../runtime/timers.js'
import { type ConnectionTimes, makeClient } from './client.js'
import { Credentials } from './credentials.js'
import { failureOf } from './failure.js'
import { readingPrimaries } from './primary-reads.js'
import { type Redact, redactor, secretsOf } from './redaction.js'
import { isCluster, type RedisClient } from './script.js'
import { delayBeforeRetry } from './user-functions.js'

interface ConnectionEvents {
  ready: []
  /** the connection was lost, or could not be made */
  lost: []
  error: [error: Error]
}

/** One connection. Emits when it becomes ready, is lost, or has an error. */
export class Connection extends EventEmitter<ConnectionEvents> {
  readonly client: RedisClient
  /** The client for the guard's commands: it always reads from primaries, whatever the user's `scaleReads` says. */
  readonly guardClient: RedisClient
  /** Removes the users and passwords of this connection from a text. */
  readonly redact: Redact
  /** The reason to show until the first attempt to connect has ended. */
  readonly firstReason: string
  readonly #owned: boolean
  readonly #credentials: Credentials | undefined
  readonly #stopListening: (() => void)[] = []
  /** nodes of a Cluster with our listeners, and the functions that remove these */
  readonly #watched = new Map<Redis, readonly (() => void)[]>()
  #wasReady = false
  /** Redis refused to select the database, so the connection is in database 0 */
  #isInWrongDatabase = false
  /** the last error of a Cluster's node that a user can fix; the Cluster's own error does not name it */
  #nodeError: Error | undefined
  /** whether the client has closed a connection since it last began to connect */
  #wasClosed = false
  #restart: NodeJS.Timeout | undefined

  constructor (settings: Exclude<RedisSettings, { kind: 'none' }>, times: ConnectionTimes) {
    super()
    this.#owned = settings.kind !== 'client'
    this.#credentials = credentialsOf(settings, times)
    this.redact = redactor(() => [...secretsOf(settings), ...this.#credentials?.secrets ?? []])
    // ioredis waits with a global timer, which a test may fake. Our timer fires 1 ms later, and normally has no effect.
    const onRetry = (delayMs: number) => this.#connectIn(delayMs + 1, 'reconnecting')
    this.client = makeClient(settings, { times, credentials: this.#credentials, onRetry })
    this.guardClient = readingPrimaries(this.client)
    this.firstReason = firstReasonOf(settings)
    const lost = () => this.emit('lost')
    const listeners: Readonly<Record<string, (error: Error) => void>> = {
      connecting: () => { this.#wasClosed = false },
      ready: () => this.#isInWrongDatabase ? this.#reconnect() : this.#reportReady(),
      '+node': () => this.#watchNodes(),
      'node error': error => this.#reportNode(error),
      close: () => {
        this.#wasClosed = true
        lost()
      },
      end: () => {
        lost()
        this.#startAgain()
      },
      error: error => this.#report(error)
    }
    for (const [event, listener] of Object.entries(listeners)) {
      const stop = listen(this.client, event, listener)
      // Our own client keeps its error listener: it may still fail while it closes, and nothing else listens.
      if (!this.#owned || event !== 'error') this.#stopListening.push(stop)
    }
  }

  /** Whether commands may be sent. Otherwise a user's client could queue them, and run them much later. */
  get ready (): boolean {
    const { client } = this
    // This runs several times for each hit, so a single server, which most users have, needs no list of nodes.
    if (client.status !== 'ready' || !isCluster(client)) return client.status === 'ready'
    return client.nodes('master').every(({ status }) => status === 'ready')
  }

  /** Whether this is a user's client that has ended. Only the user can connect it again. */
  get isEnded (): boolean {
    return !this.#owned && this.client.status === 'end'
  }

  /** Connects now, unless the client already does. A delay of our own client is cut short. Failures come as events. */
  open (): void {
    const { client } = this
    const waits = this.#owned && client.status === 'reconnecting'
    // Cancels the delay; otherwise ioredis would connect a second time.
    if (waits) client.disconnect()
    if (waits || client.status === 'wait') client.connect().catch(() => {})
  }

  /**
   * Asks a Cluster which node has which slots. ioredis asks when it loses a node,
   * which is too early to learn the node's successor, and when a command has
   * failed. That command would be the probe, and the next probe comes half a
   * second later.
   */
  async refreshSlots (): Promise<void> {
    const { client } = this
    if (!isCluster(client) || client.status !== 'ready') return
    await new Promise<void>(resolve => client.refreshSlotsCache(() => resolve()))
    this.#reportReady()
  }

  /**
   * Replaces a connection that took commands but does not answer. It may be dead
   * although TCP has not noticed. And on the old connection, outstanding answers
   * would come before those to new commands. A user's client stays as it is.
   */
  renew (): void {
    if (this.#owned && this.ready) this.client.disconnect(true)
  }

  /**
   * Asks for new credentials, and authenticates each open connection with them.
   * No connection is dropped. New connections use the new credentials too.
   *
   * @throws NoCredentialsError  if there is no credentials function
   * @throws StoreUnavailableError  of kind `auth`, if the function does not answer, or Redis refuses the credentials
   */
  async rotate (): Promise<void> {
    const credentials = this.#credentials
    if (credentials === undefined) throw new NoCredentialsError()
    await credentials.renew()
    const { username, password } = credentials
    const nodes = isCluster(this.client) ? this.client.nodes() : [this.client]
    await Promise.all(nodes.map(async node => {
      // `connect` is the state of a handshake, which may have sent the old credentials.
      const settled = node.status === 'ready'
      if (!settled && node.status !== 'connect') return
      await node.auth(username, password).catch((error: unknown) => {
        const failure = failureOf(error, this.redact)
        // A connection that is lost meanwhile, or does not become ready, asks for credentials when it reconnects.
        if (settled && (failure.kind === 'auth' || failure.kind === 'reply')) throw failure
      })
    }))
  }

  /** Reports a node's error that a user can fix. The Cluster's own error says only that no node can be used. */
  #reportNode (error: Error): void {
    // If a connection fails, ioredis reports the reason first, and then that it is closed.
    if (error.message === 'Connection is closed.') return
    const { kind } = failureOf(error)
    this.#nodeError = kind === 'auth' || kind === 'tls' ? error : undefined
    if (this.#nodeError !== undefined) this.emit('error', error)
  }

  #report (error: Error): void {
    const { command } = error as { command?: { name: string } }
    if (this.#owned && command?.name === 'select') this.#isInWrongDatabase = true
    this.emit('error', this.#nodeError ?? error)
  }

  /**
   * Restarts our client if it ended because no socket could be made, for example
   * with a certificate that does not fit its key yet. ioredis ends for good then.
   * If `close` or the user's retryStrategy ended the client, it stays ended.
   */
  #startAgain (): void {
    if (!this.#owned || this.#wasClosed) return
    this.#connectIn(delayBeforeRetry(10), 'end')
  }

  /** Connects again after a delay, if the client is still in that state then. */
  #connectIn (ms: number, state: 'reconnecting' | 'end'): void {
    timers.clearTimeout(this.#restart)
    this.#restart = timers.setTimeout(() => {
      if (this.client.status === state) this.client.connect().catch(() => {})
    }, ms)
  }

  /**
   * Reconnects to select the right database. ioredis would continue in database 0, which may belong to another
   * application.
   */
  #reconnect (): void {
    this.#isInWrongDatabase = false
    this.client.disconnect(true)
  }

  #reportReady (): void {
    this.#watchNodes()
    if (!this.ready) return
    this.#wasReady = true
    this.#nodeError = undefined
    this.emit('ready')
  }

  #reportLost (): void {
    if (!this.#wasReady || this.ready) return
    this.#wasReady = false
    this.emit('lost')
  }

  #primaries (): readonly Redis[] {
    return this.client.isCluster ? (this.client as Cluster).nodes('master') : []
  }

  /**
   * Connects to all primaries of a Cluster, and listens to them. By itself,
   * ioredis connects to a node only for its first command, and that command fails.
   * The Cluster counts as ready only while all primaries are connected: with a
   * part of them, the breaker would open and close for ever. Replicas that the
   * application reads from are connected too, but not waited for.
   */
  #watchNodes (): void {
    for (const node of this.#primaries()) {
      if (this.#watched.has(node)) continue
      this.#watched.set(node, [
        listen(node, 'ready', () => this.#reportReady()),
        listen(node, 'close', () => this.#reportLost()),
        // The Cluster has dropped the node. If the node comes back, it is another object.
        listen(node, 'end', () => this.#unwatch(node))
      ])
      if (node.status === 'wait') node.connect().catch(() => {})
    }
    for (const node of this.#replicasToRead()) if (node.status === 'wait') node.connect().catch(() => {})
  }

  /** Replicas that the application reads from over our client. Without a connection its first read would fail. */
  #replicasToRead (): readonly Redis[] {
    return this.#owned && this.client !== this.guardClient ? (this.client as Cluster).nodes('slave') : []
  }

  #unwatch (node: Redis): void {
    this.#watched.get(node)?.forEach(stop => stop())
    this.#watched.delete(node)
  }

  /** Ends our own connection at once. A user's client stays as it is. */
  close (): void {
    timers.clearTimeout(this.#restart)
    this.#stopListening.forEach(stop => stop())
    for (const node of [...this.#watched.keys()]) this.#unwatch(node)
    if (this.#owned) this.client.disconnect()
  }
}

function credentialsOf (
  settings: Exclude<RedisSettings, { kind: 'none' }>, { connectTimeout }: ConnectionTimes
): Credentials | undefined {
  if (settings.kind === 'client' || settings.credentials === undefined) return undefined
  return new Credentials(settings.credentials, connectTimeout)
}

function firstReasonOf (settings: Exclude<RedisSettings, { kind: 'none' }>): string {
  if (settings.kind === 'cluster') return 'no answer from any node yet'
  if (settings.kind === 'server') {
    return `no answer from ${settings.options.sentinels ? 'the Sentinels' : 'the server'} yet`
  }
  const { status } = settings.client
  return status === 'end'
    ? 'the client was ended before, and does not reconnect by itself'
    : `the client is not connected yet (${status})`
}
