/** The option `store`: a store of the user's own, with the contract of `@fastify/rate-limit`. */

/**
 * Called by a custom store with its answer.
 *
 * `current`: hits of the key in its window, this one included. `ttl`: ms until the window ends.
 */
export type CustomStoreCallback =
  (error: Error | null, result?: { readonly current: number, readonly ttl: number }) => void

/** A store that counts in fixed windows, as `@fastify/rate-limit` takes it. */
export interface CustomStore {
  /**
   * Counts a hit, and begins a window if the key has none.
   *
   * @param timeWindow  ms
   */
  incr (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void
  /**
   * Like `incr`, without counting. Needed for `createRateLimit` with `increment: false`.
   *
   * @param timeWindow  ms
   */
  read? (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void
  /** Returns the store of one route. `options`: those of the plugin, overridden by those of the route. */
  child (options: object): CustomStore
}

/** The class that the option `store` takes. It is called with the options of the plugin. */
export type CustomStoreConstructor = new (options: object) => CustomStore
