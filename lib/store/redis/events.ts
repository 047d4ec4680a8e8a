/** The recorded events in Redis: a stream of events, and a sorted set of suspects. */
import { parseNetwork } from '../../addresses/address.js'
import type { GuardedRedis } from '../../redis/breaker.js'
import type { EventStore, RateLimitEvent, Suspect } from '../event-store.js'
import type { Keys } from '../keys.js'
import { clearEvents, logEvents, readEntries, readRanks } from './encodings/events.js'
import { type OnForeign, RepairingRedis } from './foreign-values.js'
import { pageLength, unreadable } from './replies.js'
import { keptMs, type Sequence } from './sequence.js'

export interface RedisEventsOptions {
  readonly keys: Keys
  readonly maxEvents: number
  readonly sequence: Sequence
  /** unique id of this instance; a text without braces */
  readonly instance: string
  readonly onForeign: OnForeign
}

export class RedisEvents implements EventStore {
  readonly #redis: RepairingRedis
  readonly #options: RedisEventsOptions

  constructor (redis: GuardedRedis, options: RedisEventsOptions) {
    const { keys, onForeign } = options
    this.#redis = new RepairingRedis(redis, { [keys.events]: 'stream', [keys.suspects]: 'zset' }, onForeign)
    this.#options = options
  }

  /** @throws SentError  if the call was sent with a number, and failed */
  async logEvents (events: readonly RateLimitEvent[]): Promise<void> {
    const { maxEvents, sequence } = this.#options
    const call = { keys: this.#keys, args: logEvents.args({ markerMs: 0, maxEvents, events }) }
    await sequence.run(this.#redis, async (client, sent) => await sent.send(client, logEvents.script, call))
  }

  /** Replays events. Redis records them once for each id, however often they are sent. */
  async replayEvents (id: string, events: readonly RateLimitEvent[]): Promise<void> {
    const { keys, maxEvents, instance } = this.#options
    const names = [...this.#keys, keys.replayed(keys.events, `${instance}:${id}`)]
    const args = [0, ...logEvents.args({ markerMs: keptMs, maxEvents, events })]
    await this.#redis.run(async client => await logEvents.script.run(client, names, args))
  }

  /** One round trip; more if the stream has foreign entries. */
  async events (limit: number): Promise<readonly RateLimitEvent[]> {
    const key = this.#options.keys.events
    const events: RateLimitEvent[] = []
    let from = '+'
    let isFirst = true
    for (;;) {
      // A later page begins with the last entry of the page before, since Redis 6.0 cannot exclude it.
      const count = isFirst ? limit : pageLength
      const entries = await this.#redis.run(async client =>
        readEntries(await client.xrevrange(key, from, '-', 'COUNT', count)))
      for (const { id, event } of entries) {
        if (!isFirst && id === from) continue
        if (event === undefined) this.#redis.reportIgnored(key)
        else if (events.length < limit) events.push(event)
      }
      const last = entries.at(-1)
      if (last === undefined || entries.length < count || events.length === limit) return events
      from = last.id
      isFirst = false
    }
  }

  /** One page for each round trip. */
  async clearEvents (olderThanMs: number): Promise<number> {
    let removed = 0
    let from = '-'
    let nowMs: number | undefined
    do {
      const page = { olderThanMs, from, length: pageLength, nowMs }
      const cleared = await this.#redis.run(async client =>
        clearEvents.read(await clearEvents.script.run(client, this.#keys, clearEvents.args(page)), page))
      // Such a reply is garbled, and would make this loop endless.
      if (cleared.next === from) throw unreadable()
      removed += cleared.removed
      from = cleared.next
      nowMs = cleared.nowMs
    } while (from !== '')
    return removed
  }

  /** One round trip; more if the set has foreign entries. */
  async suspects (limit: number): Promise<readonly Suspect[]> {
    const key = this.#options.keys.suspects
    const suspects: Suspect[] = []
    let from = 0
    for (;;) {
      const count = from === 0 ? limit : pageLength
      const page = await this.#redis.run(async client =>
        readRanks(await client.zrevrange(key, from, from + count - 1, 'WITHSCORES')))
      for (const { ip, count } of page) {
        if (parseNetwork(ip)?.text !== ip || !Number.isSafeInteger(count)) this.#redis.reportIgnored(key)
        else if (suspects.length < limit) suspects.push({ ip, count })
      }
      if (page.length < count || suspects.length === limit) return suspects
      from += count
    }
  }

  get #keys (): readonly string[] {
    const { events, suspects } = this.#options.keys
    return [events, suspects]
  }
}
