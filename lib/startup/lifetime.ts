import { ClosedError } from '../errors.js'

/** Whether the application still runs. */
export class Lifetime {
  #isOver = false

  /** @throws ClosedError  once the application closes */
  readonly checkOpen = (): void => {
    if (this.#isOver) throw new ClosedError()
  }

  end (): void {
    this.#isOver = true
  }
}
