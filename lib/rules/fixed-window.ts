/**
 * One window per key, from its first hit. Up to max hits pass in it; at its
 * end the key is forgotten. Cheapest to store, and a client that times it well
 * gets 2 * max around a window's end.
 *
 * used: the hits that passed. previous: the hits that were refused, which bans
 * and backoff count. atMs: end of the window. The two numbers are separate, so
 * that they do not depend on max: routes of one group may each have their own
 * max, and a max may change while the window runs.
 */
import type { Limit, LimitState, Rule } from './rule.js'

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
    return { used: state.used + cost, previous: state.previous, atMs: state.atMs }
  },

  refuse (state, nowMs, limit) {
    const refused = { used: state.used, previous: state.previous + 1, atMs: state.atMs }
    return limit.excess === 'none' ? refused : { ...refused, atMs: endMs(refused, nowMs, limit) }
  },

  isUnused (state) {
    return state.used + state.previous === 0
  },

  explain (state, nowMs, limit, cost) {
    return {
      remaining: Math.max(0, limit.max - state.used),
      resetMs: this.isUnused(state) ? 0 : state.atMs - nowMs,
      retryAfterMs: this.fits(state, nowMs, limit, cost) ? 0 : state.atMs - nowMs
    }
  },

  expiresAtMs (state) {
    return state.atMs
  }
}

/** End of the window of which a state came about now, ms since 1970. */
function endMs ({ previous: refused }: LimitState, nowMs: number, { windowMs, excess, longestMs }: Limit): number {
  if (excess !== 'backoff' || refused === 0) return nowMs + windowMs
  return nowMs + Math.min(windowMs * 2 ** Math.min(refused - 1, mostDoublings), longestMs)
}

/** With more, any window is longer than the longest. */
const mostDoublings = 53
