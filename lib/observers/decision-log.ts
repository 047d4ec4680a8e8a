/** One debug line for each decision. */
import type { FastifyBaseLogger } from 'fastify'
import type { Decision, Subject } from '../guard/decision.js'
import { safeLog } from './safe-log.js'
import { shorten } from './shorten.js'

/** Loggers other than pino cannot be asked for their level. */
type Logger = FastifyBaseLogger & { isLevelEnabled?: (level: string) => boolean }

export class DecisionLog {
  readonly #log: Logger
  readonly #idLabel: string

  /** @param idLabel  under which Fastify logs the id of a request */
  constructor (log: Logger, idLabel: string) {
    this.#log = log
    this.#idLabel = idLabel
  }

  /** What the line says is put together only where somebody may read it. */
  note ({ kind: outcome, source, name: limit, key }: Decision, subject: Subject): void {
    const log = this.#log
    // Fastify's own logger of `logger: false` has no level.
    if (log.level === undefined || log.isLevelEnabled?.('debug') === false) return
    const { client: { address, key: clientKey, isPrefix, exempt }, method, route, requestId } = subject
    const client = { address: address?.text, key: shorten(clientKey), isPrefix, exempt }
    const decision = { outcome, source, limit, client, key: shorten(key), method, route }
    safeLog(log).debug({ [this.#idLabel]: shorten(String(requestId)), decision }, outcome)
  }
}
