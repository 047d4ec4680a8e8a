/** The hit of one request on one limit, which the guard decides. */
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

/** A request that asks a limit, and takes its answer. */
export interface Asking {
  readonly request: FastifyRequest
  /** undefined: `createRateLimit` asks, which has no reply; each of its calls counts */
  readonly reply: FastifyReply | undefined
  readonly subject: RequestSubject
  /**
   * Called once, in the asynchronous context of the request.
   *
   * @param shown  the key that the user's functions get
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

/** The client that a request counts against, and its checks; or why the request is not counted. */
export interface Target {
  readonly counterKeys: CounterKeys
  /** the key that the user's functions get: the very value that a `keyGenerator` answered, which may be no string */
  readonly shown: string
  /**
   * Empty: there is no limit. `exempt`: on the allow list. `repeated`: the same limit has already decided the request
   * for this key.
   */
  readonly checks: readonly Check[] | 'exempt' | 'repeated'
}

export class RequestHit implements GuardedHit {
  readonly isEntry = false
  readonly name: string
  readonly subject: RequestSubject
  readonly clientKey: string
  readonly fromAddress: string | undefined
  readonly counterKeys: CounterKeys
  readonly checks: readonly Check[]
  readonly isListed: boolean
  readonly onOutage: OnOutage
  readonly store: HitStore | undefined
  readonly #limit: AskedLimit
  readonly #asking: Asking
  readonly #shown: string

  constructor (limit: AskedLimit, asking: Asking, { counterKeys, shown, checks }: Target) {
    const { client } = asking.subject
    this.name = limit.name
    this.subject = asking.subject
    this.clientKey = counterKeys.client
    this.fromAddress = this.clientKey === client.key ? undefined : client.key
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
    // A class of the user cannot give back a hit, and the start fails if `countWhen` is given beside one.
    if (taken?.source !== 'redis' && taken?.source !== 'memory') return
    countLater({ request, reply, name, countWhen, refund: async () => await guard.refund(this, taken) })
  }
}

const none: readonly Check[] = []
