/** Cuts strings that a client sent, which may be a megabyte long, to 200 characters. */
export function shorten (text: string): string {
  // A copy: a slice of a string keeps the whole string in memory.
  return text.length <= 200 ? text : Buffer.from(`${text.slice(0, 200)}...`).toString()
}
