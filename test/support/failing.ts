/** Ways in which a function of the application fails. None may end the process, which tap counts as a failed test. */

const error = new Error('not today')
const rejecting = { then: (kept: unknown, broken: (error: Error) => void) => broken(error) }

/** A thrown value need not be an Error. */
const [nothing, text]: readonly unknown[] = [undefined, 'not today']

/** Fails before it returns. */
export const failingAtOnce: Readonly<Record<string, () => never>> = {
  'throws an error': () => { throw error },
  'throws nothing': () => { throw nothing },
  'throws a text': () => { throw text },
  'throws what cannot be made a text': () => { throw Object.create(null) }
}

/** Fails later, or when the returned value is awaited. */
export const failingLater: Readonly<Record<string, () => unknown>> = {
  'rejects with an error': async () => { throw error },
  'rejects with nothing': async () => { throw nothing },
  'rejects with what cannot be made a text': async () => { throw Object.create(null) },
  'rejects after a while': async () => await new Promise((resolve, reject) => { setTimeout(reject, 5, error) }),
  'answers a thenable that rejects': () => rejecting,
  'answers a thenable that throws': () => ({ then: () => { throw error } }),
  'answers a function that is a thenable': () => Object.assign(() => {}, rejecting)
}

/** Fails when the returned value is read, which may be at once or later. */
export const failingWhenRead: Readonly<Record<string, () => unknown>> = {
  'answers what throws when it is read': () => ({ get then () { throw error } })
}
