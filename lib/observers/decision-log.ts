/** One log line of level `debug` for each decision. */
import type { FastifyBaseLogger } from 'fastify'
import type { Decision, Subject } from '../guard/decision.js'
import { safeLog } from './safe-log.js'
import { shorten } from './shorten.js'

/** Only pino has `isLevelEnabled`. */
type Logger = FastifyBaseLogger & { isLevelEnabled?: (level: string) => boolean }

export class DecisionLog {
  readonly #log: Logger
  readonly #idLabel: string

  /** @param idLabel  the field in which Fastify logs the id of a request */
  constructor (log: Logger, idLabel: string) {
    this.#log = log
    this.#idLabel = idLabel
  }

  /** Builds the line only if the logger would write it: this runs for each request. */
  note ({ kind: outcome, source, name: limit, key }: Decision, subject: Subject): void {
    const log = this.#log
    // With `logger: false`, Fastify's logger has no level.
    if (log.level === undefined || log.isLevelEnabled?.('debug') === false) return
    const { client: { address, key: clientKey, isPrefix, exempt }, method, route, requestId } = subject
    const client = { address: address?.text, key: shorten(clientKey), isPrefix, exempt }
    const decision = { outcome, source, limit, client, key: shorten(key), method, route }
    safeLog(log).debug({ [this.#idLabel]: shorten(String(requestId)), decision }, outcome)
  }
}
