/**
 * A logger runs the application's code: its mixins, serializers and streams. If
 * it throws, the line is lost, but the guard goes on, for example with the
 * switch to memory.
 */
import type { FastifyBaseLogger } from 'fastify'

/** The levels that the guard logs at. */
export type SafeLog = Pick<FastifyBaseLogger, 'debug' | 'info' | 'warn' | 'error'>

/** The same logger, but it never throws. */
export function safeLog (log: SafeLog): SafeLog {
  const at = (level: keyof SafeLog) => (...line: unknown[]) => {
    try {
      Reflect.apply(log[level], log, line)
    } catch {
      // There is nowhere left to report it.
    }
  }
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
}
