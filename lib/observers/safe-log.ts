/**
 * A logger that never throws. A logger runs code of the application: mixins, serializers and streams. If that code
 * throws, the line is lost, but the guard finishes what it was doing, such as the switch to memory.
 */
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { Environment } from '../settings/environment.js'

/** The levels that the guard logs at. */
export type SafeLog = Pick<FastifyBaseLogger, 'debug' | 'info' | 'warn' | 'error'>

/** Wraps a logger. */
export function safeLog (log: SafeLog): SafeLog {
  const at = (level: keyof SafeLog) => (...line: unknown[]) => {
    try {
      Reflect.apply(log[level], log, line)
    } catch {
      // There is no place left to report the error to.
    }
  }
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
}

/** The logger of one registration. It may throw. */
export function pluginLog ({ log }: FastifyInstance, { logLevel }: Environment): FastifyBaseLogger {
  const bindings = { plugin: 'redis-guard' }
  try {
    return log.child(bindings, logLevel === undefined ? {} : { level: logLevel })
  } catch {
    // The application's logger does not know this level; it may have levels of its own.
    return log.child(bindings)
  }
}
