/** A block list of a million addresses and ranges: its memory, its speed, and the texts that blocks share. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { type Address, parseAddress } from '../../../lib/addresses/address.js'
import { parseAddressList } from '../../../lib/addresses/address-list.js'
import { BlockTexts, BlockColumns } from '../../../lib/store/memory/block-columns.js'
import { Keys } from '../../../lib/store/keys.js'
import { MemoryStore } from '../../../lib/store/memory/memory-store.js'
import type { Block } from '../../../lib/store/block-store.js'
import { medianMs } from '../../support/median.js'
import { randomFrom } from '../../support/random.js'
import { size } from '../../support/size.js'
import { until } from '../../../tools/until.js'

/** The small size is smaller by a power of two, so that tables that double are as full as with a million. */
const entries = size(1_000_000 / 16, 1_000_000)

function block (ip: string, given: Partial<Block> = {}): Block {
  return { ip, reason: 'flood', origin: 'api', blockedAtMs: 1, expiresAtMs: Infinity, ...given }
}

/** Addresses and ranges of both families, a quarter each. */
function ipOf (i: number): string {
  const n = i >> 2
  const [a, b, c] = [n >> 16, (n >> 8) & 255, n & 255]
  switch (i & 3) {
    case 0: return `11.${a}.${b}.${c}`
    case 1: return `2001:db8:${a.toString(16)}:${(n & 0xffff).toString(16)}::1`
    case 2: return `${100 + a}.${b}.${c}.0/24`
    default: return `2a00:${a.toString(16)}:${(n & 0xffff).toString(16)}::/48`
  }
}

