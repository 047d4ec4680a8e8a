/** What a client is told in headers about the limits that it met. */
import type { FastifyReply } from 'fastify'
import type { Counted, Explained, Uncounted } from '../rules/verdict.js'
import type { LimitSettings } from '../settings.js'

type HeaderSettings = Pick<LimitSettings, 'addHeaders' | 'addHeadersOnExceeding' | 'headerNames' | 'standardHeaders'>

/** Headers of a request that passed. */
export function setLimitHeaders (reply: FastifyReply, verdict: Counted | Uncounted, settings: HeaderSettings): void {
  setHeaders(reply, verdict, settings.addHeadersOnExceeding, settings)
}

/** Headers of a request that was refused. */
export function setRefusalHeaders (reply: FastifyReply, verdict: Counted, settings: HeaderSettings): void {
  setHeaders(reply, verdict, settings.addHeaders, settings)
  if (settings.addHeaders['retry-after'] && canPass(verdict)) reply.header('retry-after', retryAfterSeconds(verdict))
}

/** Whether such a request passes sooner or later; false: it counts for more than the whole limit. */
export function canPass ({ explanation }: Counted): boolean {
  return explanation.retryAfterMs !== Infinity
}

/** Whole seconds, rounded up: a client that waits for so long passes. At least 1. */
export function retryAfterSeconds ({ explanation }: Counted): number {
  return Math.max(1, Math.ceil(explanation.retryAfterMs / 1000))
}

function setHeaders (reply: FastifyReply, verdict: Counted | Uncounted, wanted: LimitSettings['addHeadersOnExceeding'], { headerNames, standardHeaders }: HeaderSettings): void {
  const { limit } = verdict
  const { remaining, resetMs } = verdict.kind === 'uncounted' ? { remaining: limit.max, resetMs: 0 } : verdict.explanation
  if (wanted['x-ratelimit-limit']) reply.header(headerNames[0]!, limit.max)
  if (wanted['x-ratelimit-remaining']) reply.header(headerNames[1]!, remaining)
  if (wanted['x-ratelimit-reset']) reply.header(headerNames[2]!, Math.ceil(resetMs / 1000))
  if (standardHeaders !== false && verdict.kind !== 'uncounted') setStandardHeaders(reply, [verdict, ...verdict.others])
}

/**
 * Lists of structured fields, the limit that tells most first. They have no
 * partition key: it would show whom a client is taken for.
 * Source: draft-ietf-httpapi-ratelimit-headers-10 and -11, which agree in this
 */
function setStandardHeaders (reply: FastifyReply, limits: readonly Explained[]): void {
  reply.header('ratelimit-policy', limits.map(({ name, limit }) => `${quoted(name)};q=${integer(limit.max)};w=${integer(limit.windowMs / 1000)}`).join(', '))
  reply.header('ratelimit', limits.map(({ name, explanation: { remaining, resetMs } }) => `${quoted(name)};r=${integer(remaining)};t=${integer(resetMs / 1000)}`).join(', '))
}

/** A string of structured fields, which has only what ASCII can print. Source: RFC 9651, 3.3.3 */
function quoted (text: string): string {
  return `"${text.replace(/[\ud800-\udfff]/gu, '\ufffd').replace(/[^ -~]/gu, encodeURIComponent).replace(/["\\]/g, '\\$&')}"`
}

/** An integer of structured fields has 15 digits at most. Source: RFC 9651, 3.3.1 */
function integer (number: number): number {
  return Math.min(Math.ceil(number), 999_999_999_999_999)
}
