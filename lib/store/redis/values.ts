/** Plain values in Redis, for `get`, `set`, `incr`, `expire` and `del`. */
import type { GuardedRedis } from '../../redis/breaker.js'
import type { Ticket } from './batch.js'
import { isCluster, Script } from '../../redis/script.js'
import type { Keys } from '../keys.js'
import type { Numbers } from './sequence.js'
import { listOf, textOf, unreadable, wholeOf } from './replies.js'
import type { ToldValue, ValueChange, ValueOperation } from '../value-store.js'
import { scripts } from './lua/scripts.js'

const value = new Script(scripts.value)
const carryValues = new Script(scripts['merge-values'])

export interface RedisValuesOptions {
  readonly keys: Keys
  readonly numbers: Numbers
  readonly instance: string
  /** ms that markers and notes are kept; an outage may be as long */
  readonly keptMs: number
}

/** What became of a value. */
export interface ChangedValue {
  /** before */
  readonly existed: boolean
  /** undefined: nothing is told of it */
  readonly told: ToldValue | undefined
}

export class RedisValues {
  readonly #redis: GuardedRedis
  readonly #options: RedisValuesOptions

  constructor (redis: GuardedRedis, options: RedisValuesOptions) {
    this.#redis = redis
    this.#options = options
  }

  async get (key: string): Promise<ToldValue | undefined> {
    const name = this.#options.keys.value(key)
    return await this.#redis.run(async client => {
      const [text, leftMs] = await Promise.all([client.get(name), client.pttl(name)])
      return text === null ? undefined : { text: textOf(text), leftMs: readLeft(leftMs) }
    })
  }

  /**
   * @param nowMs   of the clock that the operation is dated by
   * @param ticket  to number the call, so that `fence` tells whether it ran; in a Cluster there are no numbers
   */
  async change (operation: ValueOperation, nowMs: number, ticket?: Ticket): Promise<ChangedValue> {
    const { keys, numbers, instance, keptMs } = this.#options
    const names = [keys.value(operation.key), keys.written(operation.key)]
    const args = [instance, keptMs, operation.kind, ...argumentsOf(operation, nowMs)]
    return await this.#redis.run(async client => {
      const reply = ticket === undefined || isCluster(client)
        ? await value.run(client, names, [0, ...args])
        : await value.run(client, [...names, numbers.key], numbers.before(args, ticket))
      return readChanged(operation, reply)
    })
  }

  /** Does what was done elsewhere; once for each id, however often it is sent. */
  async carry (id: string, changes: readonly ValueChange[], nowMs: number): Promise<void> {
    const { keys, instance, keptMs } = this.#options
    const keysOf = ({ key }: ValueChange) => [keys.value(key), keys.written(key)]
    const callOf = (some: readonly ValueChange[], slot?: string) => ({
      keys: [keys.carried(slot, `${instance}:${id}`), ...some.flatMap(keysOf)],
      args: [keptMs, instance, ...some.flatMap(change => rowOf(change, nowMs))]
    })
    await this.#redis.run(async client => {
      // In a Cluster they lie in different slots.
      const calls = isCluster(client)
        ? changes.map(change => callOf([change], keys.value(change.key)))
        : [callOf(changes)]
      await carryValues.runAll(client, calls)
    })
  }
}

function argumentsOf (operation: ValueOperation, nowMs: number): (string | number)[] {
  switch (operation.kind) {
    case 'set': return [operation.text, operation.expiresAtMs === Infinity ? '' : operation.expiresAtMs - nowMs]
    case 'expire': return [operation.expiresAtMs - nowMs]
    case 'incr':
    case 'del': return []
  }
}

function rowOf ({ base, add, addedAtMs, end }: ValueChange, nowMs: number): (string | number)[] {
  const agoMs = (atMs: number) => Math.max(1, nowMs - atMs)
  const ofBase = base === undefined ? ['', '', 0] : [base.text === undefined ? 'del' : 'set', base.text ?? '', agoMs(base.atMs)]
  const ofEnd = end === undefined ? [0, 0, 0] : [1, Math.ceil(end.expiresAtMs - nowMs), agoMs(end.atMs)]
  return [...ofBase, add, agoMs(addedAtMs), ...ofEnd]
}

/** Reads the reply of value.lua. */
function readChanged ({ kind }: ValueOperation, reply: unknown): ChangedValue {
  if (kind !== 'incr') return { existed: wholeOf(reply, 0, 1) === 1, told: undefined }
  const [sum, leftMs] = listOf(reply, 2)
  const text = String(sum)
  if (!/^-?\d{1,19}$/.test(text)) throw unreadable()
  return { existed: true, told: { text, leftMs: readLeft(leftMs) } }
}

/** @param leftMs  as PTTL has it: below 0 there is no end */
function readLeft (leftMs: unknown): number {
  const ms = wholeOf(leftMs, -2)
  return ms < 0 ? Infinity : ms
}
