/** A text may hold a megabyte that a client sent; a copy, since a part of a text keeps all of it alive. */
export function shorten (text: string): string {
  return text.length <= 200 ? text : Buffer.from(`${text.slice(0, 200)}...`).toString()
}
