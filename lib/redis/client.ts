/**
 * Makes an ioredis client with the options that the guard needs, and works
 * around some gaps of ioredis.
 */
import { Cluster, type ClusterNode, type ClusterOptions, Redis, type RedisOptions } from 'ioredis'
import type { RedisSettings } from '../settings/redis-option.js'
import { connectorFor } from './connector.js'
import type { Credentials } from './credentials.js'
import type { RedisClient } from './script.js'
import { endAtUnasked } from './unasked-replies.js'
import { delayBeforeRetry, reconnectOnError, withSafeFunctions } from './user-functions.js'

export interface ConnectionTimes {
  /** ms */
  readonly connectTimeout: number
  /** ms */
  readonly commandTimeout: number
}

/** The parts of a client, in addition to its settings. */
export interface ClientParts {
  readonly times: ConnectionTimes
  /** undefined: user and password are in the settings, if there are any */
  readonly credentials: Credentials | undefined
  /** called when a connection was lost, with the delay after which ioredis reconnects */
  readonly onRetry: (delayMs: number) => void
}

export function makeClient (settings: Exclude<RedisSettings, { kind: 'none' }>, parts: ClientParts): RedisClient {
  switch (settings.kind) {
    case 'client': return settings.client
    case 'server': return makeRedis(settings, parts)
    case 'cluster': return makeCluster(settings, parts)
  }
}

function makeRedis (
  { options }: Extract<RedisSettings, { kind: 'server' }>, { times, credentials, onRetry }: ClientParts
): Redis {
  const own = withConnector({
    ...guardOptions(times), ...options, ...alwaysOptions, ...credentials?.optionsFor(options)
  })
  const redis = new Redis({ ...own, retryStrategy: watched(own.retryStrategy, onRetry) })
  endAtUnasked(redis)
  return redis
}

/**
 * The options of the guard's own connection; docs/design.md says why. Without a
 * connection a command fails at once, and no command is ever sent a second time.
 */
function guardOptions ({ connectTimeout, commandTimeout }: ConnectionTimes) {
  const handshakeTimeout = Math.max(commandTimeout * 2, 1000)
  return {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    connectTimeout,
    // For each command of the handshake, which connectTimeout does not cover. Otherwise the client would wait for a
    // server that accepted and said nothing, even after the server works again. The breaker limits other commands to
    // a shorter time.
    commandTimeout: handshakeTimeout,
    // Without it, a Sentinel that accepts but does not answer would keep the next one from being asked.
    sentinelCommandTimeout: handshakeTimeout,
    // A connection that is given up ends at once, even if the server does not answer the goodbye.
    disconnectTimeout: 50,
    retryStrategy: delayBeforeRetry,
    // The default of ioredis waits for up to a second, even after the connection was closed.
    sentinelRetryStrategy: delayBeforeRetry,
    // Reconnects if the primary became a replica, to find the new primary; and if Redis asks for authentication on an
    // open connection, to authenticate again.
    reconnectOnError,
    // Client info would send two more commands at each connect, which a user with few rights may not send.
    disableClientInfo: true,
    // With `tls` and `sentinels`: without this ioredis ignores `tls`, and sends the password in clear text.
    enableTLSForSentinelMode: true
  } satisfies RedisOptions
}

/** Options that the user cannot change. */
const alwaysOptions = { lazyConnect: true, stringNumbers: false }

function makeCluster (
  { nodes, options }: Extract<RedisSettings, { kind: 'cluster' }>, { times, credentials, onRetry }: ClientParts
): Cluster {
  const own: ClusterOptions = {
    enableOfflineQueue: false,
    clusterRetryStrategy: delayBeforeRetry,
    // The ready check fails if it asks a node that is not connected yet. The breaker's probe waits for all nodes.
    enableReadyCheck: false,
    // With a delay, ioredis would resend commands whose node went away, although they may have run.
    retryDelayOnFailover: 0,
    retryDelayOnClusterDown: 0,
    // The connection of the refresh may ask for credentials first, which takes at most connectTimeout too.
    slotsRefreshTimeout: times.connectTimeout * (credentials === undefined ? 1 : 2),
    ...(isTls(nodes, options) ? { dnsLookup: keepName } : {}),
    ...withSafeFunctions(options),
    lazyConnect: true,
    redisOptions: withConnector({
      ...guardOptions(times), ...options.redisOptions, stringNumbers: false, ...credentials?.optionsFor({})
    })
  }
  const cluster = new Cluster(nodes, { ...own, clusterRetryStrategy: watched(own.clusterRetryStrategy, onRetry) })
  cluster.on('+node', (node: Redis) => {
    expectAskingToFail(node)
    endAtUnasked(node)
  })
  return cluster
}

function isTls (nodes: readonly ClusterNode[], { redisOptions }: ClusterOptions): boolean {
  return [redisOptions, ...nodes].some(options => Object(options).tls !== undefined)
}

/**
 * Keeps host names. By default ioredis connects to the address of a name; then TLS could neither check the certificate
 * nor name the server.
 */
const keepName: NonNullable<ClusterOptions['dnsLookup']> = (name, done) => done(null, name)

/**
 * Handles rejections of ASKING. ioredis sends ASKING before a command for a slot
 * that is moving to the node, and ignores the answer. If none comes, or the user
 * may not send ASKING, the unhandled rejection would end the process. The
 * command itself still fails or succeeds.
 */
function expectAskingToFail (node: Redis): void {
  const asking = node.asking.bind(node)
  node.asking = (...args) => {
    const answer = asking(...args)
    answer.catch(() => {})
    return answer
  }
}

function withConnector (options: RedisOptions): RedisOptions {
  return { ...withSafeFunctions(options), Connector: connectorFor(options) }
}

type RetryStrategy = NonNullable<ClusterOptions['clusterRetryStrategy']>

/** The same strategy, which also reports each delay. Without a delay, ioredis does not reconnect. */
function watched (strategy: RetryStrategy | null | undefined, onRetry: (delayMs: number) => void): typeof strategy {
  if (typeof strategy !== 'function') return strategy
  return (attempt, reason) => {
    const delayMs = strategy(attempt, reason)
    if (typeof delayMs === 'number') onRetry(delayMs)
    return delayMs
  }
}
