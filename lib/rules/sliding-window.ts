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
import { checkProducts, makeRule, sameMomentMs, type LimitState, type RuleLimit } from './rule.js'

export const slidingWindow = makeRule<LimitState>({
  current (stored, nowMs, limit) {
    if (stored === undefined) return { used: 0, previous: 0, atMs: nowMs }
    if (isRepaired(stored, nowMs)) return { used: stored.used, previous: stored.previous, atMs: nowMs }
    const elapsedMs = nowMs - stored.atMs
    if (elapsedMs < limit.windowMs) return stored
    if (elapsedMs < 2 * limit.windowMs && stored.used > 0) {
      return { used: 0, previous: stored.used, atMs: stored.atMs + limit.windowMs }
    }
    return { used: 0, previous: 0, atMs: nowMs }
  },

  isRepaired,

  fits,

  accepted (state, limit, cost) {
    return { used: state.used + cost, previous: state.previous, atMs: state.atMs }
  },

  refused (state) {
    return state
  },

  refusalsIn () {
    return 0
  },

  explained (state, nowMs, limit, cost) {
    const free = (limit.max - state.used) * limit.windowMs - fading(state, nowMs, limit)
    return {
      remaining: Math.max(0, Math.floor(free / limit.windowMs)),
      resetMs: Math.max(0, expiresAtMs(state, limit) - nowMs),
      retryAfterMs: fits(state, nowMs, limit, cost) ? 0 : passesAtMs(state, limit, cost) - nowMs
    }
  }
}, {
  notesRefusals: false,
  hasBurst: false,

  define (limit) {
    checkProducts('sliding-window', limit)
    const { max, windowMs } = limit
    return { max, windowMs, burst: max, excess: 'none', longestMs: windowMs }
  },

  refund (stored, limit, cost, counted) {
    const laterMs = stored.atMs - counted.atMs
    const withinMs = sameMomentMs(limit)
    if (Math.abs(laterMs) <= withinMs) return takenFromCurrent(stored, cost)
    return Math.abs(laterMs - limit.windowMs) <= withinMs ? takenFromFading(stored, cost) : stored
  },

  refundAt (stored, limit, cost, countedAtMs) {
    const isCurrent = countedAtMs >= stored.atMs - sameMomentMs(limit)
    return isCurrent ? takenFromCurrent(stored, cost) : takenFromFading(stored, cost)
  },

  addRefusals (state) {
    return state
  },

  expiresAtMs,

  isSameWindow (a, b, withinMs) {
    return Math.abs(a.atMs - b.atMs) <= withinMs
  },

  isEmpty (state) {
    return state.used + state.previous === 0
  },

  emptied (state) {
    return { used: 0, previous: 0, atMs: state.atMs }
  },

  shift (state, byMs) {
    return { used: state.used, previous: state.previous, atMs: state.atMs + byMs }
  },

  encode (state, nowMs) {
    return [state.used, state.previous, state.atMs - nowMs]
  },

  decode ([used, previous, offsetMs], nowMs) {
    return { used, previous, atMs: nowMs + offsetMs }
  }
})

function isRepaired (stored: LimitState, nowMs: number): boolean {
  return stored.atMs > nowMs
}

function fits (state: LimitState, nowMs: number, limit: RuleLimit, cost: number): boolean {
  return fading(state, nowMs, limit) + (state.used + cost) * limit.windowMs <= limit.max * limit.windowMs
}

function expiresAtMs (state: LimitState, limit: RuleLimit): number {
  if (state.used > 0) return state.atMs + 2 * limit.windowMs
  return state.previous > 0 ? state.atMs + limit.windowMs : state.atMs
}

function takenFromCurrent ({ used, previous, atMs }: LimitState, cost: number): LimitState {
  return { used: Math.max(0, used - cost), previous, atMs }
}

function takenFromFading ({ used, previous, atMs }: LimitState, cost: number): LimitState {
  return { used, previous: Math.max(0, previous - cost), atMs }
}

/** What is left of the window before, in hits * ms. */
function fading (state: LimitState, nowMs: number, limit: RuleLimit): number {
  return state.previous * (limit.windowMs - (nowMs - state.atMs))
}

/** The first moment at which a refused hit of `cost` fits, ms since 1970. */
function passesAtMs (state: LimitState, limit: RuleLimit, cost: number): number {
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
