/** Ways in which a function of the application's fails. None may end the process, which tap takes for a failed test. */

const error = new Error('not today')
const rejecting = { then: (kept: unknown, broken: (error: Error) => void) => broken(error) }

/** What is thrown need be no error. */
const [nothing, text]: readonly unknown[] = [undefined, 'not today']

/** Before it returns. */
export const failingAtOnce: Readonly<Record<string, () => never>> = {
  'throws an error': () => { throw error },
  'throws nothing': () => { throw nothing },
  'throws a text': () => { throw text },
  'throws what cannot be made a text': () => { throw Object.create(null) }
}

/** Later, or where somebody waits for what it has answered. */
export const failingLater: Readonly<Record<string, () => unknown>> = {
  'rejects with an error': async () => { throw error },
  'rejects with nothing': async () => { throw nothing },
  'rejects with what cannot be made a text': async () => { throw Object.create(null) },
  'rejects after a while': async () => await new Promise((resolve, reject) => { setTimeout(reject, 5, error) }),
  'answers a thenable that rejects': () => rejecting,
  'answers a thenable that throws': () => ({ then: () => { throw error } }),
  'answers a function that is a thenable': () => Object.assign(() => {}, rejecting)
}

/** Its answer fails when it is looked at, which may be either. */
export const failingWhenRead: Readonly<Record<string, () => unknown>> = {
  'answers what throws when it is read': () => ({ get then () { throw error } })
}
