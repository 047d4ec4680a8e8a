/** The public names of the package. */
export { default } from './plugin.js'
export { default as redisGuard, default as fastifyRateLimit } from './plugin.js'
export type { RateLimitContextConfig } from './plugin.js'
export type {
  CreateRateLimitOptions, errorResponseBuilderContext, FastifyRateLimitOptions, FastifyRateLimitStore,
  FastifyRateLimitStoreCtor, RateLimitHook, RateLimitOptions, RateLimitPluginOptions
} from './compat/types.js'
export type { RateLimitEventInput } from './api/arguments.js'
export type { RedisGuard, BlockOptions } from './api/redis-guard.js'
export { channelNames } from './observers/diagnostics.js'
export type { DecisionMessage } from './observers/diagnostics.js'
export type { ChangedBy } from './limits/change.js'
export type { LimitControl, PeekedLimit } from './limits/control.js'
export type { SetLimit } from './limits/stored-change.js'
export { guardFrameworkErrors } from './http/framework-errors.js'
export type { FrameworkErrorHandler } from './http/framework-errors.js'
export type { AnyReply, AnyRequest, RateLimiter, RateLimitHandler, RateLimitResult } from './http/decorators.js'
export { normalizeIP } from './http/normalize-ip.js'
export type { GuardWarning } from './api/warning.js'
export {
  ArgumentError, ClosedError, GuardError, LimitError, NoCredentialsError, OptionsError, RedisRequiredError,
  RefusalError, StoreUnavailableError, ValueError
} from './errors.js'
export type { GuardErrorCode, OptionProblem, RefusalCode, StoreFailure } from './errors.js'
export type {
  AllowListEntry, ClientId, LimitHeader, LimitHook, MetricsOptions, MetricsRegistry, NamedLimitOptions,
  NoRateLimit, RedisGuardOptions, RefusalContext, RefusalHeader, RouteRateLimitOptions, SingleLimitOptions
} from './settings/options.js'
export type {
  CredentialsSource, RedisClusterOptions, RedisConnectionOptions, OwnRedisClient, RedisCredentials, RedisOption
} from './settings/redis-option.js'
export type { Algorithm } from './rules/algorithms.js'
export type { StoreStatus } from './outage/availability.js'
export type { Block } from './store/block-store.js'
export type { RateLimitEvent, Suspect } from './store/event-store.js'
export type { CustomStore, CustomStoreCallback, CustomStoreConstructor } from './settings/custom-store.js'
