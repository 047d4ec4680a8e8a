/**
 * How far the clock of this process is ahead of Redis' clock. An answer takes
 * time, so each look at Redis' clock says only between which two values the
 * offset lies. The known one stays as long as it lies there: what is dated by
 * it keeps its order, however long an answer takes. A clock that was set, or
 * another server, moves it.
 */
export class ClockOffset {
  readonly #now: () => number
  #ms = Infinity

  /** @param now  ms since 1970 */
  constructor (now: () => number) {
    this.#now = now
  }

  /** Infinity: not known yet */
  get ms (): number {
    return this.#ms
  }

  /**
   * Takes note of an answer that has just come.
   *
   * @param askedAtMs  when Redis was asked
   * @param redisMs    Redis' clock when it answered
   */
  note (askedAtMs: number, redisMs: number): void {
    this.#ms = Math.min(this.#now() - redisMs, Math.max(this.#ms, askedAtMs - redisMs - roundingMs))
  }
}

/** Both clocks are in whole ms. */
const roundingMs = 2
