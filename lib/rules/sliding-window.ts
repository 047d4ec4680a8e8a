/**
 * Two windows per key: the hits of the current one, and those of the one
 * before, which fade in proportion as the current one passes. Close to a true
 * log of hits at the price of three integers, with no double quota around a
 * window's end. A refusal leaves no trace.
 *
 * used: hits accepted in the current window. previous: those of the one
 * before. atMs: start of the current window, a whole number of windows after
 * the key's first hit.
 *
 * Compared in hits * ms, so that all numbers stay whole:
 *   previous * (windowMs - elapsed) + (used + cost) * windowMs <= max * windowMs
 *
 * Source: the approximated sliding window of Cloudflare, "How we built rate
 * limiting capable of scaling to millions of domains" (2017).
 */
import type { Limit, LimitState, Rule } from './rule.js'

export const slidingWindow: Rule = {
  current (stored, nowMs, limit) {
    if (stored === undefined) return { used: 0, previous: 0, atMs: nowMs }
    if (this.repaired(stored, nowMs, limit)) return { used: stored.used, previous: stored.previous, atMs: nowMs }
    const elapsedMs = nowMs - stored.atMs
    if (elapsedMs < limit.windowMs) return stored
    if (elapsedMs < 2 * limit.windowMs && stored.used > 0) {
      return { used: 0, previous: stored.used, atMs: stored.atMs + limit.windowMs }
    }
    return { used: 0, previous: 0, atMs: nowMs }
  },

  repaired (stored, nowMs) {
    return stored.atMs > nowMs
  },

  fits (state, nowMs, limit, cost) {
    return fading(state, nowMs, limit) + (state.used + cost) * limit.windowMs <= limit.max * limit.windowMs
  },

  accept (state, limit, cost) {
    return { used: state.used + cost, previous: state.previous, atMs: state.atMs }
  },

  refuse (state) {
    return state
  },

  isUnused (state) {
    return state.used + state.previous === 0
  },

  explain (state, nowMs, limit, cost) {
    const free = (limit.max - state.used) * limit.windowMs - fading(state, nowMs, limit)
    return {
      remaining: Math.max(0, Math.floor(free / limit.windowMs)),
      resetMs: Math.max(0, this.expiresAtMs(state, limit) - nowMs),
      retryAfterMs: this.fits(state, nowMs, limit, cost) ? 0 : passesAtMs(state, limit, cost) - nowMs
    }
  },

  expiresAtMs (state, limit) {
    if (state.used > 0) return state.atMs + 2 * limit.windowMs
    return state.previous > 0 ? state.atMs + limit.windowMs : state.atMs
  }
}

/** What is left of the window before, in hits * ms. */
function fading (state: LimitState, nowMs: number, limit: Limit): number {
  return state.previous * (limit.windowMs - (nowMs - state.atMs))
}

/** The first moment at which a refused hit of `cost` fits, ms since 1970. */
function passesAtMs (state: LimitState, limit: Limit, cost: number): number {
  const { windowMs, max } = limit
  if (cost > max) return state.atMs + 2 * windowMs
  if (state.used + cost <= max) return state.atMs + elapsedUntilFits(state.previous, max - state.used - cost, windowMs)
  // Not before the current window has become the fading one.
  return state.atMs + windowMs + elapsedUntilFits(state.used, max - cost, windowMs)
}

/** ms into a window until `fadingHits` have faded to `room` hits. */
function elapsedUntilFits (fadingHits: number, room: number, windowMs: number): number {
  return Math.max(0, windowMs - Math.floor(room * windowMs / fadingHits))
}
