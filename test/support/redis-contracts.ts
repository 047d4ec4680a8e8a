/** A store in Redis as its four contracts, by the methods that the outage layer calls. */
import type { Awaitable } from '../../lib/runtime/awaitable.js'
import type { Block, BlockRequest, BlockStore } from '../../lib/store/block-store.js'
import type { EventStore, RateLimitEvent } from '../../lib/store/event-store.js'
import type { Hit, LimitStore, NamedCheck, Taken } from '../../lib/store/limit-store.js'
import type { RedisStore } from '../../lib/store/redis/redis-store.js'
import type { ValueOperation, ValueStore } from '../../lib/store/value-store.js'

export interface LimitsUnderTest extends LimitStore {
  /** Decides hits in their order. */
  take (hits: readonly Hit[]): Awaitable<readonly Taken[]>
}

export interface Contracts {
  readonly limits: LimitsUnderTest
  readonly blocks: BlockStore
  readonly events: EventStore
  readonly values: ValueStore
}

/** `store.instance.fence()` must have been called: it begins the numbers of calls. */
export function contractsOf ({ limits, blocks, events, values }: RedisStore): Contracts {
  const ticket = () => ({ number: 0 })
  const change = async (operation: ValueOperation) => await values.change(operation, 0, ticket())
  return {
    limits: {
      take: async (hits: readonly Hit[]) => await limits.take(hits, ticket()),
      peek: async (client: string, checks: readonly NamedCheck[]) => await limits.peek(client, checks),
      forget: async (client: string, checks: readonly NamedCheck[]) => await limits.forget(client, checks, ticket())
    },
    blocks: {
      async block (request: BlockRequest): Promise<Block> {
        const [changed] = await blocks.change([{ atMs: 0, block: request }], 0, Infinity)
        return changed!.standing!
      },
      async unblock (ip: string): Promise<boolean> {
        const [changed] = await blocks.change([{ atMs: 0, unblock: ip }], 0, Infinity)
        return changed!.wasBlocked
      },
      isBlocked: async (address: string) => await blocks.isBlocked(address),
      blocks: async () => await blocks.blocks()
    },
    events: {
      logEvents: async (some: readonly RateLimitEvent[]) => await events.logEvents(some, ticket()),
      events: async (limit: number) => await events.events(limit),
      clearEvents: async (olderThanMs: number) => await events.clearEvents(olderThanMs),
      suspects: async (limit: number) => await events.suspects(limit)
    },
    values: {
      get: async (key: string) => (await values.get(key))?.text ?? null,
      async set (key: string, text: string, ttlMs = Infinity) {
        await change({ kind: 'set', key, atMs: 0, text, expiresAtMs: ttlMs })
      },
      incr: async (key: string) => Number((await change({ kind: 'incr', key, atMs: 0, by: 1 })).reported!.text),
      expire: async (key: string, ttlMs: number) =>
        (await change({ kind: 'expire', key, atMs: 0, expiresAtMs: ttlMs })).existed,
      del: async (key: string) => (await change({ kind: 'del', key, atMs: 0 })).existed
    }
  }
}
