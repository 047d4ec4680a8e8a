/** The Fastify plugin: one registration, from its options to its closing. Each step has a file in startup/. */
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
import type { NoRateLimit, RedisGuardOptions, RouteRateLimitOptions } from './settings/options.js'
import { resolveOptions } from './settings/settings.js'
import { assemble } from './startup/assembly.js'
import { startBackground } from './startup/background.js'
import { checkAtStart } from './startup/checks.js'
import { close } from './startup/closing.js'
import { connect } from './startup/connecting.js'
import { registrationsOf } from './startup/registrations.js'
import { WarningLog } from './startup/warning-log.js'
import { lateLimiter, trustProxyOf } from './startup/warnings.js'

declare module 'fastify' {
  // If one declaration leaves the parameters out, TypeScript does not fill in those of another one, such as that of
  // @fastify/rate-limit.
  // eslint-disable-next-line @typescript-eslint/no-unused-vars -- see above
  interface FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider> {
    /**
     * Blocks, events, values and limits at run time, the same on Redis and in memory. Of several registrations in one
     * scope, this is the first one's.
     *
     * @example
     * await app.redisGuard.blockIP('203.0.113.7', 3600, { reason: 'credential stuffing' })
     */
    redisGuard: RedisGuard
    /**
     * Makes a hook that limits the requests for which it runs, in addition to the limit of their route.
     *
     * @param options  default: those of the plugin. With options, the hook has counters of its own, named by the order
     *   in which hooks are made, or by `groupId`. Without options, the hook is the global limit: it uses its counters,
     *   and does not count a request twice
     * @throws OptionsError  if an option is wrong
     *
     * @example
     * // Limits tries to log in to one account, from any address. The schema of the route requires the email.
     * const byAccount = app.rateLimit({
     *   max: 5,
     *   timeWindow: '10 minutes',
     *   keyGenerator: request => (request.body as { email: string }).email.toLowerCase()
     * })
     * app.post('/login', { schema, preHandler: byAccount }, login)
     */
    rateLimit (options?: RouteRateLimitOptions): RateLimitHandler
    /**
     * Makes a function that counts a request and returns where its client stands. It refuses nothing by itself.
     *
     * @param options  as for `rateLimit`. The function counts at every call, even if a hook has counted the request
     * @throws OptionsError  if an option is wrong
     *
     * @example
     * const countExport = app.createRateLimit({ max: 3, timeWindow: '1 hour' })
     * app.get('/export', async (request, reply) => {
     *   const found = await countExport(request)
     *   if (!found.isAllowed && found.isExceeded) return await reply.code(429).send(`Retry in ${found.ttlInSeconds} s`)
     *   return await makeExport()
     * })
     */
    createRateLimit (options?: CreateRateLimitOptions): RateLimiter
  }

  // Inherited: @fastify/rate-limit declares `rateLimit` here too, and two declared properties must have the same type.
  interface FastifyContextConfig extends RateLimitContextConfig {}
}

/** What the plugin reads in the `config` of a route. */
export interface RateLimitContextConfig {
  /** The route's own limit. Default: the global limit; `false`: no limit. */
  rateLimit?: RouteRateLimitOptions | NoRateLimit
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
    checkOpen,
    onLateLimiter: () => warnings.warnOnce(lateLimiter)
  })

  const background = startBackground(fastify, parts)
  const end = async () => await close(parts, background)
  fastify.addHook('onClose', end)
  await connect(fastify, parts, background, end)
}

/**
 * The plugin: limits requests and blocks addresses, on Redis or in memory. Await its registration, since it limits only
 * routes that are added later.
 *
 * @throws OptionsError  if options or environment variables are wrong; it names all of them
 * @throws RedisRequiredError  if `redis` has `required: true`, and Redis cannot be used within `connectTimeout`
 * @throws GuardError  if another plugin serves the path of the metrics, or the registry already has these metrics
 *
 * @example
 * import Fastify from 'fastify'
 * import redisGuard from 'fastify-redis-guard'
 *
 * const app = Fastify({ trustProxy: ['10.0.0.0/8'] }) // the addresses of your load balancers
 * await app.register(redisGuard, {
 *   redis: 'rediss://cache.internal:6379',
 *   max: 100,
 *   timeWindow: '1 minute'
 * })
 * app.get('/', async () => 'hello')
 */
const plugin = fp(redisGuard, { fastify: '5.x', name: 'fastify-redis-guard' })

export default plugin
