/**
 * Collections by how much of its quota a key has used: who needs room looks
 * first where least is used. A few levels order keys well enough, and moving a
 * key costs the same however many there are.
 */

interface Level<T> {
  /** part of the quota, 0 to 1 */
  readonly least: number
  readonly collection: T
}

export class Levels<T> {
  readonly #levels: readonly [Level<T>, ...Level<T>[]]

  /**
   * @param least  where each level begins, as a part of the quota, in ascending order
   * @param make   makes the collection of a level
   */
  constructor ([lowest, ...higher]: readonly [0, ...number[]], make: () => T) {
    this.#levels = [{ least: lowest, collection: make() }, ...higher.map(least => ({ least, collection: make() }))]
  }

  /** The collections, of those who have used least first. */
  get all (): readonly T[] {
    return this.#levels.map(({ collection }) => collection)
  }

  /** @param used  part of the quota, from 0 on */
  of (used: number): T {
    let [found] = this.#levels
    for (const level of this.#levels) if (used >= level.least) found = level
    return found.collection
  }
}
