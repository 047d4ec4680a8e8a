/**
 * The hash that the option `hashKeys` stores and shows in place of the answer of a `keyGenerator`, such as an API key.
 */
import { createHmac } from 'node:crypto'

/** @returns the same hash of a key on every instance */
export type KeyHash = (key: string) => string

/**
 * HMAC-SHA-256, cut to 128 bits, so that nobody can find a second key with the hash of the first.
 *
 * @param secret  the user's own secret, or the `nameSpace`. Without the secret, nobody can use the hash to test a
 *   guessed key
 */
export function keyHash (secret: string): KeyHash {
  return key => {
    const digest = createHmac('sha256', secret).update(key, 'utf16le').digest()
    return `${prefix}${digest.subarray(0, 16).toString('base64url')}`
  }
}

/** Whether a string has the form of such a hash, as events and log lines show it. */
export function isKeyHash (text: string): boolean {
  return shape.test(text)
}

const prefix = 'hmac:'
const shape = /^hmac:[\w-]{22}$/
