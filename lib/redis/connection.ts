/**
 * The connection to Redis: one of our own, made with the options that a guard
 * needs, or the user's client as it is.
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
  /** the connection went, or could not be made */
  lost: []
  error: [error: Error]
}

/** One connection, and when it comes and goes. */
export class Connection extends EventEmitter<ConnectionEvents> {
  readonly client: RedisClient
  /** The same for commands of the guard: it reads from primaries, whatever the user has chosen for the client. */
  readonly guardClient: RedisClient
  /** Takes the users and passwords of this connection out of a text. */
  readonly redact: Redact
  /** Why no command may be sent before the first attempt to connect has ended. */
  readonly firstReason: string
  readonly #owned: boolean
  readonly #credentials: Credentials | undefined
  readonly #stopListening: (() => void)[] = []
  /** nodes of a Cluster that are listened to, and what ends that */
  readonly #watched = new Map<Redis, readonly (() => void)[]>()
  #wasReady = false
  /** its database was refused, so it is in database 0 */
  #isElsewhere = false
  /** what a node of the Cluster said last, where a user can mend it: the Cluster itself does not know */
  #nodeError: Error | undefined
  /** the client has given up a connection since it began to make one */
  #wasClosed = false
  #restart: NodeJS.Timeout | undefined

  constructor (settings: Exclude<RedisSettings, { kind: 'none' }>, times: ConnectionTimes) {
    super()
    this.#owned = settings.kind !== 'client'
    this.#credentials = credentialsOf(settings, times)
    this.redact = redactor(() => [...secretsOf(settings), ...this.#credentials?.secrets ?? []])
    // ioredis waits with a global timer, which a test may fake. Ours fires after it, and then has nothing to do.
    const onRetry = (delayMs: number) => this.#connectIn(delayMs + 1, 'reconnecting')
    this.client = makeClient(settings, { times, credentials: this.#credentials, onRetry })
    this.guardClient = readingPrimaries(this.client)
    this.firstReason = firstReasonOf(settings)
    const lost = () => this.emit('lost')
    const listeners: Readonly<Record<string, (error: Error) => void>> = {
      connecting: () => { this.#wasClosed = false },
      ready: () => this.#isElsewhere ? this.#giveUp() : this.#comeUp(),
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
      // What is ours may still fail while it closes, and nobody else listens.
      if (!this.#owned || event !== 'error') this.#stopListening.push(stop)
    }
  }

  /** Commands may be sent. Only then: on a user's client they could wait in a queue otherwise, and run much later. */
  get ready (): boolean {
    const { client } = this
    // Asked several times for each hit, so that the one server of most users costs no list.
    if (client.status !== 'ready' || !isCluster(client)) return client.status === 'ready'
    return client.nodes('master').every(({ status }) => status === 'ready')
  }

  /** It is a user's client that has ended: nobody but the user can connect it again. */
  get isEnded (): boolean {
    return !this.#owned && this.client.status === 'end'
  }

  /** Connects now, where nobody has yet, or our own client would only after a delay; failures come as events. */
  open (): void {
    const { client } = this
    const waits = this.#owned && client.status === 'reconnecting'
    // Ends the delay: otherwise ioredis would connect a second time.
    if (waits) client.disconnect()
    if (waits || client.status === 'wait') client.connect().catch(() => {})
  }

  /**
   * Asks a Cluster who has which slots. ioredis does when it loses a node, too
   * early to hear of the one that takes its place, and then when a command has
   * failed: the probe would be that command, and the next one half a second later.
   */
  async lookAround (): Promise<void> {
    const { client } = this
    if (!isCluster(client) || client.status !== 'ready') return
    await new Promise<void>(resolve => client.refreshSlotsCache(() => resolve()))
    this.#comeUp()
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

  /**
   * Asks for credentials, and authenticates anew with them where there is a
   * connection. None is dropped; those that are made from now on use them too.
   *
   * @throws NoCredentialsError  when there is nobody to ask
   * @throws StoreUnavailableError  of kind `auth` when there was no answer, or Redis refuses them
   */
  async rotate (): Promise<void> {
    const credentials = this.#credentials
    if (credentials === undefined) throw new NoCredentialsError()
    await credentials.renew()
    const { username, password } = credentials
    const nodes = isCluster(this.client) ? this.client.nodes() : [this.client]
    await Promise.all(nodes.map(async node => {
      // During a handshake: it may have sent the old ones.
      const settled = node.status === 'ready'
      if (!settled && node.status !== 'connect') return
      await node.auth(username, password).catch((error: unknown) => {
        const failure = failureOf(error, this.redact)
        // A connection that goes meanwhile, or that does not come up, asks when it is made again.
        if (settled && (failure.kind === 'auth' || failure.kind === 'reply')) throw failure
      })
    }))
  }

  /** A Cluster says only that none of its nodes is of use; what a user can mend has its reason with the node. */
  #reportNode (error: Error): void {
    // Of a connection that fails ioredis tells why, and then that it is closed.
    if (error.message === 'Connection is closed.') return
    const { kind } = failureOf(error)
    this.#nodeError = kind === 'auth' || kind === 'tls' ? error : undefined
    if (this.#nodeError !== undefined) this.emit('error', error)
  }

  #report (error: Error): void {
    const { command } = error as { command?: { name: string } }
    if (this.#owned && command?.name === 'select') this.#isElsewhere = true
    this.emit('error', this.#nodeError ?? error)
  }

  /**
   * A socket that cannot even be made, such as with a certificate that does
   * not fit its key yet, ends a client of ioredis for good. Whoever else ends
   * ours, close or a retryStrategy of the user's, means it.
   */
  #startAgain (): void {
    if (!this.#owned || this.#wasClosed) return
    this.#connectIn(delayBeforeRetry(10), 'end')
  }

  /** Connects again, if the client is still in the state by then. */
  #connectIn (ms: number, state: 'reconnecting' | 'end'): void {
    timers.clearTimeout(this.#restart)
    this.#restart = timers.setTimeout(() => {
      if (this.client.status === state) this.client.connect().catch(() => {})
    }, ms)
  }

  /**
   * ioredis would go on in a database that may be somebody else's. The next connection asks for the right one again.
   */
  #giveUp (): void {
    this.#isElsewhere = false
    this.client.disconnect(true)
  }

  #comeUp (): void {
    this.#watchNodes()
    if (!this.ready) return
    this.#wasReady = true
    this.#nodeError = undefined
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
   * Replicas, where the application reads from them, are not waited for.
   */
  #watchNodes (): void {
    for (const node of this.#primaries()) {
      if (this.#watched.has(node)) continue
      this.#watched.set(node, [
        listen(node, 'ready', () => this.#comeUp()),
        listen(node, 'close', () => this.#goDown()),
        // The Cluster has dropped it; one that comes back is another object.
        listen(node, 'end', () => this.#unwatch(node))
      ])
      if (node.status === 'wait') node.connect().catch(() => {})
    }
    for (const node of this.#replicasToRead()) if (node.status === 'wait') node.connect().catch(() => {})
  }

  /** Where the application reads from them by our connection: its first read would fail for want of a connection. */
  #replicasToRead (): readonly Redis[] {
    return this.#owned && this.client !== this.guardClient ? (this.client as Cluster).nodes('slave') : []
  }

  #unwatch (node: Redis): void {
    this.#watched.get(node)?.forEach(stop => stop())
    this.#watched.delete(node)
  }

  /** Ends our own connection at once; a user's client stays as it is. */
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
    ? 'the client was ended before, and does not connect by itself'
    : `the client is not connected yet (${status})`
}
