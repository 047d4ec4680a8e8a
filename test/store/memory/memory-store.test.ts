/** All stores in memory together. */
import t from 'tap'
import { defineLimit } from '../../../lib/rules/rate-limit.js'
import { Keys } from '../../../lib/store/keys.js'
import { MemoryStore } from '../../../lib/store/memory/memory-store.js'

t.test('a sweep removes only what has expired', async t => {
  const clock = { ms: 1_000_000 }
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 100, maxEvents: 10, now: () => clock.ms })
  const limit = { name: 'limit', limit: defineLimit('fixed-window', 2, 1000), cost: 1 }
  memory.limits.take({ clientKey: 'short', checks: [limit] })
  memory.limits.take({ clientKey: 'long', checks: [{ ...limit, limit: defineLimit('fixed-window', 2, 5000) }] })
  memory.values.set('short', 'x', 1000)
  memory.values.set('long', 'x', 5000)
  memory.values.set('good', 'x', undefined)
  memory.blocks.block({ ip: '192.0.2.1', durationMs: 1000, reason: '', origin: '' })
  memory.blocks.block({ ip: '192.0.2.0/24', durationMs: 5000, reason: '', origin: '' })
  memory.sweep()
  t.same([memory.limits.size, memory.blocks.size], [2, 2])
  clock.ms += 1000
  memory.sweep()
  t.same([memory.limits.size, memory.blocks.size], [1, 1])
  t.same([memory.values.get('short'), memory.values.get('long'), memory.values.get('good')], [null, 'x', 'x'])
  t.equal(memory.blocks.isBlocked('192.0.2.1'), true, 'the range around it is still blocked')
})
