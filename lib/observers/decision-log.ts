/** One debug line for each decision. */
import type { FastifyBaseLogger } from 'fastify'
import type { GuardEvent } from '../guard/guard.js'
import { safeLog } from './safe-log.js'
import { shorten } from './shorten.js'

/** Loggers other than pino cannot be asked for their level. */
type Logger = FastifyBaseLogger & { isLevelEnabled?: (level: string) => boolean }

/**
 * What the line says is put together only where somebody may read it.
 *
 * @param idLabel  under which Fastify logs the id of a request
 */
export function logDecision (log: Logger, idLabel: string, event: GuardEvent): void {
  // Fastify's own logger of `logger: false` has no level.
  if (log.level === undefined || log.isLevelEnabled?.('debug') === false) return
  const { outcome, source, limit, subject: { client, method, route, requestId } } = event
  const key = shorten(event.key)
  const { address, isPrefix, exempt } = client
  const shownClient = { address: address?.text, key: shorten(client.key), isPrefix, exempt }
  const decision = { outcome, source, limit, client: shownClient, key, method, route }
  safeLog(log).debug({ [idLabel]: shorten(String(requestId)), decision }, outcome)
}
