/** The checks before anything is created: they warn of settings that work, but may not do what the user expects. */
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

export interface CheckedRegistration {
  readonly options: RedisGuardOptions
  readonly settings: Settings
  readonly registrations: Registrations
}

/** Logs its findings. From then on it notes each route that is added, for the check of a later registration. */
export function checkAtStart (
  fastify: FastifyInstance,
  { options, settings, registrations }: CheckedRegistration,
  log: SafeLog,
  warnings: WarningLog
): void {
  const { global, redis, metrics, environment, limit } = settings
  if (limit.enforce === 0) {
    log.info('the plugin is in shadow: it refuses nothing, except by limits with `shadow` or `enforce` of their own')
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
