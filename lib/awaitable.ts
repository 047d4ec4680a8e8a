/** A value now, or a promise of it: memory answers at once, Redis later. */
export type Awaitable<T> = T | Promise<T>
