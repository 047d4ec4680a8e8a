/**
 * One registration of the plugin, from its options to its closing. Each step
 * has a file in startup/; what they make stays in the rooms above.
 */
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { RedisGuard } from './api/redis-guard.js'
import { storeMaker } from './compat/custom-store.js'
import type { CreateRateLimitOptions } from './compat/types.js'
import { clientReader } from './http/client-address.js'
import type { RateLimiter, RateLimitHandler } from './http/decorators.js'
import { addHooks } from './http/hooks.js'
import { pluginLog, safeLog } from './observers/safe-log.js'
import { keepTickShape } from './runtime/tick-shape.js'
import type { RedisGuardOptions, RouteRateLimitOptions } from './settings/options.js'
import { resolveOptions } from './settings/settings.js'
import { assemble } from './startup/assembly.js'
import { startBackground } from './startup/background.js'
import { checkAtStart } from './startup/checks.js'
import { close } from './startup/closing.js'
import { connect } from './startup/connecting.js'
import { registrationsOf } from './startup/registrations.js'
import { WarningLog } from './startup/warning-log.js'
import { trustProxyOf } from './startup/warnings.js'

declare module 'fastify' {
  // If one declaration leaves the parameters out, TypeScript does not fill in those of another one, such as that of
  // @fastify/rate-limit.
  // eslint-disable-next-line @typescript-eslint/no-unused-vars
  interface FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider> {
    redisGuard: RedisGuard
    /** A hook that limits whatever it is added to; without options by the plugin's limit, and on its counters. */
    rateLimit (options?: RouteRateLimitOptions): RateLimitHandler
    /** A function that counts a request and says how far its client is. */
    createRateLimit (options?: CreateRateLimitOptions): RateLimiter
  }

  // Inherited, since two declared properties must have the same type, and @fastify/rate-limit declares this one, too.
  interface FastifyContextConfig extends RateLimitContextConfig {}
}

/** What this plugin reads in the `config` of a route. */
export interface RateLimitContextConfig {
  /** This route's own limit; `false`: none. */
  rateLimit?: RouteRateLimitOptions | false
}

async function redisGuard (fastify: FastifyInstance, options: RedisGuardOptions): Promise<void> {
  keepTickShape()
  const settings = resolveOptions(options, process.env)
  const registrations = registrationsOf(fastify)
  const logger = pluginLog(fastify, settings.environment)
  const log = safeLog(logger)
  const warnings = new WarningLog(log)
  checkAtStart(fastify, { options, settings, registrations }, log, warnings)
  const parts = assemble(fastify, { settings, registrations, logger, log, warnings })
  const { clients, guard, registry, memory, lifetime: { checkOpen } } = parts

  const isFirst = !fastify.hasDecorator('redisGuard')
  if (isFirst) fastify.decorate('redisGuard', parts.redisGuard)
  else registrations.within++
  addHooks(fastify, {
    clients,
    guard,
    registry,
    settings,
    namePrefix: isFirst ? '' : `${registrations.within}:`,
    storeFor: storeMaker(options, settings, { memory: memory.limits, commandTimeout: settings.commandTimeout }),
    readClient: clientReader(trustProxyOf(fastify), clients),
    checkOpen
  })

  const background = startBackground(fastify, parts)
  const end = async () => await close(parts, background)
  fastify.addHook('onClose', end)
  await connect(fastify, parts, background, end)
}

export default fp(redisGuard, { fastify: '5.x', name: 'fastify-redis-guard' })
