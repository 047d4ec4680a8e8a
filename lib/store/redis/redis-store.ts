/** The store in Redis, which all instances share: one class for each contract. See store/keys.ts for its keys. */
import type { GuardedRedis } from '../../redis/breaker.js'
import type { Keys } from '../keys.js'
import { redisOfBlocks, RedisBlocks } from './blocks.js'
import { RedisEvents } from './events.js'
import type { OnForeign } from './foreign-values.js'
import { RedisInstance } from './instance.js'
import { RedisLimits } from './limits.js'
import { Sequence } from './sequence.js'
import { RedisValues } from './values.js'

export interface RedisStoreOptions {
  readonly keys: Keys
  readonly maxEvents: number
  /** unique id of this instance; a text without braces */
  readonly instance: string
  /** id of the application, which all its registrations share; they count as one instance. Default: `instance` */
  readonly application?: string
  /** called for each foreign value at a key of the guard; default: a no-op */
  readonly onForeign?: OnForeign
}

export class RedisStore {
  readonly limits: RedisLimits
  readonly blocks: RedisBlocks
  readonly events: RedisEvents
  readonly values: RedisValues
  readonly instance: RedisInstance

  constructor (redis: GuardedRedis, options: RedisStoreOptions) {
    const { keys, maxEvents, instance, application = instance, onForeign = () => {} } = options
    const sequence = new Sequence(keys.batch(instance))
    const blockRedis = redisOfBlocks(redis, keys, onForeign)
    this.limits = new RedisLimits(redis, { keys, sequence, instance })
    this.blocks = new RedisBlocks(blockRedis, keys)
    this.events = new RedisEvents(redis, { keys, maxEvents, sequence, instance, onForeign })
    this.values = new RedisValues(redis, { keys, sequence, instance })
    this.instance = new RedisInstance(redis, { keys, blockRedis, sequence, instance, application })
  }
}
