/**
 * One window per key, from its first hit. Up to max hits pass in it; at its
 * end the key is forgotten. Cheapest to store, and a client that times it well
 * gets 2 * max around a window's end.
 *
 * Hits that passed and hits that were refused are separate numbers, so that
 * neither depends on max: routes of one group may each have their own max, and
 * a max may change while the window runs.
 */
import { makeRule, sameMomentMs, type LimitState, type RuleLimit } from './rule.js'

interface FixedWindow {
  /** hits that passed */
  readonly used: number
  /** hits that were refused; bans and backoff count them */
  readonly refused: number
  readonly endsAtMs: number
}

export const fixedWindow = makeRule<FixedWindow>({
  current (stored, nowMs, limit) {
    if (stored === undefined || nowMs >= stored.endsAtMs) {
      return { used: 0, refused: 0, endsAtMs: nowMs + limit.windowMs }
    }
    const latestMs = endMs(stored, nowMs, limit)
    return stored.endsAtMs > latestMs ? { used: stored.used, refused: stored.refused, endsAtMs: latestMs } : stored
  },

  isRepaired (stored, state) {
    return stored.endsAtMs > state.endsAtMs
  },

  fits (state, nowMs, limit, cost) {
    return state.used + cost <= limit.max
  },

  accepted (state, limit, cost) {
    return { used: state.used + cost, refused: state.refused, endsAtMs: state.endsAtMs }
  },

  refused (state, nowMs, limit) {
    const refused = { used: state.used, refused: state.refused + 1, endsAtMs: state.endsAtMs }
    return limit.excess === 'none' ? refused : { ...refused, endsAtMs: endMs(refused, nowMs, limit) }
  },

  explained (state, nowMs, limit, cost) {
    const free = limit.max - state.used
    const leftMs = state.endsAtMs - nowMs
    return {
      remaining: Math.max(0, free),
      resetMs: isEmpty(state) ? 0 : leftMs,
      retryAfterMs: cost <= free ? 0 : leftMs,
      refusals: state.refused
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
    return Math.abs(stored.endsAtMs - counted.endsAtMs) <= sameMomentMs(limit) ? takenBack(stored, limit, cost) : stored
  },

  refundAt (stored, limit, cost, countedAtMs) {
    const beginsAtMs = stored.endsAtMs - limit.windowMs
    return countedAtMs >= beginsAtMs - sameMomentMs(limit) ? takenBack(stored, limit, cost) : stored
  },

  addRefusals (state, refusals) {
    return { used: state.used, refused: state.refused + refusals, endsAtMs: state.endsAtMs }
  },

  expiresAtMs (state) {
    return state.endsAtMs
  },

  isSameWindow (a, b, withinMs) {
    return Math.abs(a.endsAtMs - b.endsAtMs) <= withinMs
  },

  isEmpty,

  emptied (state) {
    return { used: 0, refused: 0, endsAtMs: state.endsAtMs }
  },

  shift (state, byMs) {
    return { used: state.used, refused: state.refused, endsAtMs: state.endsAtMs + byMs }
  },

  encode (state, nowMs) {
    return [state.used, state.refused, state.endsAtMs - nowMs]
  },

  decode ([used, refused, offsetMs], nowMs) {
    return { used, refused, endsAtMs: nowMs + offsetMs }
  }
})

/** How a store of the user's own counts, which answers with hits and the end of their window. */
export const storeAlgorithm = 'fixed-window'

/** The counters that such a store keeps. */
export function windowOf (used: number, refused: number, endsAtMs: number): LimitState {
  return fixedWindow.decode([used, refused, endsAtMs], 0)
}

function isEmpty (state: FixedWindow): boolean {
  return state.used + state.refused === 0
}

/** Where refusals begin the window anew, they lock it until it ends. */
function takenBack (stored: FixedWindow, { excess }: RuleLimit, cost: number): FixedWindow {
  const { used, refused, endsAtMs } = stored
  const isLocked = excess !== 'none' && refused > 0
  return isLocked ? stored : { used: Math.max(0, used - cost), refused, endsAtMs }
}

/** End of the window of which a state came about now, ms since 1970. */
function endMs ({ refused }: FixedWindow, nowMs: number, { windowMs, excess, longestMs }: RuleLimit): number {
  if (excess !== 'backoff' || refused === 0) return nowMs + windowMs
  return nowMs + Math.min(windowMs * 2 ** Math.min(refused - 1, mostDoublings), longestMs)
}

/** With more, any window is longer than the longest. */
const mostDoublings = 53
