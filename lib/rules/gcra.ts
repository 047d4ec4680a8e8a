/**
 * A bucket that holds `burst` hits and drains `max` hits per window at a steady
 * rate. A client that has used its burst may send one hit every windowMs / max.
 * This is the smoothest load for the service behind the limit. In the first
 * window up to burst + max hits pass. A refusal leaves no trace.
 *
 * Routes of one group may each have their own max. They share the time until
 * the bucket is empty, level / max, because that time passes equally fast for
 * all of them. So each hit fills the bucket by what its own limit says: a fifth
 * of a window at 5 per window, a thousandth at 1000.
 *
 * Source: the continuous-state leaky bucket, equivalent to the virtual
 * scheduling form of the generic cell rate algorithm: ITU-T I.371, annex A.
 */
import { checkProducts, makeRule, type RuleLimit } from './rule.js'

interface Bucket {
  /** content of the bucket: a hit adds windowMs and each ms drains max, so all numbers stay whole */
  readonly level: number
  /** max of the limit that counted last */
  readonly max: number
  /** when the bucket had this level */
  readonly atMs: number
}

export const gcra = makeRule<Bucket>({
  current (stored, nowMs, limit) {
    if (stored === undefined) return { level: 0, max: limit.max, atMs: nowMs }
    if (stored.atMs === nowMs && stored.max === limit.max) return stored
    const elapsedMs = Math.max(0, nowMs - stored.atMs)
    const left = Math.max(0, stored.level - drained(stored, elapsedMs, limit))
    return { level: countedBy(limit.max, stored.max, left), max: limit.max, atMs: nowMs }
  },

  isRepaired (stored, state) {
    return stored.atMs > state.atMs
  },

  fits (state, nowMs, limit, cost) {
    return state.level + cost * limit.windowMs <= capacity(limit)
  },

  accepted (state, limit, cost) {
    // Redis may have accepted a hit that does not fit into this bucket. Then the bucket is full, but never overfull.
    const level = Math.max(state.level, Math.min(state.level + cost * limit.windowMs, capacity(limit)))
    return { level, max: state.max, atMs: state.atMs }
  },

  refused (state) {
    return state
  },

  explained (state, nowMs, limit, cost) {
    const over = state.level + cost * limit.windowMs - capacity(limit)
    return {
      remaining: Math.max(0, Math.floor((capacity(limit) - state.level) / limit.windowMs)),
      resetMs: drainMs(state.level, limit.max, limit),
      retryAfterMs: over <= 0 ? 0 : drainMs(over, limit.max, limit),
      refusals: 0
    }
  }
}, {
  notesRefusals: false,
  hasBurst: true,

  define (limit) {
    checkProducts('gcra', limit)
    const { max, windowMs, burst } = limit
    return { max, windowMs, burst: max === Infinity ? max : burst, excess: 'none', longestMs: windowMs }
  },

  refund (stored, limit, cost, counted) {
    const drainedSince = Math.max(0, stored.atMs - counted.atMs) * limit.max
    return refunded(stored, limit, Math.min(counted.level - drainedSince, cost * limit.windowMs))
  },

  refundAt (stored, limit, cost, countedAtMs) {
    return refunded(stored, limit, cost * limit.windowMs - Math.max(0, stored.atMs - countedAtMs) * limit.max)
  },

  addRefusals (state) {
    return state
  },

  expiresAtMs (state, limit) {
    return state.atMs + drainMs(state.level, state.max, limit)
  },

  isSameWindow () {
    return true
  },

  isEmpty (state) {
    return state.level === 0
  },

  emptied (state) {
    return { level: 0, max: state.max, atMs: state.atMs }
  },

  shift (state, byMs) {
    return { level: state.level, max: state.max, atMs: state.atMs + byMs }
  },

  encode (state, nowMs) {
    return [state.level, state.max, state.atMs - nowMs]
  },

  decode ([level, max, offsetMs], nowMs) {
    return { level, max, atMs: nowMs + offsetMs }
  }
})

/** @param added  the part of a hit that has not drained yet, counted by the limit's max */
function refunded ({ level, max, atMs }: Bucket, limit: RuleLimit, added: number): Bucket {
  // Converted to the max of the bucket, and rounded up as `current` does.
  return { level: Math.max(0, level - countedBy(max, limit.max, Math.max(0, added))), max, atMs }
}

function capacity (limit: RuleLimit): number {
  return limit.burst * limit.windowMs
}

/** How much drains in `elapsedMs`. With max 0 nothing drains until the state expires after a window; then all does. */
function drained ({ level, max }: Bucket, elapsedMs: number, { windowMs }: RuleLimit): number {
  if (max > 0) return elapsedMs * max
  return elapsedMs >= windowMs ? level : 0
}

/**
 * Converts an amount from `otherMax` to `max`, so that it takes the same time to
 * drain. It is rounded up, so no client gains by the conversion. It is capped far
 * beyond any bucket, so it stays a whole number. With a max of 0 nothing
 * drains, and the amount stays the same.
 */
function countedBy (max: number, otherMax: number, amount: number): number {
  if (max === otherMax || max === 0 || otherMax === 0) return amount
  return Math.min(Math.ceil(amount * max / otherMax), beyondAnyBucket)
}

/** Buckets hold less than 2^51: see checkProducts. */
const beyondAnyBucket = 2 ** 52

/** ms that `amount` takes to drain; one window if nothing drains (max 0). */
function drainMs (amount: number, max: number, { windowMs }: RuleLimit): number {
  return max === 0 ? windowMs : Math.ceil(amount / max)
}
