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
import { makeRule, sameMomentMs, type LimitState, type RuleLimit } from './rule.js'

export const fixedWindow = makeRule<LimitState>({
  current (stored, nowMs, limit) {
    if (stored === undefined || nowMs >= stored.atMs) return { used: 0, previous: 0, atMs: nowMs + limit.windowMs }
    const latestMs = endMs(stored, nowMs, limit)
    return stored.atMs > latestMs ? { used: stored.used, previous: stored.previous, atMs: latestMs } : stored
  },

  isRepaired (stored, nowMs, limit) {
    return stored.atMs > endMs(stored, nowMs, limit)
  },

  fits,

  accepted (state, limit, cost) {
    return { used: state.used + cost, previous: state.previous, atMs: state.atMs }
  },

  refused (state, nowMs, limit) {
    const refused = { used: state.used, previous: state.previous + 1, atMs: state.atMs }
    return limit.excess === 'none' ? refused : { ...refused, atMs: endMs(refused, nowMs, limit) }
  },

  refusalsIn (state) {
    return state.previous
  },

  explained (state, nowMs, limit, cost) {
    return {
      remaining: Math.max(0, limit.max - state.used),
      resetMs: isEmpty(state) ? 0 : state.atMs - nowMs,
      retryAfterMs: fits(state, nowMs, limit, cost) ? 0 : state.atMs - nowMs
    }
  }
}, {
  notesRefusals: true,
  hasBurst: false,

  define ({ max, windowMs, excess, longestMs }) {
    return {
      max,
      windowMs,
      burst: max,
      excess,
      longestMs: excess === 'backoff' ? Math.max(windowMs, longestMs) : windowMs
    }
  },

  refund (stored, limit, cost, counted) {
    return Math.abs(stored.atMs - counted.atMs) <= sameMomentMs(limit) ? takenBack(stored, limit, cost) : stored
  },

  refundAt (stored, limit, cost, countedAtMs) {
    const beginsAtMs = stored.atMs - limit.windowMs
    return countedAtMs >= beginsAtMs - sameMomentMs(limit) ? takenBack(stored, limit, cost) : stored
  },

  addRefusals (state, refusals) {
    return { used: state.used, previous: state.previous + refusals, atMs: state.atMs }
  },

  expiresAtMs (state) {
    return state.atMs
  },

  isSameWindow (a, b, withinMs) {
    return Math.abs(a.atMs - b.atMs) <= withinMs
  },

  isEmpty,

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

/** How a store of the user's own counts, which answers with hits and the end of their window. */
export const storeAlgorithm = 'fixed-window'

/** The counters that such a store keeps. */
export function windowOf (used: number, refused: number, endsAtMs: number): LimitState {
  return { used, previous: refused, atMs: endsAtMs }
}

function fits (state: LimitState, nowMs: number, limit: RuleLimit, cost: number): boolean {
  return state.used + cost <= limit.max
}

function isEmpty (state: LimitState): boolean {
  return state.used + state.previous === 0
}

/** Where refusals begin the window anew, they lock it until it ends. */
function takenBack (stored: LimitState, { excess }: RuleLimit, cost: number): LimitState {
  const { used, previous, atMs } = stored
  const isLocked = excess !== 'none' && previous > 0
  return isLocked ? stored : { used: Math.max(0, used - cost), previous, atMs }
}

/** End of the window of which a state came about now, ms since 1970. */
function endMs ({ previous: refused }: LimitState, nowMs: number, { windowMs, excess, longestMs }: RuleLimit): number {
  if (excess !== 'backoff' || refused === 0) return nowMs + windowMs
  return nowMs + Math.min(windowMs * 2 ** Math.min(refused - 1, mostDoublings), longestMs)
}

/** With more, any window is longer than the longest. */
const mostDoublings = 53
