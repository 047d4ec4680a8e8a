/**
 * Messages on channels of node:diagnostics_channel, for whoever wants to know
 * of each decision. Where nobody listens they cost a look at a flag.
 */
import { channel } from 'node:diagnostics_channel'
import type { StoreStatus } from '../outage/availability.js'
import type { Decision, Source, Subject } from '../guard/decision.js'

/** What is told of an allowed, limited or blocked request. */
export interface DecisionMessage {
  /** canonical address of the client; undefined where there is none */
  readonly ip: string | undefined
  /** whom it was counted against; of a block the address or range that is blocked */
  readonly key: string
  /** name of the limit; undefined for a block */
  readonly limit: string | undefined
  readonly source: Source
  readonly method: string
  /** pattern of the route; undefined for a 404 */
  readonly route: string | undefined
  /** refused only in shadow: the request passed */
  readonly shadow: boolean
}

export const channelNames = {
  allowed: 'fastify-redis-guard:allowed',
  limited: 'fastify-redis-guard:limited',
  blocked: 'fastify-redis-guard:blocked',
  switch: 'fastify-redis-guard:switch'
} as const

const channels = {
  allowed: channel(channelNames.allowed),
  limited: channel(channelNames.limited),
  blocked: channel(channelNames.blocked),
  switch: channel(channelNames.switch)
}

/** An observer of decisions. */
export function publishDecision ({ kind, source, name: limit, key }: Decision, subject: Subject): void {
  const ofShadow = limit === undefined ? 'blocked' : 'limited'
  const name = kind === 'shadowed' ? ofShadow : kind
  if (name !== 'allowed' && name !== 'limited' && name !== 'blocked') return
  const to = channels[name]
  if (!to.hasSubscribers) return
  const { client, method, route } = subject
  const shadow = kind === 'shadowed'
  to.publish({ ip: client.address?.text, key, limit, source, method, route, shadow } satisfies DecisionMessage)
}

/** The store that answers has changed. */
export function publishSwitch (status: StoreStatus): void {
  if (channels.switch.hasSubscribers) channels.switch.publish(status)
}
