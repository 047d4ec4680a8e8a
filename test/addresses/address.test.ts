/** Texts of addresses and ranges: each address has one canonical text, however it is written. */
import fc from 'fast-check'
import ipaddr from 'ipaddr.js'
import t from 'tap'
import { clientKey, firstAddress, mask, networkOf, parseAddress, parseNetwork } from '../../lib/addresses/address.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

const canonicalAddress = (text: unknown) => parseAddress(text)?.text

const octets = fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255))
const anyGroup =
  fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.constantFrom(1, 0x64, 0xff9b, 0xfffe, 0xffff), fc.nat(0xffff))
/** Eight groups with random runs of zeros, often with a prefix that embeds IPv4, or with a prefix one bit beside it. */
const groups = fc.tuple(
  fc.constantFrom(
    [],
    [],
    [0, 0, 0, 0, 0, 0xffff],
    [0, 0, 0, 0, 0, 0xfffe],
    [0, 0, 0, 0, 1, 0xffff],
    [0x64, 0xff9b, 0, 0, 0, 0],
    [0x64, 0xff9b, 0, 0, 0, 1],
    [0x64, 0xff9b, 1, 0, 0, 0]
  ),
  fc.array(anyGroup, { minLength: 8, maxLength: 8 })
).map(([prefix, rest]) => [...prefix, ...rest].slice(0, 8))

/** Writes eight groups as text, without `::`. */
function inFull (list: readonly number[]): string {
  return list.map(group => group.toString(16)).join(':')
}

/** One of the many ways to write eight groups. */
const written = fc.record({
  groups,
  compressAt: fc.nat(7),
  compress: fc.boolean(),
  dotted: fc.boolean(),
  padded: fc.boolean(),
  upper: fc.boolean(),
  zone: fc.constantFrom('', '', '%eth0', '%1'),
  port: fc.constantFrom('bare', 'bare', 'bracketed', 'with port')
}).map(({ groups, compressAt, compress, dotted, padded, upper, zone, port }) => {
  const tail = dotted ? [`${groups[6]! >> 8}.${groups[6]! & 255}.${groups[7]! >> 8}.${groups[7]! & 255}`] : []
  const texts = [
    ...groups.slice(0, dotted ? 6 : 8).map(group => group.toString(16).padStart(padded ? 4 : 1, '0')),
    ...tail
  ]
  const isZero = (i: number) => /^0+$/.test(texts[i] ?? '')
  let text = texts.join(':')
  if (compress && isZero(compressAt)) {
    let end = compressAt
    while (isZero(end)) end++
    text = `${texts.slice(0, compressAt).join(':')}::${texts.slice(end).join(':')}`
  }
  text = `${upper ? text.toUpperCase() : text}${zone}`
  return { groups, text: { bare: text, bracketed: `[${text}]`, 'with port': `[${text}]:4711` }[port]! }
})

/** The canonical text by ipaddr.js, which shares no code with ours. */
function oracle (groups: readonly number[]): string {
  const address = new ipaddr.IPv6([...groups])
  if (address.isIPv4MappedAddress()) return address.toIPv4Address().toString()
  const bytes = address.toByteArray()
  return address.match(new ipaddr.IPv6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0]), 96)
    ? bytes.slice(12).join('.')
    : address.toRFC5952String()
}

/** The four 32-bit words of an address, by ipaddr.js. */
function bitsOf (text: string): [number, number, number, number] {
  const address = ipaddr.parse(text)
  const bytes = address.toByteArray()
  const word = (i: number) => bytes.slice(4 * i, 4 * i + 4).reduce((sum, byte) => sum * 256 + byte, 0)
  return [word(0), word(1), word(2), word(3)]
}

t.test('gives every spelling of an IPv6 address the canonical text that ipaddr.js gives it', async t => {
  fc.assert(
    fc.property(written, ({ groups, text }) => canonicalAddress(text) === oracle(groups)),
    { seed, numRuns: 10_000 }
  )
})

t.test('reads an IPv4 address alike alone, with a port, IPv4-mapped, and through NAT64', async t => {
  fc.assert(fc.property(octets, fc.nat(65535), (bytes, port) => {
    const address = bytes.join('.')
    const hex = `${(bytes[0] * 256 + bytes[1]).toString(16)}:${(bytes[2] * 256 + bytes[3]).toString(16)}`
    const texts = [
      address, `${address}:${port}`, `::ffff:${address}`, `::FFFF:${hex}`, `[::ffff:${hex}]:${port}`,
      `64:ff9b::${address}`, `64:ff9b::${hex}`
    ]
    return texts.every(text => canonicalAddress(text) === address)
  }), { seed, numRuns: 2000 })
})

t.test('different addresses never share a canonical text', async t => {
  fc.assert(fc.property(groups, groups, (a, b) => {
    return oracle(a) === oracle(b) || canonicalAddress(inFull(a)) !== canonicalAddress(inFull(b))
  }), { seed, numRuns: 2000 })
})

