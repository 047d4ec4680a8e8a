/**
 * Sends many hits in one round trip. The hits of one turn of the event loop are
 * sent when the turn is over, as one script call. A call with `mostChecks` is
 * sent at once: Redis then decides while the turn goes on, and no call blocks it
 * for long. The next call does not wait for the answer to the last.
 */
import { AsyncResource } from 'node:async_hooks'
import type { Answer, Hit, Taken, Unanswered } from '../limit-store.js'
import { timers } from '../../runtime/timers.js'

/**
 * The most checks in one script call. A check takes Redis some 3 us with
 * fixed-window and some 10 us with the other algorithms (measured on 7.0), so a
 * call takes at most a third of a millisecond. Larger calls save little, since 32
 * checks already share the cost of the call itself.
 */
export const mostChecks = 32

/** Decides hits in their order. If it fails, one answer is for all of them. It never rejects. */
export type Send = (hits: readonly Hit[]) => Promise<readonly Taken[] | Unanswered>

/** A hit that waits for its answer, and the asynchronous context in which it was added. */
class WaitingHit extends AsyncResource {
  readonly hit: Hit

  constructor (hit: Hit) {
    super('redis-guard')
    this.hit = hit
  }

  /** A callback that throws ends the process, as without a batch, but only after the other hits have their answers. */
  answer (answer: Answer): void {
    try {
      this.runInAsyncScope(this.hit.answered, this.hit, answer)
    } catch (thrown) {
      timers.setImmediate(() => { throw thrown })
    }
  }
}

export class Batch {
  readonly #send: Send
  /** bound at start, so that a batch runs in the context of no request */
  readonly #flush = AsyncResource.bind(async () => await this.#sendAll())
  #waiting: WaitingHit[] = []
  #checks = 0

  constructor (send: Send) {
    this.#send = send
  }

  /** Adds a hit, which is answered in a later turn of the event loop. */
  add (hit: Hit): void {
    const { length } = hit.checks
    if (this.#waiting.length > 0 && this.#checks + length > mostChecks) this.#flush()
    if (this.#waiting.length === 0) timers.setImmediate(this.#flush)
    this.#waiting.push(new WaitingHit(hit))
    this.#checks += length
    if (this.#checks >= mostChecks) this.#flush()
  }

  async #sendAll (): Promise<void> {
    const all = this.#waiting
    if (all.length === 0) return
    this.#waiting = []
    this.#checks = 0
    const hits: Hit[] = []
    for (const { hit } of all) hits.push(hit)
    const answer = await this.#send(hits)
    for (const [i, waiting] of all.entries()) {
      // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- one answer for each hit, in their order
      waiting.answer('kind' in answer ? answer : answer[i]!)
    }
  }
}
