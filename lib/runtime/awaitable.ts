/** Values that may come as a promise, and calls of the application's code that nobody awaits. */

/** A value, or a promise of it: memory answers at once, Redis later. */
export type Awaitable<T> = T | Promise<T>

/** Whether a value is a promise, such as the answer of a callback that must be synchronous. */
export function isThenable (value: unknown): value is PromiseLike<unknown> {
  const mayHaveMethods = typeof value === 'function' || (typeof value === 'object' && value !== null)
  return mayHaveMethods && typeof (value as { then?: unknown }).then === 'function'
}

/**
 * Calls code of the application that nobody awaits. An error or rejection does
 * not end the process.
 *
 * @param call    called synchronously
 * @param failed  called with the error or rejection; must not throw
 */
export async function attempt (call: () => unknown, failed: (error: unknown) => void): Promise<void> {
  try {
    await call()
  } catch (error) {
    failed(error)
  }
}
