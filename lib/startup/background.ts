/** What goes on by itself, whether requests come or not. */
import type { FastifyInstance } from 'fastify'
import { StoreUnavailableError } from '../errors.js'
import { BlockListFollower } from '../outage/block-replica.js'
import { infoOfPrimaries } from '../redis/info.js'
import { timers } from '../runtime/timers.js'
import type { Parts } from './assembly.js'
import { MemoryWatch } from './memory-watch.js'
import type { RedisParts } from './stores.js'

/** How often expired counters, values and blocks are removed from memory, ms. */
const sweepIntervalMs = 30_000

export interface Background {
  /** undefined: no Redis is configured */
  readonly ofRedis: BackgroundOfRedis | undefined
  /** ends all but the memory watch */
  stop (): void
}

/** What is started once Redis has been connected. */
export interface BackgroundOfRedis {
  readonly redis: RedisParts
  readonly follower: BlockListFollower
  /** it is closed after Redis, which may come back until then, and start it */
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

/** Takes over limits that were set at run time: when the application is ready, and from Redis again and again. */
function syncLimits (fastify: FastifyInstance, { settings, redis, limitControl, log }: Parts): NodeJS.Timeout | undefined {
  let isFailing = false
  const sync = async () => {
    try {
      await limitControl.sync(() => redis?.availability.usesRedis === true)
      isFailing = false
    } catch (error) {
      if (!isFailing) log.warn({ err: error }, 'limits that were set at run time could not be read from Redis')
      isFailing = true
    }
  }
  fastify.addHook('onReady', sync)
  return redis === undefined ? undefined : timers.setInterval(sync, settings.syncInterval).unref()
}

function makeFollower ({ store, availability }: RedisParts, { settings, memory, now, log }: Parts): BlockListFollower {
  return new BlockListFollower({
    memory: memory.blocks,
    redis: store.blocks,
    usable: () => availability.usesRedis,
    knowsEpoch: epoch => availability.knowsEpoch(epoch),
    onLost: () => availability.lostData(new StoreUnavailableError('lost', 'Redis has lost its block list')),
    intervalMs: settings.syncInterval,
    now,
    onError: error => log.warn({ err: error }, 'the block list could not be read from Redis')
  })
}

function makeMemoryWatch (redis: RedisParts, { warnings }: Parts): MemoryWatch {
  return new MemoryWatch({
    ask: async () => await infoOfPrimaries(redis.guarded),
    warn: (warning, details) => warnings.warn(warning, details),
    now: timers.monotonicMs
  })
}
