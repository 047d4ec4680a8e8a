/** A condition that needs attention, but does not stop the application. docs/api.md lists the codes. */
export interface GuardWarning {
  /** Stable name of the warning. */
  readonly code:
    | 'GUARD_WARN_TRUST_PROXY'
    | 'GUARD_WARN_ROUTES_BEFORE'
    | 'GUARD_WARN_UNKNOWN_OPTIONS'
    | 'GUARD_WARN_LATE_LIMITER'
    | 'GUARD_WARN_NO_PASSWORD'
    | 'GUARD_WARN_REDIS_UNUSED'
    | 'GUARD_WARN_OFFLINE_QUEUE'
    | 'GUARD_WARN_EVICTION'
    | 'GUARD_WARN_VOLATILE_EVICTION'
    | 'GUARD_WARN_MEMORY'
    | 'GUARD_WARN_EVICTED'
    | 'GUARD_WARN_FOREIGN_VALUE'
  /** What was found, its effect, and what to do. It has no numbers: those are fields of the log line. */
  readonly message: string
}
