/** What is looked at before anything is made: settings that work, but not as somebody may believe. */
import type { FastifyInstance } from 'fastify'
import type { SafeLog } from '../observers/safe-log.js'
import type { RedisGuardOptions } from '../settings/options.js'
import { ignoredOptions, type Settings } from '../settings/settings.js'
import type { Registrations } from './registrations.js'
import { routesBefore, watchRoutes } from './routes-before.js'
import type { WarningLog } from './warning-log.js'
import {
  checkOfflineQueue, checkPassword, checkRoutesBefore, checkTrustProxy, checkUnusedRedis, trustProxyOf, unknownOptions
} from './warnings.js'

export interface Checked {
  readonly options: RedisGuardOptions
  readonly settings: Settings
  readonly registrations: Registrations
}

/** Logs what it finds, and from then on notes the routes that are added, for registrations that come later. */
export function checkAtStart (
  fastify: FastifyInstance, { options, settings, registrations }: Checked, log: SafeLog, warnings: WarningLog
): void {
  const { global, redis, metrics, environment, limit } = settings
  if (limit.enforce === 0) {
    log.info('the plugin is in shadow: blocks, and limits without `enforce` or `shadow` of their own, refuse nothing')
  }
  const metricsPath = metrics !== false && metrics.path
  const routes = routesBefore(fastify, { global, seen: registrations.routes, metricsPath })
  const found = [
    unknownOptions(ignoredOptions(options)),
    checkTrustProxy(trustProxyOf(fastify)),
    checkRoutesBefore(routes, global),
    checkUnusedRedis(redis),
    checkPassword(redis, environment.production),
    checkOfflineQueue(redis)
  ]
  for (const warning of found) if (warning !== undefined) warnings.warn(warning)
  watchRoutes(fastify, registrations.routes)
}
