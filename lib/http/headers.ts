/** What a client is told in headers about the limits that it met. */
import type { FastifyReply } from 'fastify'
import { isTighter } from '../guard/counted.js'
import type { Explanation } from '../rules/rule.js'
import type { Counted, Explained, Uncounted } from '../guard/decision.js'
import type { LimitSettings } from '../settings/limit-settings.js'

type HeaderSettings = Pick<LimitSettings, 'addHeaders' | 'addHeadersOnExceeding' | 'headerNames' | 'standardHeaders'>

/** What the headers of a reply show so far: several hooks may limit one request. */
export interface HeaderState {
  /** of the limit that the plain headers are of */
  tightest: Explanation | undefined
  /** what the standard headers list */
  listed: readonly Explained[]
}

/** Headers of a request that passed. After several hooks they are those of the limit with least left. */
export function setLimitHeaders (
  reply: FastifyReply, decision: Counted | Uncounted, settings: HeaderSettings, state: HeaderState
): void {
  const isTightest = state.tightest === undefined || isTighter(explanationOf(decision), state.tightest)
  const { addHeadersOnExceeding: wanted, headerNames, standardHeaders } = settings
  if (isTightest) setPlainHeaders(reply, decision, { wanted, headerNames }, state)
  if (standardHeaders && decision.kind !== 'uncounted') listLimits(reply, decision, state, isTightest)
}

/** Headers of a request that was refused. They are those of the limit that refuses, whatever passed before. */
export function setRefusalHeaders (
  reply: FastifyReply, decision: Counted, settings: HeaderSettings, state: HeaderState
): void {
  const { addHeaders: wanted, headerNames, standardHeaders } = settings
  setPlainHeaders(reply, decision, { wanted, headerNames }, state)
  if (standardHeaders) listLimits(reply, decision, state, true)
  if (wanted['retry-after'] && canPass(decision)) reply.header('retry-after', retryAfterSeconds(decision))
}

/** Whether such a request passes sooner or later; false: it counts for more than the whole limit. */
export function canPass ({ explanation }: Counted): boolean {
  return explanation.retryAfterMs !== Infinity
}

/** Whole seconds, rounded up: a client that waits for so long passes. At least 1. */
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
  // The limit that is shown now may leave out a header that the one before it has set.
  if (state.tightest !== undefined) for (const name of headerNames) reply.removeHeader(name)
  state.tightest = explanation
  const [limit, remaining, reset] = headerNames
  if (wanted['x-ratelimit-limit']) reply.header(limit, decision.limit.max)
  if (wanted['x-ratelimit-remaining']) reply.header(remaining, explanation.remaining)
  if (wanted['x-ratelimit-reset']) reply.header(reset, Math.ceil(explanation.resetMs / 1000))
}

/** Adds limits to the standard headers. */
function listLimits (reply: FastifyReply, decision: Counted, state: HeaderState, first: boolean): void {
  const own = [decision, ...decision.others]
  state.listed = first ? [...own, ...state.listed] : [...state.listed, ...own]
  setStandardHeaders(reply, state.listed)
}

/**
 * Lists of structured fields, the limit that tells most first. They have no
 * partition key: it would show whom a client is taken for.
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

/** A string of structured fields, which has only what ASCII can print. Source: RFC 9651, 3.3.3 */
function quoted (text: string): string {
  const printable = text.replace(/[\ud800-\udfff]/gu, '\ufffd').replace(/[^ -~]/gu, encodeURIComponent)
  return `"${printable.replace(/["\\]/g, '\\$&')}"`
}

/** An integer of structured fields has 15 digits at most. Source: RFC 9651, 3.3.1 */
function integer (number: number): number {
  return Math.min(Math.ceil(number), 999_999_999_999_999)
}
