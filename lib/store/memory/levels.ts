/**
 * Sorts keys into a few collections, by the used part of their quota. A full
 * table evicts from the lowest collection first. A few levels order keys well
 * enough, and moving a key costs the same at any size.
 */

interface Level<T> {
  /** lower bound: used part of the quota, 0 to 1 */
  readonly least: number
  readonly collection: T
}

export class Levels<T> {
  readonly #levels: readonly [Level<T>, ...Level<T>[]]

  /**
   * @param least  lower bounds of the levels, as parts of the quota, ascending
   * @param make   makes the collection of a level
   */
  constructor ([lowest, ...higher]: readonly [0, ...number[]], make: () => T) {
    this.#levels = [{ least: lowest, collection: make() }, ...higher.map(least => ({ least, collection: make() }))]
  }

  /** The collections, least used first. */
  get all (): readonly T[] {
    return this.#levels.map(({ collection }) => collection)
  }

  /** The collection of a level. @param used  used part of the quota, >= 0 */
  of (used: number): T {
    let [found] = this.#levels
    for (const level of this.#levels) if (used >= level.least) found = level
    return found.collection
  }
}
