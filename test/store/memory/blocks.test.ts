/** The block list in memory: adopting the list of another store, and remembering lifted blocks. */
import t from 'tap'
import { MemoryBlocks } from '../../../lib/store/memory/blocks.js'

function setUp () {
  const clock = { ms: 1_000_000 }
  const now = () => clock.ms
  return { clock, memory: new MemoryBlocks({ now, wall: now }) }
}

t.test('replace drops all blocks that the new list lacks', async t => {
  const { memory } = setUp()
  memory.block({ ip: '192.0.2.1', durationMs: 1000, reason: '', origin: '' })
  await memory.replace(async () => true)
  t.equal(memory.isBlocked('192.0.2.1'), false)
})

t.test('changes made while a whole list is read hold afterwards', async t => {
  const { memory, clock } = setUp()
  const block = (ip: string) => ({ ip, reason: '', origin: '', blockedAtMs: clock.ms, expiresAtMs: clock.ms + 1000 })
  memory.adopt(block('192.0.2.2'))
  await memory.replace(async put => {
    for (const ip of ['192.0.2.2', '192.0.2.4']) put(block(ip))
    memory.adopt(block('192.0.2.1'))
    memory.adoptStanding('192.0.2.2', undefined)
    memory.block({ ip: '192.0.2.3', durationMs: 1000, reason: '', origin: '' })
    memory.unblock('192.0.2.4')
    return true
  })
  t.same(memory.blocks().map(({ ip }) => ip), ['192.0.2.1', '192.0.2.3'])
})

t.test('remembers the last 10,000 lifted blocks, even if they were placed again', async t => {
  const { memory, clock } = setUp()
  const lifted = () => memory.lifted().map(({ unblock }) => unblock)
  for (let i = 0; i <= 10_000; i++) memory.unblock(`10.0.${i >> 8}.${i & 255}`)
  t.same([lifted().length, lifted()[0]], [10_000, '10.0.0.1'])
  clock.ms += 5
  memory.unblock('10.0.0.1')
  t.same([lifted()[0], memory.lifted().at(-1)], ['10.0.0.2', { unblock: '10.0.0.1', atMs: clock.ms }])
  const liftedAtMs = () => memory.lifted().at(-1)!.atMs
  memory.block({ ip: '10.0.0.1', durationMs: 1000, reason: '', origin: '' })
  t.equal(liftedAtMs(), clock.ms - 1, 'lifted before the new block')
  clock.ms += 5
  memory.block({ ip: '10.0.0.1', durationMs: 1000, reason: '', origin: '' })
  t.equal(liftedAtMs(), clock.ms - 6)
})

t.test('a block that another store replaced by a shorter one counts as lifted', async t => {
  const { memory, clock } = setUp()
  const block = { ip: '192.0.2.1', reason: '', origin: '', blockedAtMs: clock.ms }
  memory.adopt({ ...block, expiresAtMs: Infinity })
  memory.adopt({ ...block, expiresAtMs: clock.ms + 60_000 })
  t.same(memory.lifted(), [{ unblock: '192.0.2.1', atMs: clock.ms - 1 }])
  memory.adopt({ ...block, ip: '192.0.2.2', expiresAtMs: clock.ms + 60_005 })
  memory.adopt({ ...block, ip: '192.0.2.2', expiresAtMs: clock.ms + 60_000 })
  t.equal(memory.lifted().length, 1, 'a few ms are the difference of two clocks')
})

t.test('a late change does not affect a block that was placed after it', async t => {
  const { memory, clock } = setUp()
  const request = { ip: '192.0.2.1', durationMs: 1000, reason: '', origin: '', replace: true }
  memory.adopt({ ip: '192.0.2.1', reason: 'later', origin: '', blockedAtMs: clock.ms, expiresAtMs: clock.ms + 60_000 })
  t.equal(memory.unblock('192.0.2.1', clock.ms - 10), false)
  t.match(memory.block(request, clock.ms - 10), { reason: 'later' })
  t.match(memory.block(request), { reason: '', expiresAtMs: clock.ms + 1000 })
  t.equal(memory.unblock('192.0.2.1', clock.ms), true)
})
