/**
 * One window per key, from its first hit. Up to max hits pass in it; at its
 * end the key is forgotten. Cheapest to store, and a client that times it well
 * gets 2 * max around a window's end.
 *
 * used: hits accepted, plus one for each hit refused after the window was used
 * up (bans and backoff are defined on them). A hit of cost 10 that does not
 * fit into the last 5 leaves them for cheaper hits, so it is not counted.
 * previous: 0. atMs: end of the window.
 */
import type { Limit, LimitState, Rule } from './rate-limit.js'

export const fixedWindow: Rule = {
  current (stored, nowMs, limit) {
    if (stored === undefined || nowMs >= stored.atMs) return { used: 0, previous: 0, atMs: nowMs + limit.windowMs }
    if (this.repaired(stored, nowMs, limit)) return { used: stored.used, previous: 0, atMs: endMs(stored.used, nowMs, limit) }
    return stored
  },

  repaired (stored, nowMs, limit) {
    return stored.atMs > endMs(stored.used, nowMs, limit)
  },

  fits (state, nowMs, limit, cost) {
    return state.used + cost <= limit.max
  },

  accept (state, limit, cost) {
    return { used: state.used + cost, previous: 0, atMs: state.atMs }
  },

  refuse (state, nowMs, limit) {
    return state.used < limit.max ? state : exceeded(state, nowMs, limit)
  },

  explain (state, nowMs, limit, cost) {
    const resetMs = state.used === 0 ? 0 : state.atMs - nowMs
    return {
      remaining: Math.max(0, limit.max - state.used),
      resetMs,
      retryAfterMs: this.fits(state, nowMs, limit, cost) ? 0 : state.atMs - nowMs
    }
  },

  expiresAtMs (state) {
    return state.atMs
  }
}

/** The state after one more refusal, whatever was used. */
export function exceeded (state: LimitState, nowMs: number, limit: Limit): LimitState {
  const used = state.used + 1
  return { used, previous: 0, atMs: limit.excess === 'none' ? state.atMs : endMs(used, nowMs, limit) }
}

/** End of the window of which `used` came about now, ms since 1970. */
function endMs (used: number, nowMs: number, { max, windowMs, excess }: Limit): number {
  if (excess !== 'backoff' || used <= max) return nowMs + windowMs
  return Math.min(nowMs + windowMs * 2 ** Math.min(used - max - 1, mostDoublings), Number.MAX_SAFE_INTEGER)
}

/** With more, any window is longer than the longest. */
const mostDoublings = 53
