/** A garbled reply fails with kind `reply` or is in range: it never gives a wrong counter, a NaN or a TypeError. */
import { connect, createServer, type Socket } from 'node:net'
import { once } from 'node:events'
import fc from 'fast-check'
import t from 'tap'
import { StoreUnavailableError } from '../../../lib/errors.js'
import type { GuardedRedis } from '../../../lib/redis/breaker.js'
import type { RedisClient } from '../../../lib/redis/script.js'
import { algorithms, ruleOf } from '../../../lib/rules/algorithms.js'
import { type Check, defineLimit, type Limit } from '../../../lib/rules/rate-limit.js'
import { Keys } from '../../../lib/store/keys.js'
import { RedisStore } from '../../../lib/store/redis/redis-store.js'
import type { Peeked } from '../../../lib/store/limit-store.js'
import { takeAllOf, takeOf } from '../../support/take.js'
import { type Contracts, contractsOf } from '../../support/redis-contracts.js'
import * as ofBlocks from '../../../lib/store/redis/encodings/blocks.js'
import * as ofEvents from '../../../lib/store/redis/encodings/events.js'
import * as ofInstance from '../../../lib/store/redis/encodings/instance.js'
import * as ofLimits from '../../../lib/store/redis/encodings/limits.js'
import * as ofValues from '../../../lib/store/redis/encodings/values.js'
import { scripts } from '../../../lib/store/redis/lua/scripts.js'
import { guardedApp, logTo } from '../../support/app.js'
import { numbersOf } from '../../support/states.js'
import { RedisServer } from '../../../tools/redis-server.js'
import { until } from '../../../tools/until.js'

/** The store by its contracts, and as the outage layer uses it. */
type Asked = Contracts & { readonly redis: RedisStore }

/** A store on a Redis that gives the same answer to each command and script. */
function storeAnswering (answer: () => unknown): Asked {
  const client = new Proxy({ isCluster: false }, {
    get: (target, name) => name === 'isCluster' ? false : async () => answer()
  }) as unknown as RedisClient
  const redis = {
    run: async <T>(command: (client: RedisClient) => Promise<T>) => await command(client),
    report: (error: unknown) => error
  } as unknown as GuardedRedis
  const store = new RedisStore(redis, { keys: new Keys('guard:'), maxEvents: 10, instance: 'test' })
  return { ...contractsOf(store), redis: store }
}

const limits: readonly Limit[] = algorithms.flatMap(algorithm => (['none', 'backoff'] as const).map(excess =>
  defineLimit(algorithm, 5, 60_000, { excess })))
const checks: readonly Check[] = limits.map((limit, i) => ({ name: `limit ${i}`, limit, cost: 1 }))

