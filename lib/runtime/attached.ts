/**
 * State that is shared through an object which the application owns: a server,
 * a client. It is kept on that object, so it lives exactly as long.
 */

/**
 * @param key   a plain `Symbol()`: a second copy of this package must not find the state of this one
 * @param make  called when the owner has no such state yet
 */
export function attached<State> (owner: object, key: symbol, make: () => State): State {
  if (Object.hasOwn(owner, key)) return (owner as Readonly<Record<symbol, State>>)[key] as State
  const state = make()
  // Not enumerable: an application that copies or prints the object should not meet it.
  Object.defineProperty(owner, key, { value: state })
  return state
}
