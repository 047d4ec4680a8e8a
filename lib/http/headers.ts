/** Headers about the limits of a request: `x-ratelimit-*`, `retry-after`, and the standard `RateLimit` headers. */
import type { FastifyReply } from 'fastify'
import { isTighter } from '../guard/counted.js'
import type { Explanation } from '../rules/rule.js'
import type { Counted, Explained, Uncounted } from '../guard/decision.js'
import type { LimitSettings } from '../settings/limit-settings.js'

type HeaderSettings = Pick<LimitSettings, 'addHeaders' | 'addHeadersOnExceeding' | 'headerNames' | 'standardHeaders'>

/** What the headers of a reply show so far, since several hooks may limit one request. */
export interface HeaderState {
  /** numbers of the limit that the plain headers show; undefined: none so far */
  tightest: Explanation | undefined
  /** limits that the standard headers list */
  listed: readonly Explained[]
}

/**
 * Headers of a request that passed. If several hooks limit it, the plain headers show the limit with the least left.
 */
export function setLimitHeaders (
  reply: FastifyReply, decision: Counted | Uncounted, settings: HeaderSettings, state: HeaderState
): void {
  const isTightest = state.tightest === undefined || isTighter(explanationOf(decision), state.tightest)
  const { addHeadersOnExceeding: wanted, headerNames, standardHeaders } = settings
  if (isTightest) setPlainHeaders(reply, decision, { wanted, headerNames }, state)
  if (standardHeaders && decision.kind !== 'uncounted') listLimits(reply, decision, state, isTightest)
}

/** Headers of a refused request. They show the limit that refuses, even if another limit has less left. */
export function setRefusalHeaders (
  reply: FastifyReply, decision: Counted, settings: HeaderSettings, state: HeaderState
): void {
  const { addHeaders: wanted, headerNames, standardHeaders } = settings
  setPlainHeaders(reply, decision, { wanted, headerNames }, state)
  if (standardHeaders) listLimits(reply, decision, state, true)
  if (wanted['retry-after'] && canPass(decision)) reply.header('retry-after', retryAfterSeconds(decision))
}

/** Whether the request can ever pass; false: its cost is more than the whole limit. */
export function canPass ({ explanation }: Counted): boolean {
  return explanation.retryAfterMs !== Infinity
}

/** Whole seconds, rounded up, at least 1. A client that waits for so long passes. */
export function retryAfterSeconds ({ explanation }: Counted): number {
  return Math.max(1, Math.ceil(explanation.retryAfterMs / 1000))
}

/** An uncounted request has its whole quota left. */
export function explanationOf (decision: Counted | Uncounted): Explanation {
  return decision.kind === 'uncounted'
    ? { remaining: decision.limit.max, resetMs: 0, retryAfterMs: 0, refusals: 0 }
    : decision.explanation
}

interface PlainHeaders extends Pick<LimitSettings, 'headerNames'> {
  readonly wanted: LimitSettings['addHeadersOnExceeding']
}

function setPlainHeaders (
  reply: FastifyReply, decision: Counted | Uncounted, { wanted, headerNames }: PlainHeaders, state: HeaderState
): void {
  const explanation = explanationOf(decision)
  // This limit may leave out a header that the limit before it has set.
  if (state.tightest !== undefined) for (const name of headerNames) reply.removeHeader(name)
  state.tightest = explanation
  const [limit, remaining, reset] = headerNames
  if (wanted['x-ratelimit-limit']) reply.header(limit, decision.limit.max)
  if (wanted['x-ratelimit-remaining']) reply.header(remaining, explanation.remaining)
  if (wanted['x-ratelimit-reset']) reply.header(reset, Math.ceil(explanation.resetMs / 1000))
}

/** Adds the limits of a decision to the standard headers, before the listed ones or after them. */
function listLimits (reply: FastifyReply, decision: Counted, state: HeaderState, isFirst: boolean): void {
  const own = [decision, ...decision.others]
  state.listed = isFirst ? [...own, ...state.listed] : [...state.listed, ...own]
  setStandardHeaders(reply, state.listed)
}

/**
 * Lists of structured fields, the limit that restricts the client most first. They have no partition key, which would
 * show the client the key it is counted by.
 * Source: draft-ietf-httpapi-ratelimit-headers-11
 */
function setStandardHeaders (reply: FastifyReply, limits: readonly Explained[]): void {
  const policies = limits.map(({ name, limit: { max, windowMs } }) => {
    return `${quoted(name)};q=${integer(max)};w=${integer(windowMs / 1000)}`
  })
  reply.header('ratelimit-policy', policies.join(', '))
  const states = limits.map(({ name, explanation: { remaining, resetMs } }) => {
    return `${quoted(name)};r=${integer(remaining)};t=${integer(resetMs / 1000)}`
  })
  reply.header('ratelimit', states.join(', '))
}

/** A string of structured fields, which may have printable ASCII characters only. Source: RFC 9651, 3.3.3 */
function quoted (text: string): string {
  const printable = text.replace(/[\ud800-\udfff]/gu, '\ufffd').replace(/[^ -~]/gu, encodeURIComponent)
  return `"${printable.replace(/["\\]/g, '\\$&')}"`
}

/** An integer of structured fields has 15 digits at most. Source: RFC 9651, 3.3.1 */
function integer (number: number): number {
  return Math.min(Math.ceil(number), 999_999_999_999_999)
}
