/**
 * One text for each address: whatever form a client, a proxy or an operator
 * writes it in, the same host has the same text here, and different hosts
 * never share one. Lists and keys compare these texts.
 *
 * - IPv4-mapped (::ffff:192.0.2.1) and NAT64 (64:ff9b::c000:201) addresses are
 *   the IPv4 address that they carry (RFC 4291 2.5.5.2, RFC 6052 2.1).
 * - IPv6 is written as RFC 5952 says: lower case, longest run of zeros as `::`.
 * - A zone (`%eth0`) goes; so does a port, which some proxies add to
 *   X-Forwarded-For (`192.0.2.1:4711`, `[2001:db8::1]:4711`).
 */
import { isIPv4, isIPv6 } from 'node:net'

/** A canonical address as numbers: one of 32 bits, or eight of 16. */
export type AddressParts = readonly number[]

/** An address, or a range of them, in canonical form. */
export interface Network {
  /** `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32`; a range of one address has no length */
  readonly text: string
  readonly parts: AddressParts
  /** 0 to 32 for IPv4, 0 to 128 for IPv6 */
  readonly prefixLength: number
}

/**
 * @param text  as found in `request.ip`, a header or an argument
 * @returns the canonical text, or undefined for what is no address
 */
export function canonicalAddress (text: unknown): string | undefined {
  if (typeof text !== 'string') return undefined
  if (isIPv4(text)) return text
  const parts = parseAddress(text)
  return parts === undefined ? undefined : formatAddress(parts)
}

/**
 * @param text  an address, or address/length in CIDR form; host bits are cleared
 * @returns undefined for what is neither, and for a range of IPv4-mapped or
 *   NAT64 addresses that is not inside one IPv4 range (such as ::ffff:0:0/90)
 */
export function parseNetwork (text: unknown): Network | undefined {
  if (typeof text !== 'string') return undefined
  const slash = text.indexOf('/')
  if (slash === -1) {
    const parts = parseAddress(text)
    return parts === undefined ? undefined : networkOf(parts, bitsOf(parts))
  }
  const length = text.slice(slash + 1)
  const groups = parseGroups(text.slice(0, slash))
  if (groups === undefined || !/^(0|[1-9]\d{0,2})$/.test(length)) return undefined
  const prefixLength = Number(length)
  if (prefixLength > bitsOf(groups)) return undefined
  // Also with the host bits cleared: `64:ff9b:0:0:1::/64` is the range `64:ff9b::/64`.
  const embedded = embeddedIPv4(groups) ?? embeddedIPv4(mask(groups, prefixLength))
  if (embedded === undefined) return networkOf(groups, prefixLength)
  // All of IPv4 has to be asked for as 0.0.0.0/0: `64:ff9b::/96` rather means "whoever comes through NAT64".
  return prefixLength > 96 ? networkOf([embedded], prefixLength - 96) : undefined
}

/** The range of `prefixLength` bits that an address lies in. */
export function networkOf (parts: AddressParts, prefixLength: number): Network {
  const masked = mask(parts, prefixLength)
  return { text: formatNetwork(masked, prefixLength), parts: masked, prefixLength }
}

/** @param masked  parts of the address, without the bits behind the length */
export function formatNetwork (masked: AddressParts, prefixLength: number): string {
  return prefixLength === bitsOf(masked) ? formatAddress(masked) : `${formatAddress(masked)}/${prefixLength}`
}

/**
 * What clients are told apart by: an IPv4 address, or the IPv6 network that
 * one customer usually has, since its addresses are free to choose.
 *
 * @param address     canonical
 * @param ipv6Subnet  prefix length, 0 to 128
 */
export function clientKey (address: string, ipv6Subnet: number): string {
  if (ipv6Subnet === 128 || isIPv4(address)) return address
  const parts = parseAddress(address)
  return parts === undefined ? address : networkOf(parts, ipv6Subnet).text
}

/** An address in any accepted form as numbers; undefined for what is no address. */
export function parseAddress (text: string): AddressParts | undefined {
  const groups = parseGroups(text)
  if (groups === undefined) return undefined
  const embedded = embeddedIPv4(groups)
  return embedded === undefined ? groups : [embedded]
}

/**
 * The bits of an IPv4 address, as a whole number below 2^32; -1 for any other
 * text. Makes nothing, for it is asked about each request.
 *
 * @param text  canonical
 */
export function ipv4BitsOf (text: string): number {
  let bits = 0
  let byte = 0
  let dots = 0
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === dot) {
      bits = bits * 256 + byte
      byte = 0
      dots++
    } else {
      const digit = code - zero
      if (digit < 0 || digit > 9) return -1
      byte = byte * 10 + digit
    }
  }
  return dots === 3 ? bits * 256 + byte : -1
}

/**
 * Reads an IPv6 address, and makes nothing either.
 *
 * @param text   canonical
 * @param words  4 of 32 bits; undefined contents where it answers false
 * @returns false for any other text
 */