/** Everything that reads from Redis. Each reader throws if it returns a value out of range. */
const readers: Readonly<Record<string, (store: Asked) => Promise<void>>> = {
  take: async store => {
    for (const check of checks) {
      const taken = await takeOf(store.limits, { clientKey: 'client', checks: [check] })
      const [first, second, atMs] = numbersOf(check.limit, taken.outcomes[0]!.state)
      inRange(taken.nowMs, 1)
      inRange(first, 0)
      inRange(second, 0)
      inRange(atMs, -Infinity)
      if (Math.abs(atMs - taken.nowMs) > check.limit.longestMs) throw new RangeError(`${atMs}`)
    }
  },
  'take of several': async store => {
    const hits = [{ clientKey: 'client', checks }, { clientKey: 'other', checks }]
    for (const { nowMs, outcomes } of await takeAllOf(store.limits, hits)) {
      inRange(nowMs, 1)
      for (const { check, state } of outcomes) inRange(numbersOf(check.limit, state)[0], 0)
    }
  },
  peek: async store => {
    const peeked = await store.redis.limits.peek('client', checks.slice(0, 1)) satisfies readonly Peeked[]
    for (const { check: { limit }, state } of peeked) {
      if (state !== undefined) for (const number of numbersOf(limit, state).slice(0, 2)) inRange(number, 0)
    }
  },
  forget: async store => isBoolean(await store.limits.forget('client', checks)),
  fence: async store => {
    const { last, next } = await store.redis.instance.fence()
    inRange(last, -1)
    inRange(next, last)
  },
  heartbeat: async store => {
    const { epoch, instances, since, nowMs } = await store.redis.instance.heartbeat()
    isText(epoch)
    inRange(instances, 1)
    inRange(since, 0)
    inRange(nowMs, 1)
  },
  get: async store => { const text = await store.values.get('key'); if (text !== null) isText(text) },
  'get with its end': async store => {
    const found = await store.redis.values.get('key')
    if (found !== undefined && found.leftMs !== Infinity) inRange(found.leftMs, 0)
  },
  set: async store => await store.values.set('key', 'value', undefined),
  incr: async store => { if (!Number.isFinite(await store.values.incr('key'))) throw new RangeError('no sum') },
  expire: async store => isBoolean(await store.values.expire('key', 1)),
  del: async store => isBoolean(await store.values.del('key')),
  events: async store => {
    for (const { type, count, atMs } of await store.events.events(3)) {
      isText(type)
      inRange(count, -Infinity)
      inRange(atMs, -Infinity)
    }
  },
  clearEvents: async store => inRange(await store.events.clearEvents(0), 0),
  suspects: async store => {
    for (const { ip, count } of await store.events.suspects(3)) {
      isText(ip)
      inRange(count, -Infinity)
    }
  },
  block: async store => {
    const block = { ip: '192.0.2.1', durationMs: 1000, reason: '', origin: '' }
    const [changed] = await store.redis.blocks.change([{ atMs: 0, block }], 0, Infinity)
    if (changed!.standing !== undefined) inRange(changed!.standing.blockedAtMs, 1)
  },
  unblock: async store => isBoolean(await store.blocks.unblock('192.0.2.1')),
  isBlocked: async store => isBoolean(await store.blocks.isBlocked('192.0.2.1')),
  blocks: async store => { for (const { ip, reason } of await store.blocks.blocks()) [ip, reason].forEach(isText) },
  changes: async store => {
    const { nowMs, cursor, changes, epoch } = await store.redis.blocks.changes({ id: '0-0', sequence: 0 })
    inRange(nowMs, 1)
    inRange(cursor.sequence, 0)
    isText(epoch)
    for (const { ip } of changes) isText(ip)
  },
  count: async store => inRange(await store.redis.blocks.count(), 0)
}

function inRange (number: number, min: number): void {
  if (!Number.isSafeInteger(number) || number < min) throw new RangeError(`${number} is not a whole number from ${min}`)
}

function isText (text: unknown): void {
  if (typeof text !== 'string') throw new RangeError(`${String(text)} is no text`)
}

function isBoolean (value: unknown): void {
  if (typeof value !== 'boolean') throw new RangeError(`${String(value)} is neither true nor false`)
}

/** Reads an answer. @throws if the result is neither in range nor a failure of kind `reply` */
async function read (reader: (store: Asked) => Promise<void>, answer: unknown): Promise<'read' | 'refused'> {
  let asked = 0
  try {
    // One page of a list is enough: the later ones are empty.
    await reader(storeAnswering(() => ++asked > 20 ? [] : answer))
    return 'read'
  } catch (error) {
    if (error instanceof StoreUnavailableError && error.kind === 'reply') return 'refused'
    throw error
  }
}

const garbage = fc.oneof(
  fc.constantFrom<unknown>(
    null, undefined, '', ' ', [], {}, true, false, NaN, Infinity, -Infinity, 1.5, -1, 2 ** 53, '1e3', '0x10', '-0',
    Buffer.from('1')
  ),
  fc.integer(), fc.string(), fc.bigInt()
)
const { value: anyReply } = fc.letrec<{ value: unknown }>(tie => ({
  value: fc.oneof({ maxDepth: 3 }, garbage, fc.array(tie('value'), { maxLength: 7 }))
}))

for (const [name, reader] of Object.entries(readers)) {
  t.test(`${name}: rejects any reply whose numbers are out of range`, async t => {
    await t.resolves(fc.assert(fc.asyncProperty(anyReply, async answer => {
      await read(reader, answer)
    }), { numRuns: 300 }))
  })
}

const nowMs = 1_700_000_000_000
const blockJson = `{"blockedAtMs":${nowMs},"expiresAtMs":${nowMs + 1000},"origin":"","reason":""}`

