/** The counters in memory: their bounds, and which clients keep a counter when there is no room for all. */
import t from 'tap'
import { windowOf } from '../../../lib/rules/fixed-window.js'
import { algorithms, ruleOf, type Algorithm } from '../../../lib/rules/algorithms.js'
import { type Check, defineLimit } from '../../../lib/rules/rate-limit.js'
import type { LimitState } from '../../../lib/rules/rule.js'
import { Keys } from '../../../lib/store/keys.js'
import { MemoryLimits } from '../../../lib/store/memory/limits.js'
import { randomFrom } from '../../support/random.js'
import { size } from '../../support/size.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

function setUp (capacity: number) {
  const clock = { ms: 1_000_000 }
  return { clock, memory: new MemoryLimits({ keys: new Keys('guard:'), capacity, now: () => clock.ms }) }
}

const limit = { name: 'limit', limit: defineLimit('fixed-window', 2, 1000), cost: 1 }

t.test('a sweep forgets a locked client a day after its last request, however often it was refused', async t => {
  const { clock, memory } = setUp(100)
  const backoff = { name: 'limit', limit: defineLimit('fixed-window', 2, 1000, { excess: 'backoff' }), cost: 1 }
  for (let i = 0; i < 60; i++) memory.take({ clientKey: 'client', checks: [backoff] })
  clock.ms += 86_399_999
  memory.sweep()
  t.equal(memory.size, 1)
  clock.ms += 1
  memory.sweep()
  t.equal(memory.size, 0)
})

t.test('a flood of fresh clients exceeds no bound and frees no limited client, with each algorithm', async t => {
  for (const algorithm of ['fixed-window', 'sliding-window', 'gcra'] as const) {
    const { memory } = setUp(1000)
    const check = { name: 'limit', limit: defineLimit(algorithm, 2, 60_000), cost: 1 }
    const accepted = (key: string) => memory.take({ clientKey: key, checks: [check] }).accepted
    t.same([accepted('attacker'), accepted('attacker'), accepted('attacker')], [true, true, false])
    for (let i = 0; i < 20_000; i++) accepted(`fresh ${i}`)
    t.ok(memory.size <= 1000)
    t.equal(accepted('attacker'), false, algorithm)
  }
})

t.test('a counter that is nearly used up outlives a flood of names that come twice each', async t => {
  const { memory } = setUp(1000)
  const check = { name: 'login', limit: defineLimit('fixed-window', 5, 3_600_000), cost: 1 }
  const accepted = (key: string) => memory.take({ clientKey: key, checks: [check] }).accepted
  for (let i = 0; i < 4; i++) accepted('admin')
  for (let i = 0; i < 20_000; i++) {
    accepted(`name ${i}`)
    accepted(`name ${i}`)
  }
  t.same([accepted('admin'), accepted('admin')], [true, false])
})

t.test('a hit with more limits than there is room for stays within the bound', async t => {
  const { memory } = setUp(1)
  const other = { ...limit, name: 'other' }
  for (let i = 0; i < 5; i++) {
    memory.take({ clientKey: 'client', checks: [limit, other] })
    t.equal(memory.size, 1)
  }
})

const hourMs = 3_600_000

/** A limit per hour. */
function hourly (name: string, max: number, algorithm: Algorithm = 'fixed-window'): Check {
  return { name, limit: defineLimit(algorithm, max, hourMs), cost: 1 }
}

/** Whether a request that is counted by a name of the client's choice is accepted. */
function asks (memory: MemoryLimits, check: Check, key: string, from?: string): boolean {
  return memory.take({ clientKey: key, checks: [check], fromAddress: from }).accepted
}

t.test('one host that fills memory with limited names gets no other client refused, by name or by address', async t => {
  const { memory } = setUp(5000)
  const [login, search, global] = [hourly('login', 1), hourly('search', 1), hourly('global', 1)]
  for (let i = 0; i < 9100; i++) asks(memory, login, `name ${i}`, '198.51.100.1')
  const clients = Array.from({ length: 200 }, (_, i) => `192.0.2.${i}`)
  const refused = clients.filter(address => {
    const byName = [search, login].every(check => asks(memory, check, `user of ${address}`, address))
    return !byName || !asks(memory, global, address)
  })
  t.same(refused, [])
  t.ok(memory.size <= 5000)
})