t.test('reads the forms that clients and proxies write', async t => {
  const texts: [text: string, canonical: string][] = [
    ['192.0.2.1', '192.0.2.1'],
    ['0.0.0.0', '0.0.0.0'],
    ['255.255.255.255', '255.255.255.255'],
    ['1.2.3.4:80', '1.2.3.4'],
    ['[::1]:80', '::1'],
    ['[::1]', '::1'],
    ['::', '::'],
    ['0:0:0:0:0:0:0:1', '::1'],
    ['2001:0DB8:0000:0000:0000:0000:0000:0001', '2001:db8::1'],
    // RFC 5952 4.2: `::` stands for the longest run of zeros, for the first of two, and never for a single group.
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:db8::1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['1:2:3:4:5:6:0:0', '1:2:3:4:5:6::'],
    ['fe80::1%eth0', 'fe80::1'],
    ['[fe80::1%eth0]:80', 'fe80::1'],
    ['::ffff:127.0.0.1', '127.0.0.1'],
    ['::ffff:1.2.3.4%eth0', '1.2.3.4'],
    ['64:ff9b::192.0.2.33', '192.0.2.33'],
    ['64:ff9b:1::192.0.2.33', '64:ff9b:1::c000:221'],
    // Deprecated (RFC 4291 2.5.5.1); it does not reach the IPv4 address.
    ['::1.2.3.4', '::102:304']
  ]
  for (const [text, canonical] of texts) t.equal(canonicalAddress(text), canonical, text)
})

t.test('rejects what is not an address', async t => {
  const garbage: unknown[] = [
    '', ' ', '1', '1.2.3', '1.2.3.4.5', '256.0.0.1', '-1.2.3.4', '0x7f.0.0.1', '2130706433',
    // Some parsers read 010 as 8, others as 10.
    '010.0.0.1', '1.2.3.04', '::ffff:010.0.0.1',
    ' 1.2.3.4', '1.2.3.4 ', '1.2.3.4\n', '1.2.3.4:', '1.2.3.4:http', '1.2.3.4:123456', '1.2.3.4:80:90', '1.2.3.4%eth0',
    '[1.2.3.4]', '[1.2.3.4]:80',
    ':', ':::', '::1::', '1:2:3:4:5:6:7', '1:2:3:4:5:6:7:8:9', '12345::', 'g::', '[::1', '::1]', '[::1]:', '[::1]80',
    '[::1]:123456', '[[::1]]', '::1/128', '1.2.3.4/32', '::1%',
    'localhost', 'unknown', '__proto__', '１.2.3.4',
    undefined, null, 16909060, 1n, {}, [], ['1.2.3.4'], true
  ]
  for (const value of garbage) t.equal(canonicalAddress(value), undefined, JSON.stringify(String(value)))
})

t.test('a canonical text parses to itself', async t => {
  const units = fc.constantFrom(...'0123456789abcfABCF:.%[]/ ', '::', '255', 'ffff', '64:ff9b::')
  fc.assert(fc.property(fc.string({ unit: units, maxLength: 24 }), text => {
    const canonical = canonicalAddress(text)
    return canonical === undefined || canonicalAddress(canonical) === canonical
  }), { seed, numRuns: 20_000 })
})

t.test('rejects a text of 100 kB at once', async t => {
  const texts = ['1', ':', '.', '[', ']', '%', '/', '0:', '1.2.3.4', '[::1]:', '::1%', '\n', 'a'].map(part => {
    return part.repeat(100_000 / part.length)
  })
  const startedAtMs = performance.now()
  for (const text of texts) {
    t.equal(canonicalAddress(text), undefined)
    t.equal(parseNetwork(text), undefined)
    t.equal(parseNetwork(`::1/${text}`), undefined)
    t.equal(parseNetwork(`${text}/8`), undefined)
  }
  t.ok(performance.now() - startedAtMs < 500)
})

t.test('reads a range as its first address and a prefix length', async t => {
  const ranges: [text: string, canonical: string, prefixLength: number][] = [
    ['192.0.2.77', '192.0.2.77', 32],
    ['192.0.2.77/32', '192.0.2.77', 32],
    ['192.0.2.77/24', '192.0.2.0/24', 24],
    ['192.0.2.77/31', '192.0.2.76/31', 31],
    ['255.255.255.255/1', '128.0.0.0/1', 1],
    ['10.1.2.3/0', '0.0.0.0/0', 0],
    ['2001:DB8::1/128', '2001:db8::1', 128],
    ['2001:db8:1:2:3::/32', '2001:db8::/32', 32],
    ['2001:db8:ffff::/35', '2001:db8:e000::/35', 35],
    ['::1/0', '::/0', 0],
    ['::ffff:10.0.0.0/104', '10.0.0.0/8', 8],
    ['::ffff:10.1.2.3/128', '10.1.2.3', 32],
    ['::ffff:128.0.0.0/97', '128.0.0.0/1', 1],
    ['64:ff9b::10.0.0.0/104', '10.0.0.0/8', 8],
    ['::ffff:10.1.2.3', '10.1.2.3', 32],
    ['fe80::1%eth0/64', 'fe80::/64', 64]
  ]
  for (const [text, canonical, prefixLength] of ranges) {
    t.match(parseNetwork(text), { text: canonical, prefixLength }, text)
  }
  t.same(parseNetwork('::ffff:10.0.0.0/104'), parseNetwork('10.0.0.0/8'))
})

