/** A value now, or a promise of it: memory answers at once, Redis later. */
export type Awaitable<T> = T | Promise<T>

/** Whether a callback that should have answered has promised to. */
export function isThenable (value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}
