/** The store that all instances share: its four contracts, and this instance in it. See store/keys.ts for its keys. */
import type { GuardedRedis } from '../../redis/breaker.js'
import type { Keys } from '../keys.js'
import { ownKeysOfBlocks, RedisBlocks } from './blocks.js'
import { RedisEvents } from './events.js'
import type { OnForeign } from './foreign-values.js'
import { RedisInstance } from './instance.js'
import { RedisLimits } from './limits.js'
import { Sequence } from './sequence.js'
import { RedisValues } from './values.js'

export interface RedisStoreOptions {
  readonly keys: Keys
  readonly maxEvents: number
  /** tells this instance from all others; a text without braces */
  readonly instance: string
  /** tells the application that instances are of, which are counted once; default: the instance */
  readonly application?: string
  /** called for foreign values at the guard's own keys; default: a no-op */
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
    const ownKeys = ownKeysOfBlocks(redis, keys, onForeign)
    this.limits = new RedisLimits(redis, { keys, sequence, instance })
    this.blocks = new RedisBlocks(ownKeys, keys)
    this.events = new RedisEvents(redis, { keys, maxEvents, sequence, instance, onForeign })
    this.values = new RedisValues(redis, { keys, sequence, instance })
    this.instance = new RedisInstance(redis, { keys, ownKeys, sequence, instance, application })
  }
}
