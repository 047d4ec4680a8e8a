/**
 * A bucket that holds `burst` hits and drains `max` of them per window,
 * evenly: a client that has used its burst passes once every windowMs / max.
 * Smoothest for what lies behind it; over the first window up to burst + max
 * hits pass. A refusal leaves no trace.
 *
 * used: what is in the bucket, counted so that all numbers stay whole: one hit
 * adds windowMs, each ms takes away max. previous: 0. atMs: when that was so.
 *
 * Source: the continuous-state leaky bucket, equivalent to the virtual
 * scheduling form of the generic cell rate algorithm: ITU-T I.371, annex A.
 */
import type { Limit, Rule } from './rate-limit.js'

export const gcra: Rule = {
  current (stored, nowMs, limit) {
    if (stored === undefined) return { used: 0, previous: 0, atMs: nowMs }
    const elapsedMs = this.repaired(stored, nowMs, limit) ? 0 : nowMs - stored.atMs
    // A limit that was lowered must not lock out for longer than a full bucket of the new one.
    const used = Math.min(capacity(limit), Math.max(0, stored.used - drained(stored.used, elapsedMs, limit)))
    return { used, previous: 0, atMs: nowMs }
  },

  repaired (stored, nowMs) {
    return stored.atMs > nowMs
  },

  fits (state, nowMs, limit, cost) {
    return state.used + cost * limit.windowMs <= capacity(limit)
  },

  accept (state, limit, cost) {
    return { used: state.used + cost * limit.windowMs, previous: 0, atMs: state.atMs }
  },

  refuse (state) {
    return state
  },

  explain (state, nowMs, limit, cost) {
    const over = state.used + cost * limit.windowMs - capacity(limit)
    return {
      remaining: Math.floor((capacity(limit) - state.used) / limit.windowMs),
      resetMs: drainMs(state.used, limit),
      retryAfterMs: over <= 0 ? 0 : drainMs(over, limit)
    }
  },

  expiresAtMs (state, limit) {
    return state.atMs + drainMs(state.used, limit)
  }
}

function capacity (limit: Limit): number {
  return limit.burst * limit.windowMs
}

/** What drains in a time; where nothing ever does (max 0), all at once after a window, when the state expires. */
function drained (used: number, elapsedMs: number, limit: Limit): number {
  if (limit.max > 0) return elapsedMs * limit.max
  return elapsedMs >= limit.windowMs ? used : 0
}

/** How long `amount` takes to drain; a window where nothing ever drains (max 0). */
function drainMs (amount: number, limit: Limit): number {
  return limit.max === 0 ? limit.windowMs : Math.ceil(amount / limit.max)
}
