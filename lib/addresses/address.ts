/**
 * Parses an address once, into a canonical text and its bits. Clients, proxies
 * and operators write addresses in many forms. In canonical form, one host
 * always has the same text, and two hosts never share one. Keys use the text;
 * lists look up by the bits.
 *
 * - An IPv4-mapped (::ffff:192.0.2.1) or NAT64 (64:ff9b::c000:201) address
 *   becomes the IPv4 address in it (RFC 4291 2.5.5.2, RFC 6052 2.1).
 * - IPv6 is written by RFC 5952: lower case, longest run of zeros as `::`.
 * - A zone (`%eth0`) is dropped. So is a port, which some proxies add to
 *   X-Forwarded-For (`192.0.2.1:4711`, `[2001:db8::1]:4711`).
 */
import { isIPv4, isIPv6 } from 'node:net'

export type Family = 4 | 6

/** Four whole numbers of 32 bits, 0 to 2^32 - 1, highest bits first. IPv4 uses the first number; the others are 0. */
export type AddressBits = readonly [number, number, number, number]

export interface Address {
  /** canonical: `192.0.2.1`, `2001:db8::1` */
  readonly text: string
  readonly family: Family
  readonly bits: AddressBits
}

/** A range of addresses. A range of a single address is written like the address. */
export interface Network {
  /** canonical: `192.0.2.0/24`, `2001:db8::/32`, `192.0.2.1` */
  readonly text: string
  readonly family: Family
  /** bits of the first address */
  readonly bits: AddressBits
  /** 0 to 32 for IPv4, 0 to 128 for IPv6 */
  readonly prefixLength: number
}

/** An address without its text. */
type Parsed = Pick<Address, 'family' | 'bits'>

/**
 * @param text  from `request.ip`, a header or an argument
 * @returns undefined if it is not an address
 */
export function parseAddress (text: unknown): Address | undefined {
  if (typeof text !== 'string') return undefined
  if (isIPv4(text)) return { text, family: 4, bits: [ipv4Bits(text), 0, 0, 0] }
  const parsed = parseBits(text)
  if (parsed === undefined) return undefined
  const { family, bits } = embeddedIPv4(parsed) ?? parsed
  return { text: formatAddress(family, bits), family, bits }
}

/**
 * @param text  an address, or address/length in CIDR form; host bits are cleared
 * @returns undefined if it is neither, or if it is an IPv4-mapped or NAT64
 *   address with a length of 96 or less, such as ::ffff:0:0/90
 */
export function parseNetwork (text: unknown): Network | undefined {
  if (typeof text !== 'string') return undefined
  const slash = text.indexOf('/')
  if (slash === -1) {
    const address = parseAddress(text)
    return address && networkOf(address, lengthOf(address.family))
  }
  const length = text.slice(slash + 1)
  const parsed = parseBits(text.slice(0, slash))
  if (parsed === undefined || !/^(0|[1-9]\d{0,2})$/.test(length)) return undefined
  const prefixLength = Number(length)
  if (prefixLength > lengthOf(parsed.family)) return undefined
  // Also checked with the host bits cleared: `64:ff9b:0:0:1::/64` is the range `64:ff9b::/64`.
  const embedded = embeddedIPv4(parsed) ?? embeddedIPv4({ ...parsed, bits: mask(parsed.bits, prefixLength) })
  if (embedded === undefined) return networkOf(parsed, prefixLength)
  // `64:ff9b::/96` is refused: it means all clients behind NAT64, not all of IPv4, which is 0.0.0.0/0.
  return prefixLength > 96 ? networkOf(embedded, prefixLength - 96) : undefined
}

/** The range of `prefixLength` bits that an address lies in. */
export function networkOf ({ family, bits }: Parsed, prefixLength: number): Network {
  const masked = mask(bits, prefixLength)
  return { text: formatNetwork(family, masked, prefixLength), family, bits: masked, prefixLength }
}

/** @param masked  bits of the first address, with the host bits cleared */
export function formatNetwork (family: Family, masked: AddressBits, prefixLength: number): string {
  const first = formatAddress(family, masked)
  return prefixLength === lengthOf(family) ? first : `${first}/${prefixLength}`
}

/**
 * The key of a client: its IPv4 address, or the IPv6 network that one customer
 * usually has. A client can choose any address in that network.
 *
 * @param ipv6Subnet  prefix length, 0 to 128
 */
export function clientKey (address: Address, ipv6Subnet: number): string {
  return address.family === 4 ? address.text : networkOf(address, ipv6Subnet).text
}

/** The first address of a range. An address, or any other text, is returned unchanged. */
export function firstAddress (network: string): string {
  return network.replace(/\/\d+$/, '')
}

/** Number of bits in an address: 32 or 128. */
export function lengthOf (family: Family): number {
  return family === 4 ? 32 : 128
}

/** The bits of an address with all but the first `prefixLength` cleared. */
export function mask ([a, b, c, d]: AddressBits, prefixLength: number): AddressBits {
  const [keptA, keptB, keptC, keptD] = maskOf(prefixLength)
  return [(a & keptA) >>> 0, (b & keptB) >>> 0, (c & keptC) >>> 0, (d & keptD) >>> 0]
}

