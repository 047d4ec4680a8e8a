/** What a client is told in headers about the limit that it met. */
import type { FastifyReply } from 'fastify'
import type { LimitHeader, RefusalHeader } from '../options.js'
import type { Counted, Uncounted } from '../rules/verdict.js'

/** Headers of a request that passed. */
export function setLimitHeaders (reply: FastifyReply, verdict: Counted | Uncounted, wanted: Readonly<Record<LimitHeader, boolean>>): void {
  const { limit } = verdict
  const { remaining, resetMs } = verdict.kind === 'uncounted' ? { remaining: limit.max, resetMs: 0 } : verdict.explanation
  if (wanted['x-ratelimit-limit']) reply.header('x-ratelimit-limit', limit.max)
  if (wanted['x-ratelimit-remaining']) reply.header('x-ratelimit-remaining', remaining)
  if (wanted['x-ratelimit-reset']) reply.header('x-ratelimit-reset', Math.ceil(resetMs / 1000))
}

/** Headers of a request that was refused. */
export function setRefusalHeaders (reply: FastifyReply, verdict: Counted, wanted: Readonly<Record<RefusalHeader, boolean>>): void {
  setLimitHeaders(reply, verdict, wanted)
  if (wanted['retry-after']) reply.header('retry-after', retryAfterSeconds(verdict))
}

/** Whole seconds, rounded up: a client that waits for so long passes. At least 1. */
export function retryAfterSeconds ({ explanation }: Counted): number {
  return Math.max(1, Math.ceil(explanation.retryAfterMs / 1000))
}
