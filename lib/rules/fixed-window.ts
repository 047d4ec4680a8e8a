/**
 * One window per key, from its first hit. Up to max hits pass in it; at its
 * end the key is forgotten. Cheapest to store, and a client that times it well
 * gets 2 * max around a window's end.
 *
 * used: hits accepted, plus one for each hit refused after the window was used
 * up: nearly all refusals, so that counting is one addition. previous: refusals
 * that are none of used: of a hit of cost 10 that does not fit into the last 5,
 * which it leaves for cheaper ones, and those before hits were given back. In a
 * window that is used up these are part of used as well. Bans and backoff are
 * defined on all of them. atMs: end of the window.
 */
import type { Limit, LimitState, Rule } from './rate-limit.js'

export const fixedWindow: Rule = {
  current (stored, nowMs, limit) {
    if (stored === undefined || nowMs >= stored.atMs) return { used: 0, previous: 0, atMs: nowMs + limit.windowMs }
    if (this.repaired(stored, nowMs, limit)) return { ...stored, atMs: endMs(stored, nowMs, limit) }
    return stored
  },

  repaired (stored, nowMs, limit) {
    return stored.atMs > endMs(stored, nowMs, limit)
  },

  fits (state, nowMs, limit, cost) {
    return state.used + cost <= limit.max
  },

  accept (state, limit, cost) {
    return folded(state.used + cost, state.previous, state.atMs, limit)
  },

  refuse (state, nowMs, limit) {
    const refused = folded(state.used, state.previous + 1, state.atMs, limit)
    return limit.excess === 'none' ? refused : { ...refused, atMs: endMs(refused, nowMs, limit) }
  },

  explain (state, nowMs, limit, cost) {
    const resetMs = state.used + state.previous === 0 ? 0 : state.atMs - nowMs
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

/** What is used up keeps its refusals in one number. */
function folded (used: number, previous: number, atMs: number, { max }: Limit): LimitState {
  return used < max ? { used, previous, atMs } : { used: used + previous, previous: 0, atMs }
}

/** Hits that were refused in this window. */
export function refusals ({ used, previous }: LimitState, { max }: Limit): number {
  return Math.max(0, used - max) + previous
}

/** End of the window of which a state came about now, ms since 1970. */
function endMs (state: LimitState, nowMs: number, limit: Limit): number {
  const refused = limit.excess === 'backoff' ? refusals(state, limit) : 0
  if (refused === 0) return nowMs + limit.windowMs
  return Math.min(nowMs + limit.windowMs * 2 ** Math.min(refused - 1, mostDoublings), Number.MAX_SAFE_INTEGER)
}

/** With more, any window is longer than the longest. */
const mostDoublings = 53