t.test('rejects what is not a range', async t => {
  const texts: unknown[] = [
    '', '/', '/8', '10.0.0.0/', '10.0.0.0/33', '::/129', '::/1000', '10.0.0.0/-1', '10.0.0.0/08', '10.0.0.0/8.0',
    '10.0.0.0/8 ', '10.0.0.0/ 8', '10.0.0.0/8/8',
    '10.0.0.0/255.0.0.0', '10/8', '010.0.0.0/8', 'host/8', 'host', undefined, null, 8, {}
  ]
  for (const text of texts) t.equal(parseNetwork(text), undefined, String(text))
})

t.test('rejects a range of embedded IPv4 addresses that is not an IPv4 range', async t => {
  const texts = [
    '64:ff9b::/96', '64:ff9b::/32', '64:ff9b::1.2.3.4/96', '::ffff:0:0/96', '::ffff:0:0/90', '::ffff:1.2.3.4/0',
    // The text is not NAT64, but becomes NAT64 when the host bits are cleared; that text would not parse again.
    '64:ff9b:0:0:1::/64', '64:ff9b:1::/33'
  ]
  for (const text of texts) t.equal(parseNetwork(text), undefined, text)
})

t.test('the canonical text of a range parses to the same range', async t => {
  const addresses = fc.oneof(groups.map(inFull), octets.map(bytes => bytes.join('.')))
  fc.assert(fc.property(addresses, fc.nat(128), (address, length) => {
    const network = parseNetwork(`${address}/${length}`)
    return network === undefined || JSON.stringify(parseNetwork(network.text)) === JSON.stringify(network)
  }), { seed, numRuns: 5000 })
})

t.test('mask clears the same bits as ipaddr.js', async t => {
  fc.assert(fc.property(octets, fc.nat(32), (bytes, length) => {
    const text = bytes.join('.')
    const network = ipaddr.IPv4.networkAddressFromCIDR(`${text}/${length}`)
    return mask(parseAddress(text)!.bits, length).join() === bitsOf(network.toString()).join()
  }), { seed })
  fc.assert(fc.property(groups, fc.nat(128), (groups, length) => {
    const text = new ipaddr.IPv6(groups).toString()
    const network = ipaddr.IPv6.networkAddressFromCIDR(`${text}/${length}`)
    return mask(bitsOf(text), length).join() === bitsOf(network.toString()).join()
  }), { seed })
})

t.test('reads the same family and bits as ipaddr.js', async t => {
  fc.assert(fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), text => {
    const { text: canonical, family, bits } = parseAddress(text)!
    return family === (canonical.includes(':') ? 6 : 4) && bits.join() === bitsOf(canonical).join()
  }), { seed, numRuns: 3000 })
  t.match(parseAddress('::ffff:1.2.3.4'), { family: 4, bits: [0x01020304, 0, 0, 0] })
  t.match(parseAddress('ffff::255.255.255.255'), { family: 6, bits: [0xffff0000, 0, 0, 0xffffffff] })
  t.equal(networkOf({ family: 4, bits: [0xffffffff, 0, 0, 0] }, 8).text, '255.0.0.0/8')
})

t.test('clientKey separates IPv4 clients by address, and IPv6 clients by network', async t => {
  const keys: [address: string, ipv6Subnet: number, key: string][] = [
    ['192.0.2.1', 64, '192.0.2.1'],
    ['192.0.2.1', 0, '192.0.2.1'],
    ['2001:db8:1:2:3:4:5:6', 64, '2001:db8:1:2::/64'],
    ['2001:db8:1:2:9:9:9:9', 64, '2001:db8:1:2::/64'],
    ['2001:db8:1:2:3:4:5:6', 48, '2001:db8:1::/48'],
    ['2001:db8:1:2:3:4:5:6', 128, '2001:db8:1:2:3:4:5:6'],
    ['2001:db8::1', 0, '::/0']
  ]
  for (const [address, ipv6Subnet, key] of keys) t.equal(clientKey(parseAddress(address)!, ipv6Subnet), key)
})

t.test('firstAddress returns the text of a range without its length', async t => {
  t.equal(firstAddress('2001:db8::/32'), '2001:db8::')
  t.equal(firstAddress('192.0.2.1'), '192.0.2.1')
  t.equal(firstAddress('no address'), 'no address')
})
