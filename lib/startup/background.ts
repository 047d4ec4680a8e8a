/** The work that a registration does without being asked: sweeping memory, and following changes in Redis. */
import type { FastifyInstance } from 'fastify'
import { StoreUnavailableError } from '../errors.js'
import { BlockListFollower } from '../outage/block-replica.js'
import { infoOfPrimaries } from '../redis/info.js'
import { timers } from '../runtime/timers.js'
import type { Parts } from './assembly.js'
import { MemoryWatch } from './memory-watch.js'
import type { RedisParts } from './stores.js'

/** Time between two removals of expired counters, values and blocks from memory. */
const sweepIntervalMs = 30_000

export interface Background {
  /** undefined: no Redis is configured */
  readonly ofRedis: BackgroundOfRedis | undefined
  /** ends everything except the memory watch */
  stop (): void
}

/** The background work that `connect` starts. */
export interface BackgroundOfRedis {
  readonly redis: RedisParts
  readonly follower: BlockListFollower
  /** to be closed after Redis: until then Redis may come back, which starts it */
  readonly memoryWatch: MemoryWatch
}

export function startBackground (fastify: FastifyInstance, parts: Parts): Background {
  const { memory, redis, now } = parts
  const sweep = timers.setInterval(() => {
    memory.sweep()
    redis?.shares.sweep()
    redis?.journal.sweep(now())
  }, sweepIntervalMs).unref()
  const limitSync = syncLimits(fastify, parts)
  const ofRedis = redis && { redis, follower: makeFollower(redis, parts), memoryWatch: makeMemoryWatch(redis, parts) }
  return {
    ofRedis,
    stop () {
      timers.clearInterval(sweep)
      timers.clearInterval(limitSync)
      ofRedis?.follower.close()
    }
  }
}

/** Adopts limits that were set at run time: once when the application is ready, then from Redis at every interval. */
function syncLimits (
  fastify: FastifyInstance, { settings, redis, limitControl, log }: Parts
): NodeJS.Timeout | undefined {
  const usesRedis = () => redis?.availability.usesRedis === true
  let isFailing = false
  const sync = async () => {
    try {
      await limitControl.sync(usesRedis)
      isFailing = false
    } catch (error) {
      // An outage has log lines of its own.
      if (!usesRedis()) return
      if (!isFailing) log.warn({ err: error }, limitsUnread)
      isFailing = true
    }
  }
  fastify.addHook('onReady', sync)
  return redis === undefined ? undefined : timers.setInterval(sync, settings.syncInterval).unref()
}

const limitsUnread = 'limits that were set at run time could not be read from Redis. The last known limits stay in ' +
  'force, and the guard tries again at every syncInterval; `err` says what to fix'

const blocksUnread = 'the block list could not be read from Redis. The last known blocks stay in force, changes by ' +
  'other instances are missing, and the guard tries again at every syncInterval; `err` says what to fix'

function makeFollower ({ store, availability }: RedisParts, { settings, memory, now, log }: Parts): BlockListFollower {
  return new BlockListFollower({
    memory: memory.blocks,
    redis: store.blocks,
    usable: () => availability.usesRedis,
    knowsEpoch: epoch => availability.knowsEpoch(epoch),
    onLost: () => availability.lostData(new StoreUnavailableError('lost', 'Redis has lost its block list')),
    intervalMs: settings.syncInterval,
    now,
    onError: error => log.warn({ err: error }, blocksUnread)
  })
}

function makeMemoryWatch (redis: RedisParts, { warnings }: Parts): MemoryWatch {
  return new MemoryWatch({
    ask: async () => await infoOfPrimaries(redis.guarded),
    warn: (warning, details) => warnings.warn(warning, details),
    now: timers.monotonicMs
  })
}
