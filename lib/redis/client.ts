/**
 * How a client of ioredis is made for a guard: the options that it needs, and
 * what ioredis leaves undone.
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

/** What a client is made with, besides its settings. */
export interface ClientParts {
  readonly times: ConnectionTimes
  /** undefined: those of the settings are used, if there are any */
  readonly credentials: Credentials | undefined
  /** called when a connection has gone, with the ms after which ioredis makes another one */
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
 * What a guard needs of a connection it makes; see "ioredis" in README's
 * Design. A command fails rather than wait for a connection, and none is ever
 * sent a second time.
 */
function guardOptions ({ connectTimeout, commandTimeout }: ConnectionTimes) {
  const handshakeTimeout = Math.max(commandTimeout * 2, 1000)
  return {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    connectTimeout,
    // For each command of the handshake, which connectTimeout does not cover: a server that accepts and says
    // nothing would else be waited for when it is well again. Other commands have the shorter limit of
    // the breaker.
    commandTimeout: handshakeTimeout,
    // Without it the next Sentinel would never be asked where one accepts and does not answer.
    sentinelCommandTimeout: handshakeTimeout,
    // A connection that is given up is gone at once, also where nobody answers its goodbye.
    disconnectTimeout: 50,
    retryStrategy: delayBeforeRetry,
    // ioredis' own waits for up to a second, also once the connection is closed.
    sentinelRetryStrategy: delayBeforeRetry,
    // A primary that became a replica: connecting again finds the new one. And a connection that Redis no longer
    // knows: connecting again tells it who we are.
    reconnectOnError,
    // Two more commands at each connect, which a user with few rights may not send.
    disableClientInfo: true,
    // Where `tls` is given beside `sentinels`: without this ioredis forgets it, and sends the password as it is.
    enableTLSForSentinelMode: true
  } satisfies RedisOptions
}

/** What no option may change. */
const alwaysOptions = { lazyConnect: true, stringNumbers: false }

function makeCluster (
  { nodes, options }: Extract<RedisSettings, { kind: 'cluster' }>, { times, credentials, onRetry }: ClientParts
): Cluster {
  const own: ClusterOptions = {
    enableOfflineQueue: false,
    clusterRetryStrategy: delayBeforeRetry,
    // It asks a node that may not be connected yet, and fails. Ours comes when all of them are: the breaker's probe.
    enableReadyCheck: false,
    // With a delay, ioredis sends commands again whose node went away: they may have run.
    retryDelayOnFailover: 0,
    retryDelayOnClusterDown: 0,
    // Its connection asks for credentials first, which has a limit of its own.
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
 * ioredis connects to the addresses of a name, so that neither a certificate could be checked, nor a server be named.
 */
const keepName: NonNullable<ClusterOptions['dnsLookup']> = (name, done) => done(null, name)

/**
 * ioredis sends ASKING before a command for a slot that is on its way to the
 * node, and does not look at the answer: where there is none, or the user may
 * not, a rejection that nobody handles would end the process. The command
 * itself fails as well, or is answered.
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

/** The same strategy, whose delays are heard of; without one, ioredis makes no new connection. */
function watched (strategy: RetryStrategy | null | undefined, onRetry: (delayMs: number) => void): typeof strategy {
  if (typeof strategy !== 'function') return strategy
  return (attempt, reason) => {
    const delayMs = strategy(attempt, reason)
    if (typeof delayMs === 'number') onRetry(delayMs)
    return delayMs
  }
}