export function ipv6WordsOf (text: string, words: Uint32Array): boolean {
  words.fill(0)
  const end = text.length
  let group = 0
  let at = 0
  let isShortened = false
  // Where `::` stands, the groups behind it are counted, to know where they go.
  while (at < end) {
    if (text.charCodeAt(at) === colon) {
      if (at + 1 === end || text.charCodeAt(at + 1) !== colon) return false
      at += 2
      const next = 8 - groupsFrom(text, at)
      if (next <= group || isShortened) return false
      isShortened = true
      group = next
      continue
    }
    let bits = 0
    for (; at < end && text.charCodeAt(at) !== colon; at++) {
      const digit = hexDigit(text.charCodeAt(at))
      if (digit === -1) return false
      bits = bits * 16 + digit
    }
    if (group > 7 || bits > 0xffff) return false
    words[group >> 1]! |= (group & 1) === 0 ? bits << 16 : bits
    group++
    // One colon parts groups; of two, the first is left for the next round.
    if (at < end && text.charCodeAt(at + 1) !== colon) at++
  }
  return group === 8
}

/** How many groups there are from a place in a text on. */
function groupsFrom (text: string, at: number): number {
  if (at === text.length) return 0
  let groups = 1
  for (let i = at; i < text.length; i++) if (text.charCodeAt(i) === colon) groups++
  return groups
}

function hexDigit (code: number): number {
  if (code >= zero && code <= zero + 9) return code - zero
  return code >= lowerA && code <= lowerA + 5 ? code - lowerA + 10 : -1
}

const [dot, zero, colon, lowerA] = [46, 48, 58, 97]

/** 32 or 128. */
export function bitsOf (parts: AddressParts): number {
  return parts.length === 1 ? 32 : 128
}

/** The address with all but its first `prefixLength` bits cleared. */
export function mask (parts: AddressParts, prefixLength: number): AddressParts {
  if (parts.length === 1) return [prefixLength === 0 ? 0 : (parts[0]! & (-1 << (32 - prefixLength))) >>> 0]
  return parts.map((group, i) => {
    const kept = Math.min(16, Math.max(0, prefixLength - 16 * i))
    return group & (0xffff << (16 - kept)) & 0xffff
  })
}

function formatAddress (parts: AddressParts): string {
  if (parts.length === 1) {
    const bits = parts[0]!
    return `${bits >>> 24}.${bits >>> 16 & 255}.${bits >>> 8 & 255}.${bits & 255}`
  }
  const [start, length] = longestZeroRun(parts)
  let text = ''
  for (let i = 0; i < 8; i++) {
    if (i === start && length > 1) {
      text += '::'
      i += length - 1
    } else {
      text += text === '' || text.endsWith(':') ? parts[i]!.toString(16) : `:${parts[i]!.toString(16)}`
    }
  }
  return text
}

function parseGroups (text: string): AddressParts | undefined {
  if (text.length > longestText) return undefined
  const bare = withoutPort(text)
  if (isIPv4(bare)) return [ipv4Bits(bare)]
  return isIPv6(bare) ? ipv6Groups(bare) : undefined
}

/** `[` 45 characters of IPv6, a zone and a port: more is no address, and is not worth a regular expression. */
const longestText = 100

function withoutPort (text: string): string {
  const bracketed = /^\[([^\]]*)\](?::\d{1,5})?$/.exec(text)
  if (bracketed !== null) return isIPv6(bracketed[1]!) ? bracketed[1]! : text
  return text.replace(/^(\d+\.\d+\.\d+\.\d+):\d{1,5}$/, '$1')
}

function ipv4Bits (text: string): number {
  const [a, b, c, d] = text.split('.').map(Number) as [number, number, number, number]
  return ((a << 24) | (b << 16) | (c << 8) | d) >>> 0
}

function ipv6Groups (text: string): AddressParts {
  const [address] = text.split('%') as [string]
  const [head, tail] = address.split('::') as [string, string | undefined]
  const before = groupsOf(head)
  if (tail === undefined) return before
  const after = groupsOf(tail)
  return [...before, ...new Array<number>(8 - before.length - after.length).fill(0), ...after]
}

function groupsOf (text: string): number[] {
  if (text === '') return []
  return text.split(':').flatMap(group => {
    if (!group.includes('.')) return [parseInt(group, 16)]
    const bits = ipv4Bits(group)
    return [bits >>> 16, bits & 0xffff]
  })
}

function embeddedIPv4 (parts: AddressParts): number | undefined {
  if (parts.length === 1) return undefined
  const [a, b, c, d, e, f, g, h] = parts as [number, number, number, number, number, number, number, number]
  const mapped = (a | b | c | d | e) === 0 && f === 0xffff
  const nat64 = a === 0x64 && b === 0xff9b && (c | d | e | f) === 0
  return mapped || nat64 ? ((g << 16) | h) >>> 0 : undefined
}

function longestZeroRun (groups: AddressParts): readonly [start: number, length: number] {
  let [best, bestLength, length] = [0, 0, 0]
  for (let i = 0; i < 8; i++) {
    length = groups[i] === 0 ? length + 1 : 0
    if (length > bestLength) [best, bestLength] = [i + 1 - length, length]
  }
  return [best, bestLength]
}
