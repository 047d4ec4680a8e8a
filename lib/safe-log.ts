/**
 * A logger is code of the application's, too: its mixins, serializers and
 * streams. A line that it throws at is lost; what was being done goes on, such
 * as the switch to memory when Redis goes.
 */
import type { FastifyBaseLogger } from 'fastify'

/** The levels that the guard logs at. */
export type SafeLog = Pick<FastifyBaseLogger, 'debug' | 'info' | 'warn' | 'error'>

/** The same logger, which does not throw. */
export function safeLog (log: SafeLog): SafeLog {
  const at = (level: keyof SafeLog) => (...line: unknown[]) => {
    try {
      Reflect.apply(log[level], log, line)
    } catch {
      // There is nobody left to tell.
    }
  }
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
}