/** Bytes in use by objects and typed arrays. */
function bytesInUse (): number {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

type Find = (address: Address) => unknown

const inPiece = 100

/** How many times as long a lookup takes in a large list as in a list of a few entries. */
function timesAsLong (large: Find, small: Find, addresses: readonly Address[]): number {
  const [many, few] = [large, small].map(find => medianMs(Math.ceil(10 * addresses.length / inPiece), piece => {
    const first = piece * inPiece
    for (let i = first; i < first + inPiece; i++) find(addresses[i % addresses.length]!)
  })) as [number, number]
  return many / few
}

/** A scan would take thousands of times as long: as many times as there are more entries. */
const fewEntries = 16

/** A large list does not fit the caches of the processor, which makes a lookup a few times slower. */
const most = 20

t.test(`${entries} blocks take at most 120 bytes each, and a lookup does not scan them`, async t => {
  const newMemory = () => new MemoryStore({
    keys: new Keys('guard:'), capacity: 10, maxEvents: 10, now: () => 1000, hashKey: [12345, 67890]
  })
  const memory = newMemory()
  const before = bytesInUse()
  // Each block has its own text, as blocks from Redis have.
  for (let i = 0; i < entries; i++) {
    const expiresAtMs = i % 2 === 0 ? Infinity : 2000 + i % 10
    memory.blocks.adopt(block(ipOf(i), { reason: `${'flo'}od`, expiresAtMs }))
  }
  const bytes = (bytesInUse() - before) / entries
  t.equal(memory.blocks.size, entries)
  t.ok(bytes <= 120, `${bytes} bytes an entry`)
  t.comment(`${bytes.toFixed(1)} bytes an entry`)

  const random = randomFrom(1)
  const picked = Array.from({ length: 10_000 }, () => random.whole(0, entries - 1))
  const inside = (ip: string) => ip.replace('.0/24', '.7').replace('::/48', '::7')
  t.ok(picked.every(i => memory.blocks.find(parseAddress(inside(ipOf(i)))!)?.ip === ipOf(i)))
  const looked = {
    'blocked IPv4': picked.map(i => inside(ipOf(i & ~1))),
    'blocked IPv6': picked.map(i => inside(ipOf(i | 1))),
    'IPv4 that is not': picked.map(i => `203.${i & 127}.${i >> 12}.9`),
    'IPv6 that is not': picked.map(i => `2001:db9::${i.toString(16).padStart(5, '1').slice(-4)}`)
  }
  const few = newMemory()
  for (let i = 0; i < fewEntries; i++) few.blocks.adopt(block(ipOf(i)))
  for (const [name, texts] of Object.entries(looked)) {
    const addresses = texts.map(text => parseAddress(text)!)
    const times = timesAsLong(address => memory.blocks.find(address), address => few.blocks.find(address), addresses)
    t.comment(`${name}: ${times.toFixed(1)} times as long`)
    t.ok(times <= most, `${name}: ${times} times as long`)
  }
  t.ok(looked['IPv4 that is not'].every(ip => !memory.blocks.isBlocked(ip)))
})

t.test(`an allow list of ${entries} entries takes no more, and a lookup does not scan it`, async t => {
  const texts = Array.from({ length: entries }, (_, i) => ipOf(i))
  const before = bytesInUse()
  const { list } = parseAddressList(texts)
  const bytes = (bytesInUse() - before) / entries
  t.equal(list.size, entries)
  t.ok(bytes <= 120, `${bytes} bytes an entry`)
  const addresses = texts.filter((_, i) => i % 100 < 2).map(text => parseAddress(text)!)
  t.ok(addresses.every(address => list.find(address) === true))
  const few = parseAddressList(texts.slice(0, fewEntries)).list
  const times = timesAsLong(address => list.find(address), address => few.find(address), addresses)
  t.comment(`${times.toFixed(1)} times as long`)
  t.ok(times <= most, `${times} times as long`)
})

t.test(`a sweep of ${entries} blocks removes the expired ones, and frees the memory when all have expired`, async t => {
  let nowMs = 0
  const memory = new MemoryStore({ keys: new Keys('guard:'), capacity: 10, maxEvents: 10, now: () => nowMs })
  const before = bytesInUse()
  for (let i = 0; i < entries; i++) memory.blocks.adopt(block(ipOf(i), { expiresAtMs: 1000 * (1 + i % 2) }))
  nowMs = 1000
  memory.sweep()
  t.equal(memory.blocks.size, entries / 2)
  t.notOk(memory.blocks.isBlocked(ipOf(0)))
  t.ok(memory.blocks.isBlocked(ipOf(1)))
  nowMs = 2000
  memory.sweep()
  t.equal(memory.blocks.size, 0)
  // On a busy machine the memory of collected arrays is freed a moment after the collection.
  await until(() => bytesInUse() - before < 1e6)
})

t.test('equal reasons and origins are stored once, until no block has them', async t => {
  const texts = new BlockTexts()
  const values = new BlockColumns(texts)
  const pairs = [['a', 'b'], ['ab', ''], ['', 'ab'], ['a', 'b']] as const
  /** The number that the next new pair gets: the first that no block uses. */
  const nextNumber = () => {
    const number = texts.hold('next', '')
    texts.release(number)
    return number
  }
  pairs.forEach(([reason, origin], i) => values.write(i, block('x', { reason, origin }), true))
  t.equal(nextNumber(), 3)
  const written = pairs.map(([reason, origin]) => block('ip', { reason, origin }))
  t.same(pairs.map((_, i) => values.read(i, () => 'ip')), written)
  values.write(0, block('x', { reason: 'c' }), false)
  t.equal(nextNumber(), 4, 'another block still has the first pair')
  values.delete(3, 3)
  t.equal(nextNumber(), 0, 'no block has the first pair')
  values.delete(0, 2)
  t.same(values.read(0, () => 'ip'), block('ip', { reason: '', origin: 'ab' }), 'the last block has moved')
  t.equal(nextNumber(), 3)
  values.write(1, block('x', { reason: 'ab', origin: '' }), false)
  t.same(values.read(1, () => 'ip'), block('ip', { reason: 'ab', origin: '' }), 'written again unchanged')
  t.equal(nextNumber(), 3)
  values.write(2, block('x', { reason: 'new' }), true)
  t.equal(values.read(2, () => 'ip').reason, 'new')
  t.equal(values.read(1, () => 'ip').reason, 'ab')
})
