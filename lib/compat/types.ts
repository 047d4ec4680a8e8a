/** Names of types that @fastify/rate-limit exports, for a project that changes its import. */
import type { LimitHook, RedisGuardOptions, RefusalContext, RouteRateLimitOptions } from '../settings/options.js'
import type { CustomStore, CustomStoreConstructor } from '../settings/custom-store.js'

export type RateLimitPluginOptions = RedisGuardOptions

/** A route's `config.rateLimit`, and the options of `fastify.rateLimit`. */
export type RateLimitOptions = RouteRateLimitOptions

/** Options of `fastify.createRateLimit`, which has no reply to ask `countWhen` about. */
export type CreateRateLimitOptions = Omit<RouteRateLimitOptions, 'countWhen'>

export type RateLimitHook = LimitHook

export type errorResponseBuilderContext = RefusalContext

/** Options that the constructor of a store gets. */
export type FastifyRateLimitOptions = object

export type FastifyRateLimitStore = CustomStore

export type FastifyRateLimitStoreCtor = CustomStoreConstructor
