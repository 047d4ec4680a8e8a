/** Plain values in Redis, for `get`, `set`, `incr`, `expire` and `del`. */
import type { GuardedRedis } from '../../redis/breaker.js'
import { isCluster } from '../../redis/script.js'
import type { Keys } from '../keys.js'
import type { ReportedValue, ValueChange, ValueOperation } from '../value-store.js'
import { type ChangedValue, leftOf, mergeValues, value } from './encodings/values.js'
import { textOf } from './replies.js'
import { keptMs, type Sequence } from './sequence.js'

export interface RedisValuesOptions {
  readonly keys: Keys
  readonly sequence: Sequence
  /** unique id of this instance; a text without braces */
  readonly instance: string
}

export class RedisValues {
  readonly #redis: GuardedRedis
  readonly #options: RedisValuesOptions

  constructor (redis: GuardedRedis, options: RedisValuesOptions) {
    this.#redis = redis
    this.#options = options
  }

  /** @returns undefined: there is no value */
  async get (key: string): Promise<ReportedValue | undefined> {
    const name = this.#options.keys.value(key)
    return await this.#redis.run(async client => {
      const [text, leftMs] = await Promise.all([client.get(name), client.pttl(name)])
      return text === null ? undefined : { text: textOf(text), leftMs: leftOf(leftMs) }
    })
  }

  /**
   * Makes one change.
   *
   * @param nowMs  now, by the clock of `operation.atMs`
   * @throws ValueError  if the value has another type, or is not a number that can be incremented
   * @throws SentError  if the call was sent with a number, and failed
   */
  async change (operation: ValueOperation, nowMs: number): Promise<ChangedValue> {
    const { keys, sequence, instance } = this.#options
    const given = { operation, instance, keptMs, nowMs }
    const call = { keys: [keys.value(operation.key), keys.written(operation.key)], args: value.args(given) }
    return await sequence.run(this.#redis, async (client, sent) =>
      value.read(await sent.send(client, value.script, call), given))
  }

  /** Replays changes that were made without Redis: once for each id, however often they are sent. */
  async merge (id: string, changes: readonly ValueChange[], nowMs: number): Promise<void> {
    const { keys, instance } = this.#options
    const keysOf = ({ key }: ValueChange) => [keys.value(key), keys.written(key)]
    const callOf = (some: readonly ValueChange[], slot?: string) => ({
      keys: [keys.replayed(slot, `${instance}:${id}`), ...some.flatMap(keysOf)],
      args: mergeValues.args({ changes: some, instance, keptMs, nowMs })
    })
    await this.#redis.run(async client => {
      // In a Cluster the values lie in different slots, so each needs its own call.
      const calls = isCluster(client)
        ? changes.map(change => callOf([change], keys.value(change.key)))
        : [callOf(changes)]
      await mergeValues.script.runAll(client, calls)
    })
  }
}
