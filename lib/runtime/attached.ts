/**
 * Keeps state on an object that the application owns, such as a server or a
 * client. Registrations share the state through the object, and it lives exactly
 * as long as the object.
 */

/**
 * Returns the state of an owner.
 *
 * @param key   a plain `Symbol()`: a second copy of this package must not find this copy's state
 * @param make  called if the owner has no such state yet
 */
export function attached<State> (owner: object, key: symbol, make: () => State): State {
  if (Object.hasOwn(owner, key)) return (owner as Readonly<Record<symbol, State>>)[key] as State
  const state = make()
  // Not enumerable: an application that copies or prints the object should not see it.
  Object.defineProperty(owner, key, { value: state })
  return state
}
