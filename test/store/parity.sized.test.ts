/**
 * Parity of memory and Redis: the same random hits go through memory and a real Redis, on the clock of Redis. After
 * each batch both must give the same answers, to the millisecond.
 *
 * The clock of Redis cannot be set. To let d ms pass, a script moves the stored times by -d, which has the same effect
 * on all differences.
 */
import t from 'tap'
import { algorithms, ruleOf, type Algorithm } from '../../lib/rules/algorithms.js'
import { type Check, defineLimit, excesses } from '../../lib/rules/rate-limit.js'
import { GuardedRedis } from '../../lib/redis/breaker.js'
import { Connection } from '../../lib/redis/connection.js'
import { Keys } from '../../lib/store/keys.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import { RedisStore } from '../../lib/store/redis/redis-store.js'
import type { Taken } from '../../lib/store/limit-store.js'
import { type Asked, takeAllOf } from '../support/take.js'
import { randomFrom } from '../support/random.js'
import { RedisServer } from '../../tools/redis-server.js'
import { size } from '../support/size.js'

const steps = size(20_000, 100_000)
/**
 * Redis may forget a shorter window while it still counts a batch in it. Memory cannot: it counts a batch at one
 * moment.
 */
const shortestMs = 50
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)

const server = await RedisServer.start()
// Long enough for a busy machine: no command may time out here.
const times = { connectTimeout: 30_000, commandTimeout: 60_000, resetTimeout: 500 }
const connection = new Connection({ kind: 'server', options: { port: server.port } }, times)
const guarded = new GuardedRedis(connection, { ...times, probeKey: 'probe' })
await guarded.connect(30_000)
t.teardown(async () => {
  guarded.close()
  await server.stop()
})

/**
 * ARGV: ms to let pass. Returns the clock of Redis. If windows began at calendar times and not with a first hit, only
 * jumps by whole windows would keep the two comparable.
 */
const passTime = `
  local time = redis.call('TIME')
  local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, key in ipairs(redis.call('KEYS', 'guard:*{*')) do
    local before = redis.call('PEXPIRETIME', key)
    local expiresAtMs = before - ARGV[1]
    if before <= nowMs or expiresAtMs <= nowMs then
      redis.call('DEL', key)
    else
      if redis.call('TYPE', key).ok == 'hash' then
        for _, field in ipairs(redis.call('HKEYS', key)) do
          if string.find(field, '[aA]tMs$') then redis.call('HINCRBY', key, field, -ARGV[1]) end
        end
      end
      redis.call('PEXPIREAT', key, expiresAtMs)
    end
  end
  return nowMs`

for (const algorithm of algorithms) {
  t.test(`${algorithm}: memory and Redis decide ${steps} hits alike (SEED=${seed})`, async t => {
    await guarded.client.flushall()
    const random = randomFrom(seed)
    const keys = new Keys('guard:')
    const redis = new RedisStore(guarded, { keys, maxEvents: 1, instance: 'test' })
    await redis.instance.fence()
    let clockMs = 0
    const memory = new MemoryStore({ keys, capacity: 1000, maxEvents: 1, now: () => clockMs })
    const others = algorithms.filter(other => other !== algorithm)
    // Each counter has two limits, as routes of one group do.
    const groups = [algorithm, algorithm, algorithm, random.pick(others)].map((used, i) => aGroup(used, `limit${i}`))
    // How far the clock of memory is ahead of that of Redis.
    let aheadMs = 0
    let refused = 0
    let decided = 0

    while (decided < steps) {
      if (random.chance(0.3)) {
        const windowMs = random.pick(groups)[0]!.limit.windowMs
        const byMs = random.chance(0.4) ? -random.whole(1, 3 * windowMs) : random.whole(1, Math.ceil(1.2 * windowMs))
        const redisNowMs = Number(await guarded.client.eval(passTime, 0, byMs))
        // Both forget what ends just before the jump, or just after it.
        for (const ahead of [aheadMs, aheadMs += byMs]) {
          clockMs = redisNowMs + ahead
          memory.sweep()
        }
      }
      const hits = Array.from({ length: random.whole(1, 20) }, aHit)
      const onRedis = await takeAllOf(redis.limits, hits)
      // The hits take more than one batch, and each batch has its own time.
      const inMemory = hits.map((hit, i) => {
        clockMs = onRedis[i]!.nowMs + aheadMs
        return memory.limits.take(hit)
      })
      const [expected, found] = [onRedis.map(taken => relative(taken)), inMemory.map(taken => relative(taken))]
      if (JSON.stringify(found) !== JSON.stringify(expected)) {
        const differs = found.findIndex((one, i) => JSON.stringify(one) !== JSON.stringify(expected[i]))
        t.same(found[differs], expected[differs], `hit ${decided + differs}: ${JSON.stringify(hits[differs])}`)
        return
      }
      decided += hits.length
      refused += onRedis.filter(({ accepted }) => !accepted).length
    }
    t.ok(refused > decided / 20 && refused < decided * 19 / 20, `${refused} of ${decided} refused`)

    function aGroup (used: Algorithm, name: string): readonly Check[] {
      const [windowMs, excess] = [random.whole(shortestMs, 4000), random.pick(excesses)]
      return [1, 2].map(() => {
        const max = random.whole(0, 30)
        const burst = used === 'gcra' ? random.whole(1, 40) : max
        const maxBackoffMs = random.chance(0.8) ? windowMs * random.whole(1, 40) : undefined
        return { name, cost: 1, limit: defineLimit(used, max, windowMs, { burst, excess, maxBackoffMs }) }
      })
    }

    function aHit (): Asked {
      const checks = groups.map(group => random.pick(group))
      const used = random.chance(0.5) ? [random.pick(checks)] : checks.filter(() => random.chance(0.5))
      const cost = () => random.chance(0.7) ? 1 : random.whole(0, 40)
      const counted = (used.length > 0 ? used : checks)
        .map(check => ({ ...check, cost: cost(), shadow: random.chance(0.2) }))
      return { clientKey: `client${random.whole(1, 5)}`, checks: counted }
    }
  })
}

/** States with times relative to the decision, so that two clocks compare. */
function relative ({ accepted, nowMs, outcomes }: Taken) {
  return {
    accepted,
    outcomes: outcomes.map(({ check, fits, state }) => ({ fits, numbers: ruleOf(check.limit).encode(state, nowMs) }))
  }
}
