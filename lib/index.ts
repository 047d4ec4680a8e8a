/** Everything that may be imported. */
export { default } from './plugin.js'
export { default as redisGuard } from './plugin.js'
export type { RedisGuard, BlockOptions, RateLimitEventInput } from './guard/redis-guard.js'
export type { GuardWarning } from './guard/warnings.js'
export { ArgumentError, GuardError, LimitError, NoCredentialsError, OptionsError, StoreUnavailableError, ValueError } from './errors.js'
export type { GuardErrorCode, OptionProblem, StoreFailure } from './errors.js'
export type {
  LimitHeader, LimitHook, MetricsOptions, MetricsRegistry, RateLimitOptions, RedisGuardOptions, RefusalContext, RefusalHeader,
  RouteRateLimitOptions
} from './options.js'
export type { CredentialsSource, RedisConnectionOptions, RedisCredentials, RedisOption } from './redis-option.js'
export type { Algorithm } from './rules/rate-limit.js'
export type { StoreStatus } from './store/failover.js'
export type { Block, RateLimitEvent, Suspect } from './store/store.js'
