/** Whether the application has begun to close. */
import { ClosedError } from '../errors.js'

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
