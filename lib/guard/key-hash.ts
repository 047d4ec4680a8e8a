/** A hash in place of what a `keyGenerator` answers, such as an API key, wherever it would be kept or shown. */
import { createHmac } from 'node:crypto'

/** @returns the same for a key on every instance */
export type KeyHash = (key: string) => string

/**
 * HMAC-SHA-256, of which 128 bits are kept: nobody finds a second key for the hash of one.
 *
 * @param secret  the name space of the plugin, or a secret of the user's, without which a key that can be guessed
 *   cannot be found by its hash
 */
export function keyHash (secret: string): KeyHash {
  return key => {
    const digest = createHmac('sha256', secret).update(key, 'utf16le').digest()
    return `${prefix}${digest.subarray(0, 16).toString('base64url')}`
  }
}

/** As it stands in events and log lines. */
export function isKeyHash (text: string): boolean {
  return shape.test(text)
}

const prefix = 'hmac:'
const shape = /^hmac:[\w-]{22}$/