/** Correct replies to the readers whose reply is a list or a number with a certain range. */
const right: Readonly<Record<string, unknown>> = {
  'take of several': [nowMs, ...[1, 2].flatMap(() => limits.flatMap(replyOf)), 1],
  peek: [nowMs, '1', 0, 5000],
  fence: 7,
  heartbeat: ['epoch', 2, 1, nowMs],
  incr: ['5', -1],
  clearEvents: [3, '', nowMs],
  suspects: [['192.0.2.1', 5], ['192.0.2.2', 3]],
  block: [1, 0, blockJson, 1],
  unblock: [1, 1, '', 1],
  changes: [nowMs, 1, '1-0', [['1-0', ['sequence', '1', 'ip', '192.0.2.1', 'block', '']]], 'epoch']
}

/** The part of a reply about a limit: every other one refuses the hit, the others are used up by it. */
function replyOf (limit: Limit, i: number): readonly number[] {
  const rule = ruleOf(limit)
  const full = rule.take(undefined, nowMs, limit, limit.max).state
  const isRefused = i % 2 === 1
  const [first, ...others] = rule.encode(isRefused ? rule.take(full, nowMs, limit, 1).state : full, nowMs)
  return [isRefused ? -1 - first : first, ...others]
}

t.test('reads a correct reply', async t => {
  for (const [name, reply] of Object.entries(right)) t.equal(await read(readers[name]!, reply), 'read', name)
})

t.test('rejects a reply with a part missing, doubled, or replaced by a value that Number() makes 0', async t => {
  for (const [name, reply] of Object.entries(right)) {
    const wrong: unknown[] = ['', null, [], false, NaN, -(2 ** 53)]
    const replies: unknown[] = Array.isArray(reply)
      ? [
          ...reply.map((_, i) => reply.slice(0, i)),
          ...(name === 'suspects' ? [] : [[...reply, 1]]),
          ...reply.flatMap((part, i) => {
            return wrong.filter(value => !(part === '' && value === '')).map(value => reply.with(i, value))
          })
        ]
      : wrong
    for (const garbled of replies) {
      // Fewer suspects, no counter, another epoch, a sum below 0, no block and no changes are possible answers too.
      const parts: unknown[] = Array.isArray(garbled) ? garbled : []
      const isPossible = {
        suspects: parts.length < 2,
        peek: parts[1] === '',
        heartbeat: parts[0] === '',
        block: parts[2] === '' && parts.length === 4,
        incr: typeof parts[0] === 'number' && parts[0] < 0,
        changes: parts[4] === '' || (Array.isArray(parts[3]) && parts[3].length === 0 && parts.length === 5)
      }[name] === true
      if (!isPossible) t.equal(await read(readers[name]!, garbled), 'refused', `${name}: ${JSON.stringify(garbled)}`)
    }
  }
})

t.test('rejects a page of events that leads back to itself', async t => {
  let asked = 0
  const store = storeAnswering(() => { asked++; return [1, '1-0', nowMs] })
  await t.rejects(async () => await store.events.clearEvents(0), { code: 'GUARD_ERR_STORE_UNAVAILABLE', kind: 'reply' })
  t.equal(asked, 2)
})

/** These tests expect every reply, so no timeout has to be short. */
const optionsOf = ({ port }: Garbler) =>
  ({
    redis: { port }, max: 3, timeWindow: '1 hour', syncInterval: 60_000, commandTimeout: 30_000, connectTimeout: 30_000
  })

t.test('replies out of step count for no client, and the connection is made again', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const garbler = await Garbler.start(server.port)
  t.teardown(async () => await garbler.stop())
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, optionsOf(garbler), logTo(lines))
  app.get('/', async () => 'ok')
  const status = async (remoteAddress: string) => (await app.inject({ url: '/', remoteAddress })).statusCode
  for (let i = 0; i < 3; i++) t.equal(await status('192.0.2.1'), 200)
  // A refusal for one client, inserted before a reply: the next client would get it.
  garbler.extra = '*5\r\n:1700000000000\r\n:-4\r\n:1\r\n:9999\r\n:3\r\n'
  // It is inserted before the reply to a single hit: on a busy machine several hits may share one call.
  for (let wave = 1; garbler.extra !== ''; wave++) {
    const codes = await Promise.all(Array.from({ length: 8 }, async (_, i) => {
      for (let turn = 0; turn < i; turn++) await new Promise(resolve => setImmediate(resolve))
      return await status(`198.51.${wave}.${i}`)
    }))
    t.same(codes, Array.from({ length: 8 }, () => 200))
  }
  await until(() => lines.length > 0)
  t.match(lines, [{ msg: 'Redis is away, memory answers' }])
  await until(() => app.redisGuard.status.store === 'redis')
  t.equal(await status('192.0.2.1'), 429)
})

