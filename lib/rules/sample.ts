/**
 * Chooses a part of all clients for `enforce`. The part is the same on every
 * instance and after a restart, so the choice uses no secret. A client that
 * chooses its own key can therefore choose whether it is in the part, and so
 * whether a limit with `enforce` below 1 refuses it. Use such a limit to try
 * out a limit, or with keys that the application has verified.
 */

/**
 * Whether a client is in the part.
 *
 * @param text  name of the limit and key of the client; only the two ends of a long text are read
 * @param part  size of the part, 0 to 1
 *
 * Source: FNV-1a, 32 bits, with the final mixing of MurmurHash3. Without the
 *   mixing, consecutive addresses would be chosen together.
 */
export function isInPart (text: string, part: number): boolean {
  const read = text.length <= 2 * longestEnd ? text : text.slice(0, longestEnd) + text.slice(-longestEnd)
  let bits = 0x811c9dc5
  for (let i = 0; i < read.length; i++) bits = Math.imul(bits ^ read.charCodeAt(i), 0x01000193)
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return ((bits ^ (bits >>> 16)) >>> 0) / 2 ** 32 < part
}

/** A client may send a key of a megabyte, and each limit reads it. Tokens begin alike but end in their signatures. */
const longestEnd = 500
