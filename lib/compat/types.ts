/** The names of types that @fastify/rate-limit exports, for a project that changes its import. */
import type { LimitHook, RedisGuardOptions, RefusalContext, RouteRateLimitOptions } from '../settings/options.js'
import type { CustomStore, CustomStoreConstructor } from '../settings/custom-store.js'

/** The options of the plugin. */
export type RateLimitPluginOptions = RedisGuardOptions

/** The options in `config.rateLimit` of a route, and those of `fastify.rateLimit`. */
export type RateLimitOptions = RouteRateLimitOptions

/** The options of `fastify.createRateLimit`. It has no reply, and so no `countWhen`. */
export type CreateRateLimitOptions = Omit<RouteRateLimitOptions, 'countWhen'>

/** The hooks in which a limit can run. */
export type RateLimitHook = LimitHook

/**
 * What `errorResponseBuilder` gets beside the request. The guard always gives a `code` and a `limit`. They are optional
 * here, so that a context that a test of yours makes by hand still compiles.
 */
export type errorResponseBuilderContext =
  Omit<RefusalContext, 'code' | 'limit'> & Partial<Pick<RefusalContext, 'code' | 'limit'>>

/** The options that the constructor of a store gets. */
export type FastifyRateLimitOptions = object

/** A store of your own. */
export type FastifyRateLimitStore = CustomStore

/** The class of a store of your own, for the option `store`. */
export type FastifyRateLimitStoreCtor = CustomStoreConstructor
