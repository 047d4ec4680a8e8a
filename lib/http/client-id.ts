/**
 * Converts the id that a `keyGenerator` returns to a string. Equal ids give equal strings, different ids different
 * ones.
 */
import { isDate, isUint8Array } from 'node:util/types'
import { LimitError, show } from '../errors.js'

/**
 * @param answer  of a `keyGenerator`
 * @returns undefined: there is no id, such as `request.headers['x-api-key']` without this header. The caller then uses
 *   the address of the client
 * @throws LimitError  if the answer is no id. Counting by the address instead would give clients of one address one
 *   quota, and a client with many addresses many quotas
 */
export function readClientId (answer: unknown): string | undefined {
  if (answer === undefined || answer === null || answer === '') return undefined
  const text = textOf(answer)
  if (typeof text === 'string' && text !== '') return text
  throw new LimitError(`keyGenerator must answer ${clientIdRule}, got ${show(answer)}`)
}

const clientIdRule = 'a string, a finite number, a BigInt, bytes or an object with a toString of its own'

/** @returns no string if the value has no text that tells it apart from other values */
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
  // As hex, since UTF-8 would turn all invalid bytes into the same character.
  if (isUint8Array(id)) return Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString('hex')
  // [1] and 1 have the same text, and the text of a date has no milliseconds.
  if (Array.isArray(id) || ArrayBuffer.isView(id) || isDate(id)) return undefined
  try {
    const text: unknown = id.toString()
    // The toString of Object.prototype, of this JavaScript context or another.
    return String(text).startsWith('[object ') ? undefined : text
  } catch {
    return undefined
  }
}
