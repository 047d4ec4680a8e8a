/**
 * A part of all clients: always the same ones, on every instance and after a
 * restart. So the choice uses no secret. A client that chooses its own name can
 * choose whether it is in the part, and so whether a limit with `enforce` below
 * 1 refuses it. Such a limit is for trying out, or for names that the
 * application has verified.
 */

/**
 * @param text  whom it is asked of; of a long one only the ends are read
 * @param part  how many of all, 0 to 1
 * Source: FNV-1a, 32 bits, and the last mixing of MurmurHash3, without which
 *   addresses that follow on each other would stay together.
 */
export function isInPart (text: string, part: number): boolean {
  const read = text.length <= 2 * longestEnd ? text : text.slice(0, longestEnd) + text.slice(-longestEnd)
  let bits = 0x811c9dc5
  for (let i = 0; i < read.length; i++) bits = Math.imul(bits ^ read.charCodeAt(i), 0x01000193)
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return ((bits ^ (bits >>> 16)) >>> 0) / 2 ** 32 < part
}

/** A client may send a megabyte as its name, and each limit asks. Tokens begin alike, but end in their signatures. */
const longestEnd = 500
