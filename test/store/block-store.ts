/** The contract of a block store, which every implementation passes. */
import type { Test } from 'tap'
import type { Make } from './stores.js'

/** @param make  makes an empty store */
export function blockStoreContract (t: Test, make: Make): void {
  const block = (ip: string, durationMs: number, reason = '') => ({ ip, durationMs, reason, origin: 'test' })

  t.test('blocks an address until the block ends or is lifted', async t => {
    const { blocks, wait, now } = await make(t)
    t.equal(await blocks.isBlocked('192.0.2.1'), false)
    const before = await now()
    const reason = 'a "reason"\nin /two/ lines \u{1F980}'
    const placed = await blocks.block(block('192.0.2.1', 80_000, reason))
    t.match(placed, { ip: '192.0.2.1', reason, origin: 'test', expiresAtMs: placed.blockedAtMs + 80_000 })
    t.ok(placed.blockedAtMs >= before && placed.blockedAtMs <= await now())
    t.same(await blocks.blocks(), [placed])
    t.equal(await blocks.isBlocked('192.0.2.1'), true)
    t.equal(await blocks.isBlocked('192.0.2.2'), false)
    await wait(100_000)
    t.equal(await blocks.isBlocked('192.0.2.1'), false)
    t.same(await blocks.blocks(), [])
    t.equal(await blocks.unblock('192.0.2.1'), false, 'the block had already ended')

    await blocks.block(block('192.0.2.1', 60_000))
    t.equal(await blocks.unblock('192.0.2.1'), true)
    t.equal(await blocks.unblock('192.0.2.1'), false)
    t.equal(await blocks.isBlocked('192.0.2.1'), false)
  })

  t.test('a block never shortens another: the one that ends last stands, with its reason', async t => {
    const { blocks, wait } = await make(t)
    t.equal((await blocks.block(block('192.0.2.1', 50))).expiresAtMs < Infinity, true)
    t.match(await blocks.block(block('192.0.2.1', Infinity, 'second')), { reason: 'second', expiresAtMs: Infinity })
    const third = await blocks.block(block('192.0.2.1', 50_000, 'third'))
    t.match(third, { reason: 'second', expiresAtMs: Infinity }, 'the answer is the block that stands')
    t.match(await blocks.block(block('192.0.2.1', Infinity, 'fourth')), { reason: 'second' }, 'it ends no later')
    await blocks.block(block('192.0.2.0/24', 50_000, 'a range is another entry'))
    await wait(60_000)
    t.equal(await blocks.isBlocked('192.0.2.1'), true)
    t.same(await blocks.blocks(), [third])
    t.equal(await blocks.unblock('192.0.2.1'), true)
    t.same(await blocks.blocks(), [], 'an unblock ends all earlier blocks')
  })

  t.test('a block with `replace` stands, however long the previous block is', async t => {
    const { blocks, wait } = await make(t)
    await blocks.block(block('192.0.2.1', Infinity, 'first'))
    t.match(await blocks.block({ ...block('192.0.2.1', 50_000, 'second'), replace: true }), { reason: 'second' })
    t.match(await blocks.blocks(), [{ reason: 'second' }])
    await wait(60_000)
    t.same(await blocks.blocks(), [])
    const third = await blocks.block(block('192.0.2.1', 50_000, 'third'))
    t.match(third, { reason: 'third' }, 'an expired block does not stand')
  })

  t.test('blocks ranges of both families', async t => {
    const { blocks } = await make(t)
    await blocks.block(block('198.51.100.0/24', 60_000))
    await blocks.block(block('2001:db8::/32', 60_000))
    t.equal(await blocks.isBlocked('198.51.100.255'), true)
    t.equal(await blocks.isBlocked('198.51.101.0'), false)
    t.equal(await blocks.isBlocked('2001:db8:ffff::1'), true)
    t.equal(await blocks.isBlocked('2001:db9::1'), false)
    t.equal(await blocks.unblock('198.51.100.1'), false, 'an address in the range is another entry')
    t.equal(await blocks.unblock('198.51.100.0/24'), true)
    t.equal(await blocks.isBlocked('198.51.100.255'), false)
    t.same((await blocks.blocks()).map(({ ip }) => ip), ['2001:db8::/32'])
  })

  t.test('lists 1,500 blocks once each, in order', async t => {
    const { blocks } = await make(t)
    const addresses = Array.from({ length: 1500 }, (_, i) => `192.0.${i >> 8}.${i & 255}`)
    await Promise.all(addresses.map(async ip => await blocks.block(block(ip, 60_000))))
    t.same((await blocks.blocks()).map(({ ip }) => ip), addresses.sort())
  })
}
