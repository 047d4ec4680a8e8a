/**
 * Publishes decisions and switches of the store on channels of node:diagnostics_channel. Without a listener, a message
 * costs one check of a flag.
 */
import { channel } from 'node:diagnostics_channel'
import type { StoreStatus } from '../outage/availability.js'
import type { Decision, Source, Subject } from '../guard/decision.js'

/** The message about an allowed, limited or blocked request. */
export interface DecisionMessage {
  /** Canonical address of the client; undefined: it has none, as on a unix socket. */
  readonly ip: string | undefined
  /** The client that was counted; for a block, the blocked address or range. */
  readonly key: string
  /** Name of the limit; undefined for a block. */
  readonly limit: string | undefined
  /** What decided: a store, or this process by itself (`local`). */
  readonly source: Source
  /** HTTP method of the request. */
  readonly method: string
  /** Pattern of the route, such as `/users/:id`; undefined for a 404. */
  readonly route: string | undefined
  /** Whether the limit or block is in shadow, so that the request passed. */
  readonly shadow: boolean
}

/**
 * The names of the channels. The first three publish a `DecisionMessage`, `switch` the status of the store.
 *
 * @example
 * import diagnostics from 'node:diagnostics_channel'
 *
 * diagnostics.subscribe(channelNames.limited, message => { console.log(message) })
 */
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

/** An observer: publishes allowed, limited and blocked requests. */
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

/** Publishes that another store answers. */
export function publishSwitch (status: StoreStatus): void {
  if (channels.switch.hasSubscribers) channels.switch.publish(status)
}
