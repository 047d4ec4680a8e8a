/** The text of an id that a `keyGenerator` answers: equal ids give equal texts, and different ones different texts. */
import { isDate, isUint8Array } from 'node:util/types'
import { LimitError, show } from '../errors.js'

/**
 * @param answer  of a `keyGenerator`
 * @returns undefined: there is no id, as of `request.headers['x-api-key']`
 *   without such a header; the client is told apart by its address then
 * @throws LimitError  for what identifies nobody: counted by the address,
 *   clients of one address would share a quota, and one with many would have many
 */
export function readClientId (answer: unknown): string | undefined {
  if (answer === undefined || answer === null || answer === '') return undefined
  const text = textOf(answer)
  if (typeof text === 'string' && text !== '') return text
  throw new LimitError(`keyGenerator must answer ${clientIdRule}, got ${show(answer)}`)
}

const clientIdRule = 'a string, a finite number, a BigInt, bytes or an object with a toString of its own'

/** @returns something else than a text: it has none that tells it from others */
function textOf (id: unknown): unknown {
  switch (typeof id) {
    case 'string': return id
    case 'bigint': return String(id)
    case 'number': return Number.isFinite(id) ? String(id) : undefined
    case 'object': return textOfObject(id!)
    default: return undefined
  }
}

function textOfObject (id: object): unknown {
  // As UTF-8, bytes that are none would all be the same character.
  if (isUint8Array(id)) return Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString('hex')
  // The text of a list is also that of its only item, and that of a date lacks the ms.
  if (Array.isArray(id) || ArrayBuffer.isView(id) || isDate(id)) return undefined
  try {
    const text: unknown = id.toString()
    // What Object.prototype has for everything, in this context or another.
    return String(text).startsWith('[object ') ? undefined : text
  } catch {
    return undefined
  }
}
