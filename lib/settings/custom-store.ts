/** A store of the user's own, as @fastify/rate-limit takes it: the `store` option. */

/** Answers with how often a key has come in its window, this time among them, and in how many ms the window ends. */
export type CustomStoreCallback =
  (error: Error | null, result?: { readonly current: number, readonly ttl: number }) => void

export interface CustomStore {
  /** @param timeWindow  ms */
  incr (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void
  /** the same without counting */
  read? (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void
  /** a store for one route, whose options are those of the plugin and its own */
  child (options: object): CustomStore
}

export type CustomStoreConstructor = new (options: object) => CustomStore
