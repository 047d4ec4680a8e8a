/** A finding that is no error but needs attention. The message has no numbers: they are fields of the log line. */
export interface GuardWarning {
  readonly code:
    | 'GUARD_WARN_TRUST_PROXY'
    | 'GUARD_WARN_ROUTES_BEFORE'
    | 'GUARD_WARN_UNKNOWN_OPTIONS'
    | 'GUARD_WARN_NO_PASSWORD'
    | 'GUARD_WARN_REDIS_UNUSED'
    | 'GUARD_WARN_OFFLINE_QUEUE'
    | 'GUARD_WARN_EVICTION'
    | 'GUARD_WARN_VOLATILE_EVICTION'
    | 'GUARD_WARN_MEMORY'
    | 'GUARD_WARN_EVICTED'
    | 'GUARD_WARN_FOREIGN_VALUE'
  readonly message: string
}