t.test('a garbled reply refuses no client: memory answers, and Redis stays in use', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  const garbler = await Garbler.start(server.port)
  t.teardown(async () => await garbler.stop())
  const lines: Record<string, unknown>[] = []
  const app = await guardedApp(t, optionsOf(garbler), logTo(lines))
  app.get('/', async () => 'ok')
  t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.1' })).statusCode, 200)
  // In place of [nowMs, used, refused, ms to the end, number].
  const replies = [
    '*2\r\n:1700000000000\r\n:-2\r\n',
    '*3\r\n:0\r\n:-2\r\n:9\r\n',
    '*3\r\n:1700000000000\r\n$0\r\n\r\n:9\r\n',
    '*5\r\n:1700000000000\r\n:-6\r\n:0\r\n:9999999999\r\n:NUMBER\r\n'
  ]
  for (const [i, replacement] of replies.entries()) {
    garbler.next = replacement
    const { statusCode } = await app.inject({ url: '/', remoteAddress: `192.0.2.${i + 10}` })
    t.equal(statusCode, 200, JSON.stringify(replacement))
    t.equal(garbler.next, undefined, 'the reply was garbled')
    t.equal(app.redisGuard.status.store, 'redis')
  }
  t.match((await app.inject('/metrics')).body, /^redis_guard_errors_total\{kind="reply"\} 4$/m)
  t.match(lines, [{ msg: 'Redis rejected a command, memory answers for it' }])
})

/** A proxy that passes on everything except the next reply to one hit. */
class Garbler {
  /** replaces the next reply to a hit */
  next: string | undefined
  /** precedes the next reply to a hit */
  extra = ''
  readonly #server
  readonly #sockets = new Set<Socket>()

  private constructor (port: number) {
    this.#server = createServer(client => {
      const target = connect(port, '127.0.0.1')
      this.#sockets.add(client).add(target)
      client.pipe(target)
      target.on('data', data => {
        const text = data.toString('latin1')
        client.write(`${this.#extraFor(text)}${this.next === undefined ? text : this.#garbled(text)}`, 'latin1')
      })
      for (const [socket, other] of [[client, target], [target, client]] as const) {
        socket.on('error', () => other.destroy())
        socket.on('close', () => other.destroy())
      }
    })
  }

  static async start (port: number): Promise<Garbler> {
    const garbler = new Garbler(port)
    garbler.#server.listen(0, '127.0.0.1')
    await once(garbler.#server, 'listening')
    return garbler
  }

  get port (): number {
    return (this.#server.address() as { port: number }).port
  }

  async stop (): Promise<void> {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
    await once(this.#server, 'close')
  }

  /** A fixed-window that has refused nothing replies to one hit with [nowMs, used, 0, ms to the end, number]. */
  #garbled (text: string): string {
    return text.replace(/\*5\r\n:\d{13}\r\n:-?\d+\r\n:0\r\n:\d+\r\n:(\d+)\r\n/, (reply, number: string) => {
      const replacement = this.next!.replace('NUMBER', number)
      this.next = undefined
      return replacement
    })
  }

  #extraFor (text: string): string {
    if (!/^\*5\r\n:\d{13}\r\n/.test(text)) return ''
    const extra = this.extra
    this.extra = ''
    return extra
  }
}

t.test('rejects a page of the block list with an unreadable cursor or an odd length', async t => {
  const scans = [[1, []], ['x', []], ['', []], ['0', ['192.0.2.1']], ['0'], ['0', [], []]]
  for (const scan of scans) t.equal(await read(readers['blocks']!, scan), 'refused', JSON.stringify(scan))
  await storeAnswering(() => ['0', []]).redis.blocks.pages().next()
})

t.test('rejects the answer to a block that contains an unreadable block', async t => {
  for (const json of ['no JSON', '{}']) t.equal(await read(readers['block']!, [1, 0, json, 1]), 'refused', json)
})

t.test('each script has one encoding', async t => {
  const exported = Object.entries({ ...ofBlocks, ...ofEvents, ...ofInstance, ...ofLimits, ...ofValues })
  const encoded = exported.filter(([, value]) => typeof value === 'object').map(([name]) => name)
  const names = Object.keys(scripts).map(name => name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase()))
  t.same(encoded.sort(), names.sort())
})
