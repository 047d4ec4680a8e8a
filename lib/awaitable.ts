/** A value now, or a promise of it: memory answers at once, Redis later. */
export type Awaitable<T> = T | Promise<T>

/** Whether a callback that should have answered has promised to. */
export function isThenable (value: unknown): value is PromiseLike<unknown> {
  const mayHaveMethods = typeof value === 'function' || (typeof value === 'object' && value !== null)
  return mayHaveMethods && typeof (value as { then?: unknown }).then === 'function'
}

/**
 * Calls code of the application's that nobody waits for, and that is not to
 * end the process: what it throws, and what a promise of its rejects with.
 *
 * @param call    called before this returns
 * @param failed  told what went wrong; not to throw
 */
export async function attempt (call: () => unknown, failed: (error: unknown) => void): Promise<void> {
  try {
    await call()
  } catch (error) {
    failed(error)
  }
}
