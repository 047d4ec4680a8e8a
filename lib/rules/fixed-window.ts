/**
 * One window per key, which begins at the key's first hit. Up to max hits pass
 * in it. When it ends, the key is forgotten. This algorithm is the cheapest to
 * store, but a client that times its requests well gets 2 * max around the end
 * of a window.
 *
 * Allowed and refused hits are separate numbers, so neither depends on max.
 * Routes of one group may each have their own max, and a max may change while
 * the window runs.
 */
import { makeRule, sameMomentMs, type LimitState, type RuleLimit } from './rule.js'

interface FixedWindow {
  /** allowed hits */
  readonly used: number
  /** refused hits; `ban` and `exponentialBackoff` count them */
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
    return Math.abs(stored.endsAtMs - counted.endsAtMs) <= sameMomentMs(limit) ? refunded(stored, limit, cost) : stored
  },

  refundAt (stored, limit, cost, countedAtMs) {
    const beginsAtMs = stored.endsAtMs - limit.windowMs
    return countedAtMs >= beginsAtMs - sameMomentMs(limit) ? refunded(stored, limit, cost) : stored
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

/** The algorithm of a custom store, which answers with a number of hits and the end of their window. */
export const storeAlgorithm = 'fixed-window'

/** The counters of a custom store as a state. */
export function windowOf (used: number, refused: number, endsAtMs: number): LimitState {
  return fixedWindow.decode([used, refused, endsAtMs], 0)
}

function isEmpty (state: FixedWindow): boolean {
  return state.used + state.refused === 0
}

/** Refunds a hit. A window that refusals have restarted stays as it is: it is locked until it ends. */
function refunded (stored: FixedWindow, { excess }: RuleLimit, cost: number): FixedWindow {
  const { used, refused, endsAtMs } = stored
  const isLocked = excess !== 'none' && refused > 0
  return isLocked ? stored : { used: Math.max(0, used - cost), refused, endsAtMs }
}

/** When a window ends that begins now, ms since 1970. With `backoff`, each refusal after the first doubles it. */
function endMs ({ refused }: FixedWindow, nowMs: number, { windowMs, excess, longestMs }: RuleLimit): number {
  if (excess !== 'backoff' || refused === 0) return nowMs + windowMs
  return nowMs + Math.min(windowMs * 2 ** Math.min(refused - 1, mostDoublings), longestMs)
}

/** 2^53 times 1 ms is longer than any longest window. */
const mostDoublings = 53
