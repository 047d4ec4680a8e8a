/** The text of an id that a `keyGenerator` returns: equal ids have equal texts, and different ids different texts. */
import { isDate, isUint8Array } from 'node:util/types'
import { LimitError, show } from '../errors.js'

/**
 * @param answer  of a `keyGenerator`
 * @returns undefined: there is no id, as with `request.headers['x-api-key']`
 *   without such a header; then the client is identified by its address
 * @throws LimitError  for an answer that is no id. It is not counted by the
 *   address: then clients of one address would share a quota, and a client with
 *   many addresses would have many quotas
 */
export function readClientId (answer: unknown): string | undefined {
  if (answer === undefined || answer === null || answer === '') return undefined
  const text = textOf(answer)
  if (typeof text === 'string' && text !== '') return text
  throw new LimitError(`keyGenerator must answer ${clientIdRule}, got ${show(answer)}`)
}

const clientIdRule = 'a string, a finite number, a BigInt, bytes or an object with a toString of its own'

/** @returns no string for a value without a text that distinguishes it from others */
function textOf (id: NonNullable<unknown>): unknown {
  switch (typeof id) {
    case 'string': return id
    case 'bigint': return String(id)
    case 'number': return Number.isFinite(id) ? String(id) : undefined
    case 'object': return textOfObject(id)
    default: return undefined
  }
}

function textOfObject (id: object): unknown {
  // Not as UTF-8: all bytes that are invalid there would become the same character.
  if (isUint8Array(id)) return Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString('hex')
  // [1] and 1 have the same text, and the text of a date lacks the ms.
  if (Array.isArray(id) || ArrayBuffer.isView(id) || isDate(id)) return undefined
  try {
    const text: unknown = id.toString()
    // The toString of Object.prototype, of this context or another.
    return String(text).startsWith('[object ') ? undefined : text
  } catch {
    return undefined
  }
}
