/** The four contracts on a store in Redis, through the methods that the outage layer calls. */
import type { Block, BlockRequest, BlockStore } from '../../lib/store/block-store.js'
import type { EventStore } from '../../lib/store/event-store.js'
import type { LimitStore } from '../../lib/store/limit-store.js'
import type { RedisStore } from '../../lib/store/redis/redis-store.js'
import type { ValueOperation, ValueStore } from '../../lib/store/value-store.js'

export interface Contracts {
  readonly limits: LimitStore
  readonly blocks: BlockStore
  readonly events: EventStore
  readonly values: ValueStore
}

/** Call `store.instance.fence()` first: it starts the sequence of calls. */
export function contractsOf ({ limits, blocks, events, values }: RedisStore): Contracts {
  const change = async (operation: ValueOperation) => await values.change(operation, 0)
  return {
    limits,
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
    events,
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
