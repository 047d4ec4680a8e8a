/**
 * Two windows per key: the hits of the current window, and the hits of the
 * window before, which fade as the current window passes. It is close to a true
 * log of hits but stores only three integers. There is no double quota around
 * the end of a window. A refusal leaves no trace.
 *
 * Compared in hits * ms, so that all numbers stay whole:
 *   fading * (windowMs - elapsed) + (used + cost) * windowMs <= max * windowMs
 *
 * Source: the approximated sliding window of Cloudflare, "How we built rate
 * limiting capable of scaling to millions of domains" (2017).
 */
import { checkProducts, makeRule, sameMomentMs, type RuleLimit } from './rule.js'

interface SlidingWindow {
  /** hits accepted in the current window */
  readonly used: number
  /** hits accepted in the window before */
  readonly fading: number
  /** start of the current window, a whole number of windows after the key's first hit */
  readonly startsAtMs: number
}

export const slidingWindow = makeRule<SlidingWindow>({
  current (stored, nowMs, limit) {
    if (stored === undefined) return { used: 0, fading: 0, startsAtMs: nowMs }
    if (stored.startsAtMs > nowMs) return { used: stored.used, fading: stored.fading, startsAtMs: nowMs }
    const elapsedMs = nowMs - stored.startsAtMs
    if (elapsedMs < limit.windowMs) return stored
    if (elapsedMs < 2 * limit.windowMs && stored.used > 0) {
      return { used: 0, fading: stored.used, startsAtMs: stored.startsAtMs + limit.windowMs }
    }
    return { used: 0, fading: 0, startsAtMs: nowMs }
  },

  isRepaired (stored, state) {
    return stored.startsAtMs > state.startsAtMs
  },

  fits,

  accepted (state, limit, cost) {
    return { used: state.used + cost, fading: state.fading, startsAtMs: state.startsAtMs }
  },

  refused (state) {
    return state
  },

  explained (state, nowMs, limit, cost) {
    const free = (limit.max - state.used) * limit.windowMs - fadingPart(state, nowMs, limit)
    return {
      remaining: Math.max(0, Math.floor(free / limit.windowMs)),
      resetMs: Math.max(0, expiresAtMs(state, limit) - nowMs),
      retryAfterMs: fits(state, nowMs, limit, cost) ? 0 : passesAtMs(state, limit, cost) - nowMs,
      refusals: 0
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
    const laterMs = stored.startsAtMs - counted.startsAtMs
    const withinMs = sameMomentMs(limit)
    if (Math.abs(laterMs) <= withinMs) return takenFromCurrent(stored, cost)
    return Math.abs(laterMs - limit.windowMs) <= withinMs ? takenFromFading(stored, cost) : stored
  },

  refundAt (stored, limit, cost, countedAtMs) {
    const isCurrent = countedAtMs >= stored.startsAtMs - sameMomentMs(limit)
    return isCurrent ? takenFromCurrent(stored, cost) : takenFromFading(stored, cost)
  },

  addRefusals (state) {
    return state
  },

  expiresAtMs,

  isSameWindow (a, b, withinMs) {
    return Math.abs(a.startsAtMs - b.startsAtMs) <= withinMs
  },

  isEmpty (state) {
    return state.used + state.fading === 0
  },

  emptied (state) {
    return { used: 0, fading: 0, startsAtMs: state.startsAtMs }
  },

  shift (state, byMs) {
    return { used: state.used, fading: state.fading, startsAtMs: state.startsAtMs + byMs }
  },

  encode (state, nowMs) {
    return [state.used, state.fading, state.startsAtMs - nowMs]
  },

  decode ([used, fading, offsetMs], nowMs) {
    return { used, fading, startsAtMs: nowMs + offsetMs }
  }
})

function fits (state: SlidingWindow, nowMs: number, limit: RuleLimit, cost: number): boolean {
  return fadingPart(state, nowMs, limit) + (state.used + cost) * limit.windowMs <= limit.max * limit.windowMs
}

function expiresAtMs (state: SlidingWindow, limit: RuleLimit): number {
  if (state.used > 0) return state.startsAtMs + 2 * limit.windowMs
  return state.fading > 0 ? state.startsAtMs + limit.windowMs : state.startsAtMs
}

function takenFromCurrent ({ used, fading, startsAtMs }: SlidingWindow, cost: number): SlidingWindow {
  return { used: Math.max(0, used - cost), fading, startsAtMs }
}

function takenFromFading ({ used, fading, startsAtMs }: SlidingWindow, cost: number): SlidingWindow {
  return { used, fading: Math.max(0, fading - cost), startsAtMs }
}

/** How much of the window before still counts, in hits * ms. */
function fadingPart (state: SlidingWindow, nowMs: number, limit: RuleLimit): number {
  return state.fading * (limit.windowMs - (nowMs - state.startsAtMs))
}

/** The first moment at which a refused hit of `cost` fits, ms since 1970. */
function passesAtMs (state: SlidingWindow, limit: RuleLimit, cost: number): number {
  const { windowMs, max } = limit
  if (cost > max) return state.startsAtMs + 2 * windowMs
  const room = max - state.used - cost
  if (room >= 0) return state.startsAtMs + elapsedUntilFits(state.fading, room, windowMs)
  // The hit fits only after the current window has become the fading one.
  return state.startsAtMs + windowMs + elapsedUntilFits(state.used, max - cost, windowMs)
}

/** ms into a window until `fadingHits` have faded to `room` hits. */
function elapsedUntilFits (fadingHits: number, room: number, windowMs: number): number {
  return Math.max(0, windowMs - Math.floor(room * windowMs / fadingHits))
}
