/**
 * A logger runs the application's code: its mixins, serializers and streams. If
 * it throws, the line is lost, but the guard goes on, for example with the
 * switch to memory.
 */
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { Environment } from '../settings/environment.js'

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

/** The logger of one registration; it may throw. */
export function pluginLog ({ log }: FastifyInstance, { logLevel }: Environment): FastifyBaseLogger {
  const bindings = { plugin: 'redis-guard' }
  try {
    return log.child(bindings, logLevel === undefined ? {} : { level: logLevel })
  } catch {
    // A level that this logger does not know is for the application to complain about.
    return log.child(bindings)
  }
}
