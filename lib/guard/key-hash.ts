/** A hash that is kept and shown in place of a `keyGenerator`'s answer, such as an API key. */
import { createHmac } from 'node:crypto'

/** @returns the same hash of a key on every instance */
export type KeyHash = (key: string) => string

/**
 * HMAC-SHA-256, cut to 128 bits: nobody can find a second key with the hash of the first.
 *
 * @param secret  the plugin's name space, or the user's own secret. Without the secret, nobody can test by the hash
 *   whether a guessed key is right
 */
export function keyHash (secret: string): KeyHash {
  return key => {
    const digest = createHmac('sha256', secret).update(key, 'utf16le').digest()
    return `${prefix}${digest.subarray(0, 16).toString('base64url')}`
  }
}

/** Whether a text has the form of a hash, as events and log lines show it. */
export function isKeyHash (text: string): boolean {
  return shape.test(text)
}

const prefix = 'hmac:'
const shape = /^hmac:[\w-]{22}$/
