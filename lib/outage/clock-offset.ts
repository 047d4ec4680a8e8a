/**
 * How far the clock of this process is ahead of Redis' clock. An answer takes
 * time, so each look at Redis' clock only says between which two values the
 * offset lies. The known offset stays as long as it lies between them, so that
 * operations dated by it keep their order however long an answer takes. It moves
 * when a clock is set or another server takes over.
 */
export class ClockOffset {
  readonly #now: () => number
  #ms = Infinity

  /** @param now  ms since 1970 */
  constructor (now: () => number) {
    this.#now = now
  }

  /** ms; Infinity: not known yet */
  get ms (): number {
    return this.#ms
  }

  /**
   * Corrects the offset by an answer that has just come.
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