/** A mask whose first `prefixLength` bits are set, as four signed numbers of 32 bits. */
export function maskOf (prefixLength: number): AddressBits {
  const word = (i: number) => {
    const kept = Math.min(32, Math.max(0, prefixLength - 32 * i))
    return kept === 0 ? 0 : -1 << (32 - kept)
  }
  return [word(0), word(1), word(2), word(3)]
}

function formatAddress (family: Family, [a, b, c, d]: AddressBits): string {
  if (family === 4) return `${a >>> 24}.${a >>> 16 & 255}.${a >>> 8 & 255}.${a & 255}`
  const groups = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff, c >>> 16, c & 0xffff, d >>> 16, d & 0xffff]
  const [start, length] = longestZeroRun(groups)
  if (length < 2) return groupTexts(groups, 0, 8)
  return `${groupTexts(groups, 0, start)}::${groupTexts(groups, start + length, 8)}`
}

/** The groups from `start` to before `end`, with colons between them. */
function groupTexts (groups: readonly number[], start: number, end: number): string {
  let text = ''
  for (let i = start; i < end; i++) text += `${i === start ? '' : ':'}${(groups[i] as number).toString(16)}`
  return text
}

function parseBits (text: string): Parsed | undefined {
  if (text.length > longestText) return undefined
  if (isIPv6(text)) return { family: 6, bits: ipv6Bits(text) }
  const bare = withoutPort(text)
  if (isIPv4(bare)) return { family: 4, bits: [ipv4Bits(bare), 0, 0, 0] }
  return isIPv6(bare) ? { family: 6, bits: ipv6Bits(bare) } : undefined
}

/** A longer text is no address (45 characters of IPv6, brackets, zone and port), so no regular expression reads it. */
const longestText = 100

function withoutPort (text: string): string {
  const bracketed = /^\[([^\]]*)\](?::\d{1,5})?$/.exec(text)?.[1]
  if (bracketed !== undefined) return isIPv6(bracketed) ? bracketed : text
  return text.replace(/^(\d+\.\d+\.\d+\.\d+):\d{1,5}$/, '$1')
}

/** Reads character by character, which is fast: it runs for each new client. */
function ipv4Bits (text: string): number {
  let bits = 0
  let byte = 0
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === dot) {
      bits = bits * 256 + byte
      byte = 0
    } else {
      byte = byte * 10 + code - zero
    }
  }
  return bits * 256 + byte
}

const [dot, zero, nine, colon] = [46, 48, 57, 58]

/** Like `ipv4Bits`. Splitting the text into groups costs six times as much. */
function ipv6Bits (text: string): AddressBits {
  const zone = text.indexOf('%')
  const bare = zone === -1 ? text : text.slice(0, zone)
  const groups = [0, 0, 0, 0, 0, 0, 0, 0]
  const gap = bare.indexOf('::')
  if (gap === -1) {
    readGroups(bare, groups, 0)
  } else {
    const before = readGroups(bare.slice(0, gap), groups, 0)
    const after = readGroups(bare.slice(gap + 2), groups, before) - before
    // The groups behind `::` are the last ones.
    for (let i = 1; i <= after; i++) {
      const group = groups[before + after - i] as number
      groups[before + after - i] = 0
      groups[8 - i] = group
    }
  }
  const [a, b, c, d, e, f, g, h] = groups as Groups
  return [((a << 16) | b) >>> 0, ((c << 16) | d) >>> 0, ((e << 16) | f) >>> 0, ((g << 16) | h) >>> 0]
}

type Groups = [number, number, number, number, number, number, number, number]

/** Reads groups with colons between them into `groups` from `at` on. @returns the index behind the last one */
function readGroups (text: string, groups: number[], at: number): number {
  if (text === '') return at
  let group = 0
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === colon) {
      groups[at++] = group
      group = 0
    } else if (code === dot) {
      const bits = ipv4Bits(text.slice(text.lastIndexOf(':') + 1))
      groups[at] = bits >>> 16
      groups[at + 1] = bits & 0xffff
      return at + 2
    } else {
      group = group << 4 | hexDigit(code)
    }
  }
  groups[at] = group
  return at + 1
}

/** @param code  of `0` to `9`, `a` to `f` or `A` to `F` */
function hexDigit (code: number): number {
  return code <= nine ? code - zero : (code | 32) - 87
}

/** The IPv4 address inside an IPv4-mapped or NAT64 address; undefined for others. */
function embeddedIPv4 ({ family, bits: [a, b, c, d] }: Parsed): Parsed | undefined {
  if (family === 4 || b !== 0) return undefined
  const isMapped = a === 0 && c === 0xffff
  const isNat64 = a === 0x64ff9b && c === 0
  return isMapped || isNat64 ? { family: 4, bits: [d, 0, 0, 0] } : undefined
}

/** The longest run of zeros; of two runs of one length, the first (RFC 5952 4.2.3). */
function longestZeroRun (groups: readonly number[]): readonly [start: number, length: number] {
  let [best, bestLength, length] = [0, 0, 0]
  for (let i = 0; i < groups.length; i++) {
    length = groups[i] === 0 ? length + 1 : 0
    if (length > bestLength) [best, bestLength] = [i + 1 - length, length]
  }
  return [best, bestLength]
}