t.test('ten thousand addresses that one limit has limited leave room for the other limits', async t => {
  const { memory } = setUp(5000)
  const [login, search] = [hourly('login', 1), hourly('search', 1)]
  for (let i = 0; i < 10_000; i++) asks(memory, login, `10.0.${i >> 8}.${i & 255}`)
  // Three quarters of the quarter that is free.
  const clients = Array.from({ length: 937 }, (_, i) => `192.0.${i >> 8}.${i & 255}`)
  t.same(clients.filter(address => !asks(memory, search, address)), [])
  t.same(clients.filter(address => asks(memory, search, address)), [], 'each of them is counted')
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: a host that floods with names gets five guesses at each, under a limit of five`, async t => {
    const { memory } = setUp(1000)
    const login = hourly('login', 5, algorithm)
    const passed = new Map<string, number>()
    let made = 0
    const guess = (name: string) => {
      if (asks(memory, login, name, '198.51.100.1')) passed.set(name, (passed.get(name) ?? 0) + 1)
    }
    for (let round = 0; round < size(40, 130); round++) {
      guess('admin')
      guess('root')
      // More names than fit, some of them limited.
      for (let i = 0; i < 1200; i++) guess(`name ${made++}`)
      for (let i = 0; i < 5; i++) guess(`name ${made}`)
    }
    t.equal(passed.get('admin'), 5)
    t.same([...passed].filter(([, times]) => times > 5), [])
    t.ok(memory.size <= 1000)
  })
}

t.test('a name adopted from Redis takes the room of the address that sent it', async t => {
  const { memory, clock } = setUp(160)
  const login = hourly('login', 5)
  const state = windowOf(5, 0, clock.ms + hourMs)
  const adopt = (clientKey: string, fromAddress: string) =>
    memory.adopt({ clientKey, fromAddress }, { check: login, state }, clock.ms)
  for (let i = 0; i < 1000; i++) adopt(`name ${i}`, '198.51.100.1')
  t.equal(memory.size, 10 + 80)
  adopt('name', '192.0.2.1')
  t.match(memory.known({ clientKey: 'name' }, login), state)
})

for (const algorithm of algorithms) {
  t.test(`${algorithm}: a name of an address beyond its part gets no second quota when Redis goes away`, async t => {
    const { memory, clock } = setUp(160)
    const check = { ...hourly('login', 5), limit: defineLimit(algorithm, 5, hourMs) }
    const adoptHits = (clientKey: string, hits: number, fromAddress?: string) => {
      let state: LimitState | undefined
      for (let i = 0; i < hits; i++) state = ruleOf(check.limit).take(state, clock.ms, check.limit, 1).state
      memory.adopt({ clientKey, fromAddress }, { check, state: state! }, clock.ms)
    }
    const passes = (key: string, from: string) =>
      Array.from({ length: 6 }, () => asks(memory, check, key, from)).filter(Boolean).length
    for (let i = 0; i < 1000; i++) adoptHits(`name ${i}`, 1, '198.51.100.1')
    adoptHits('used up', 5, '198.51.100.1')
    adoptHits('used', 3, '198.51.100.1')
    adoptHits('used', 2, '198.51.100.1')
    t.same([passes('used up', '198.51.100.1'), passes('used', '198.51.100.1')], [0, 2])
    t.equal(passes('used up', '192.0.2.1'), 5, 'its shared counters affect no other address')
  })
}

t.test('one address cannot fill the counters that newcomers of all addresses share', async t => {
  const passedOf = (adopted: number) => {
    const { memory, clock } = setUp(16)
    const login = hourly('login', 5)
    for (let i = 0; i < 16; i++) for (let j = 0; j < 5; j++) asks(memory, login, `limited ${i}`)
    const state = windowOf(5, 0, clock.ms + hourMs)
    for (let i = 0; i < adopted; i++) memory.adopt({ clientKey: `adopted ${i}` }, { check: login, state }, clock.ms)
    return Array.from({ length: 200 }, (_, i) => asks(memory, login, `newcomer ${i}`)).filter(Boolean).length
  }
  t.equal(passedOf(1000), passedOf(0))
})

// Each of four hosts takes a sixteenth; with the counters of all other clients, half of the table is full.
const floodCapacity = 16 * Math.ceil(2 * 13 * algorithms.length / 4)

t.test(`in a flood no client passes more than its limit, and none is refused before it (SEED=${seed})`, async t => {
  const random = randomFrom(seed)
  for (let run = 0; run < size(15, 60); run++) {
    const { memory, clock } = setUp(floodCapacity)
    const windowMs = random.pick([500, 2000, hourMs])
    const limitOf = (algorithm: Algorithm) => defineLimit(algorithm, random.whole(1, 6), windowMs)
    const checks = algorithms.map((algorithm, i) => ({ name: `limit ${i}`, limit: limitOf(algorithm), cost: 1 }))
    const hosts = Array.from({ length: random.whole(1, 4) }, (_, i) => `198.51.100.${i}`)
    /** the hits of each client that each limit accepted, by the rules */
    const passed = new Map<string, { state: LimitState | undefined, count: number, firstMs: number }>()
    const isRight = (key: string, from: string | undefined, isFlood: boolean): boolean => {
      const check = random.pick(checks)
      const { limit } = check
      const client = `${check.name} ${key} ${from}`
      const of = passed.get(client) ?? { state: undefined, count: 0, firstMs: clock.ms }
      passed.set(client, of)
      const { fits, state } = ruleOf(limit).take(of.state, clock.ms, limit, 1)
      if (!asks(memory, check, key, from)) return isFlood || !fits
      of.state = state
      of.count++
      // The windows of a shared counter start with hits of other names.
      const windows = Math.floor((clock.ms - of.firstMs) / windowMs) + 2
      return isFlood && windowMs < hourMs ? of.count <= limit.max * windows : fits
    }
    for (let step = 0; step < 300; step++) {
      clock.ms += random.whole(0, 20)
      if (random.chance(0.02)) memory.sweep()
      const client = random.whole(0, 12)
      const host = random.pick(hosts)
      const rights = [
        isRight(`192.0.2.${client}`, undefined, false),
        isRight(`user ${client}`, `192.0.2.${client}`, false),
        isRight(`admin ${random.whole(0, 2)} of ${host}`, host, true)
      ]
      const flood = Array.from({ length: random.whole(0, 60) }, () => `name ${random.whole(0, 5000)}`)
      rights.push(...flood.map(name => isRight(name, host, true)))
      if (rights.includes(false)) return t.fail(`run ${run}, step ${step}, seed ${seed}: ${rights.indexOf(false)}`)
    }
    t.ok(memory.size <= floodCapacity)
  }
})

t.test('a refund without a counter creates none', async t => {
  const { memory } = setUp(10)
  memory.refundAt({ clientKey: 'client' }, limit, 1_000_000)
  t.equal(memory.size, 0)
})
