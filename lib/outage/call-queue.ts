/**
 * A queue for calls to Redis that may come by the thousand at once, as when a
 * list of addresses is blocked. All sent together, they would hold up the event
 * loop and each other until they time out. So a bounded number is under way; the
 * others wait in order, at some hundred bytes each, and several items share a
 * call where one call can do several.
 *
 * The queue sends when the turn of the event loop is over. A call that was sent
 * earlier, while a long loop asks for more, would time out before its answer is
 * read.
 */
import { AsyncResource } from 'node:async_hooks'
import { inThisContext } from '../runtime/async-context.js'
import { timers } from '../runtime/timers.js'

export interface CallQueueOptions<Item, Answer> {
  /** @returns one answer for each item, in their order; when it fails, all of them have failed */
  readonly send: (items: readonly Item[]) => Promise<readonly Answer[]>
  /** the most items in one call */
  readonly inCall: number
  /** the most calls under way */
  readonly atOnce: number
}

interface Waiting<Item, Answer> {
  readonly item: Item
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: unknown) => void
  next: Waiting<Item, Answer> | undefined
}

export class CallQueue<Item, Answer> {
  readonly #options: CallQueueOptions<Item, Answer>
  /** A call serves several callers, so it runs in the asynchronous context of none of them. */
  readonly #sendMore = AsyncResource.bind(() => this.#sendWaiting())
  #isScheduled = false
  /** a linked list: shifting an array of 50,000 items costs more than a call */
  #first: Waiting<Item, Answer> | undefined
  #last: Waiting<Item, Answer> | undefined
  #underWay = 0

  constructor (options: CallQueueOptions<Item, Answer>) {
    this.#options = options
  }

  /** @throws what the call threw, or what the queue was emptied with */
  async ask (item: Item): Promise<Answer> {
    return await new Promise((resolve, reject) => {
      const waiting = { item, resolve, reject, next: undefined }
      if (this.#last === undefined) this.#first = waiting
      else this.#last.next = waiting
      this.#last = waiting
      if (this.#isScheduled || this.#underWay === this.#options.atOnce) return
      this.#isScheduled = true
      timers.setImmediate(this.#sendMore)
    })
  }

  /** Fails the items that wait; calls under way go on. */
  empty (error: Error): void {
    let waiting = this.#first
    this.#first = this.#last = undefined
    for (; waiting !== undefined; waiting = waiting.next) waiting.reject(error)
  }

  #sendWaiting (): void {
    const { send, inCall, atOnce } = this.#options
    this.#isScheduled = false
    while (this.#first !== undefined && this.#underWay < atOnce) {
      const some: Waiting<Item, Answer>[] = []
      for (; this.#first !== undefined && some.length < inCall; this.#first = this.#first.next) some.push(this.#first)
      if (this.#first === undefined) this.#last = undefined
      this.#underWay++
      send(some.map(({ item }) => item))
        .then(
          answers => { for (const [i, answer] of answers.entries()) some[i]?.resolve(answer) },
          error => some.forEach(({ reject }) => reject(error))
        )
        .finally(() => {
          this.#underWay--
          this.#sendMore()
        })
    }
  }
}

/** A queue for calls of any kind. Each runs alone, in the asynchronous context of its caller. */
export class SingleCallQueue {
  readonly #queue: CallQueue<() => Promise<unknown>, unknown>

  /** @param atOnce  the most calls under way */
  constructor (atOnce: number) {
    const send = async (calls: readonly (() => Promise<unknown>)[]) => await Promise.all(calls.map(call => call()))
    this.#queue = new CallQueue({ send, inCall: 1, atOnce })
  }

  /** @throws what the call threw, or what the queue was emptied with */
  async ask<T> (call: () => Promise<T>): Promise<T> {
    return await this.#queue.ask(inThisContext(call)) as T
  }

  /** Fails the items that wait; calls under way go on. */
  empty (error: Error): void {
    this.#queue.empty(error)
  }
}
