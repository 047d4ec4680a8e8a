/** A limit's question about a request, as the guard gets it. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Decision } from '../guard/decision.js'
import type { Guard, GuardedHit, HitStore } from '../guard/guard.js'
import type { OnOutage } from '../settings/options.js'
import type { LimitSettings } from '../settings/limit-settings.js'
import type { CounterKeys } from '../store/keys.js'
import type { Check } from '../rules/rate-limit.js'
import type { Answer } from '../store/limit-store.js'
import { countLater } from './count-when.js'
import type { RequestSubject } from './subject.js'

/** Who asks a limit about a request, and what becomes of the answer. */
export interface Asking {
  readonly request: FastifyRequest
  /** undefined: asked by a function, which has no reply; then each call counts */
  readonly reply: FastifyReply | undefined
  readonly subject: RequestSubject
  /**
   * Called once, in the asynchronous context of whoever asks.
   *
   * @param shown  the key as the user's functions see it
   */
  answer (decision: Decision, shown: string): void
}

/** The limit that is asked. */
export interface AskedLimit {
  readonly name: string
  readonly settings: LimitSettings
  readonly guard: Guard
  readonly store: HitStore | undefined
}

/** Whom a request is counted against, and by what; or why it is not. */
export interface Whom {
  readonly counterKeys: CounterKeys
  /** as the user's functions get it: the very value that a `keyGenerator` answered, which may be no string */
  readonly shown: string
  /**
   * Empty: there is no limit. `exempt`: on the allow list. `repeated`: the same limit has decided the request for this
   * key before
   */
  readonly checks: readonly Check[] | 'exempt' | 'repeated'
}

export class RequestHit implements GuardedHit {
  readonly isEntry = false
  readonly name: string
  readonly subject: RequestSubject
  readonly key: string
  readonly from: string | undefined
  readonly counterKeys: CounterKeys
  readonly checks: readonly Check[]
  readonly isListed: boolean
  readonly onOutage: OnOutage
  readonly store: HitStore | undefined
  readonly #limit: AskedLimit
  readonly #asking: Asking
  readonly #shown: string

  constructor (limit: AskedLimit, asking: Asking, { counterKeys, shown, checks }: Whom) {
    const { client } = asking.subject
    this.name = limit.name
    this.subject = asking.subject
    this.key = counterKeys.client
    this.from = this.key === client.key ? undefined : client.key
    this.counterKeys = counterKeys
    this.checks = typeof checks === 'string' ? none : checks
    this.isListed = checks === 'exempt'
    this.onOutage = limit.settings.onOutage
    this.store = limit.store
    this.#limit = limit
    this.#asking = asking
    this.#shown = shown
  }

  answered (answer: Answer): void {
    this.finish(this.#limit.guard.conclude(this, answer))
  }

  finish (decision: Decision): void {
    this.#countLater(decision)
    this.#asking.answer(decision, this.#shown)
  }

  #countLater (decision: Decision): void {
    const { request, reply } = this.#asking
    const { name, guard, settings: { countWhen } } = this.#limit
    if (countWhen === undefined || reply === undefined) return
    if (decision.kind !== 'allowed' && decision.kind !== 'shadowed') return
    const { taken } = decision
    // A class of the user's cannot take back what it counted, and `countWhen` is refused beside one.
    if (taken?.source !== 'redis' && taken?.source !== 'memory') return
    countLater({ request, reply, name, countWhen, refund: async () => await guard.refund(this, taken) })
  }
}

const none: readonly Check[] = []
