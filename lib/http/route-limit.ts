/**
 * The limits of one route, of one hook or function that `fastify.rateLimit`
 * or `fastify.createRateLimit` gave, or of all other routes together: whom a
 * request is counted against, and by which limits.
 */
import { isDeepStrictEqual } from 'node:util'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { inThisContext } from '../runtime/async-context.js'
import { attempt, type Awaitable, isThenable } from '../runtime/awaitable.js'
import { LimitError, type OptionProblem, OptionsError, show } from '../errors.js'
import type { Client } from '../guard/client.js'
import type { CountedHit, Counter, Guard, Subject } from '../guard/guard.js'
import type { LimitRegistry, LiveLimit } from '../limits/registry.js'
import { storeAlgorithm } from '../rules/fixed-window.js'
import { byAddress } from '../rules/limit-name.js'
import type { Limit } from '../rules/rate-limit.js'
import { isInPart } from '../rules/sample.js'
import type { Counted, Skipped, Verdict } from '../rules/verdict.js'
import type { LimitSettings } from '../settings/limit-settings.js'
import { safeLog } from '../observers/safe-log.js'
import { listen } from '../runtime/shared-listener.js'
import type { NamedCheck } from '../store/limit-store.js'
import { readClientId } from './client-id.js'
import { wasDelivered } from './connection.js'
import type { RequestSubject } from './subject.js'
import { answerOf, hidden } from './user-function.js'

/** Called once, with the failure, or with the verdict. */
export type Decided = (failure: Error | undefined, verdict: Verdict | undefined) => void

/** Whom a request is counted against, and by what; or why it is not. */
export interface Counting {
  readonly key: string
  /** as the user's functions get it: the very value that a `keyGenerator` answered, which may be no string */
  readonly shown: string
  /**
   * Empty: there is no limit. `exempt`: on the allow list. `repeated`: the same limit has decided the request for this
   * key before
   */
  readonly checks: readonly NamedCheck[] | 'exempt' | 'repeated'
}

export class Limiter {
  readonly settings: LimitSettings
  readonly #guard: Guard
  readonly #registry: LimitRegistry
  readonly #name: string
  readonly #limits: readonly LiveLimit[]
  readonly #isPlain: boolean
  readonly #counter: Counter | undefined
  /** the same array for each request that has the same checks, so that a batch tells Redis about them once; by which of them are in shadow */
  #fixed = new Map<number, readonly NamedCheck[]>()
  #fixedByAddress = new Map<number, readonly NamedCheck[]>()
  #version: number

  /** @param counter  who decides in place of the guard's store */
  constructor (guard: Guard, registry: LimitRegistry, name: string, settings: LimitSettings, counter?: Counter) {
    const { allowList, ipv6Subnet, keyGenerator } = settings
    if (counter !== undefined) checkForStore(name, settings)
    this.#counter = counter
    this.settings = settings
    this.#guard = guard
    this.#registry = registry
    this.#name = name
    this.#limits = settings.limits.map(definition => registry.add(name, definition.name === '' ? undefined : definition.name, definition, { ipv6Subnet, hasKeyGenerator: keyGenerator !== undefined }))
    this.#isPlain = keyGenerator === undefined && allowList.decide === undefined
    this.#version = registry.version
  }

  /**
   * Decides; before it returns where nobody has to be waited for.
   *
   * @param reply  undefined: there is none, as for who asks by a function; then each call counts
   */
  decide (
    request: FastifyRequest, reply: FastifyReply | undefined, subject: RequestSubject, decided: Decided
  ): void {
    if (this.settings.skip === undefined) return this.#decide(request, reply, subject, decided)
    const continued = (skips: boolean) => {
      if (skips) decided(undefined, this.skipped(this.clientOf(subject)))
      else this.#decide(request, reply, subject, decided)
    }
    const skips = this.skips(request)
    if (typeof skips === 'boolean') continued(skips)
    else skips.then(continued, (thrown: unknown) => decided(thrown as Error, undefined))
  }

  /** Whether the user's `skip` leaves a request out; a promise only where that answers one, or fails. */
  skips (request: FastifyRequest): Awaitable<boolean> {
    let answer: unknown
    try {
      answer = this.settings.skip?.(request)
      if (!isThenable(answer)) return Boolean(answer)
    } catch (thrown) {
      answer = Promise.reject(thrown)
    }
    return answerOf('skip', () => answer).then(Boolean, (thrown: unknown) => {
      throw hidden(thrown, this.#name, request)
    })
  }

  skipped (client: Client): Skipped {
    return { kind: 'skipped', key: client.shown }
  }

  #decide (request: FastifyRequest, reply: FastifyReply | undefined, subject: RequestSubject, decided: Decided): void {
    const client = this.clientOf(subject)
    if (this.#isPlain) {
      const { key } = client
      if (reply !== undefined && !subject.markUnlessCounted(this, key)) return decided(undefined, this.skipped(client))
      const shownTo = showing(client.shown, key, decided)
      if (isListed(client, key, this.settings)) return shownTo(undefined, this.#guard.exempt(subject, this.#name, key))
      const checks = this.#fixedChecks(key, false)
      if (checks !== undefined) return this.#take(request, reply, subject, key, checks, shownTo)
    }
    // Not a catch behind the then: what fails after the decision must not be answered a second time.
    // For a plain limit that is done already.
    const marks = reply === undefined || this.#isPlain ? undefined : (key: string) => subject.markUnlessCounted(this, key)
    this.countingOf(request, client, marks).then(({ key, shown, checks }) => {
      const shownTo = showing(shown, key, decided)
      if (checks === 'repeated') shownTo(undefined, { kind: 'skipped', key })
      else if (checks === 'exempt') shownTo(undefined, this.#guard.exempt(subject, this.#name, key))
      else this.#take(request, reply, subject, key, checks, shownTo)
    }, (thrown: unknown) => decided(thrown as Error, undefined))
  }

  clientOf ({ client }: Subject): Client {
    return client.inSubnet(this.settings.ipv6Subnet)
  }

  /**
   * Whether both are the same limit, so that only the first of them counts a request. Two of them may be one limit
   * where they have a group.
   */
  isSameAs (other: Limiter): boolean {
    if (other === this) return true
    if (other.#name !== this.#name) return false
    const { settings } = other
    return comparedOptions.every(name => settings[name] === this.settings[name]) &&
      isDeepStrictEqual(settings.allowList.given, this.settings.allowList.given) &&
      isDeepStrictEqual(settings.limits, this.settings.limits)
  }

  /** How far a client is; nothing is counted. */
  async peek (key: string, checks: readonly NamedCheck[]): ReturnType<Guard['peek']> {
    return await this.#guard.peek(key, checks, this.settings.onOutage, this.#counter)
  }

  /** Whether a refusal is one by `ban`. */
  isBanned ({ name, refusals }: Pick<Counted, 'name' | 'refusals'>): boolean {
    const { ban } = this.#limits.find(limit => name === limit.name || name === byAddress(limit.name))!.definition
    return ban !== -1 && refusals > ban
  }

  #take (request: FastifyRequest, reply: FastifyReply | undefined, subject: Subject, key: string, checks: readonly NamedCheck[], decided: Decided): void {
    if (checks.length === 0) return decided(undefined, this.#guard.unlimited(subject, this.#name, key))
    const { countWhen, onOutage } = this.settings
    this.#guard.take(subject, key, checks, onOutage, countWhen === undefined || reply === undefined
      ? decided
      : (failure, verdict, taken, source) => {
          if (taken?.accepted) this.#countLater(request, reply, { hit: { key, checks }, taken, source: source! })
          decided(failure, verdict)
        }, this.#counter)
  }

  /** A request whose answer is not delivered as a whole stays counted: hanging up does not evade a limit. */
  #countLater (request: FastifyRequest, reply: FastifyReply, counted: CountedHit): void {
    // For a pipelined request, `finish` comes in the context of the request before it.
    // Many registrations may wait for the same reply.
    const stop = listen(reply.raw, 'finish', inThisContext(() => {
      stop()
      if (!wasDelivered(request, reply)) return
      let counts = true
      try {
        counts = this.settings.countWhen!(request, reply)
        // An async one cannot be waited for; whether it fails later is no matter.
        if (isThenable(counts)) attempt(() => counts, () => {})
        if (typeof counts !== 'boolean') throw new LimitError(`countWhen must answer true or false, got ${show(counts)}`)
      } catch (error) {
        safeLog(request.log).error({ err: error, limit: this.#name }, 'countWhen failed, the request counts')
        return
      }
      if (counts) return
      attempt(async () => await this.#guard.refund(counted), error => {
        safeLog(request.log).error({ err: error }, 'a request that is not to count could not be taken back')
      })
    }))
  }

  /** @param marks  see RequestSubject.markUnlessCounted; undefined: each call counts */
  async countingOf (
    request: FastifyRequest, client: Client, marks?: (key: string) => boolean
  ): Promise<Counting> {
    try {
      const { keyGenerator, allowList } = this.settings
      const answer = keyGenerator === undefined
        ? undefined
        : await answerOf('keyGenerator', () => keyGenerator(request))
      const generated = readClientId(answer)
      const plain = generated ?? client.key
      const key = generated === undefined ? plain : this.#guard.hashKey?.(generated) ?? generated
      const shown = generated === undefined ? client.shown : answer as string
      // Counted by another name: nobody is to use up a quota by sending its owner's address as a key.
      const isFallback = keyGenerator !== undefined && generated === undefined
      if (marks?.(isFallback ? byAddress(key) : key) === false) return { key, shown, checks: 'repeated' }
      if (isListed(client, plain, this.settings)) return { key, shown, checks: 'exempt' }
      const { decide } = allowList
      if (decide !== undefined && await answerOf('allowList', () => decide(request, shown))) {
        return { key, shown, checks: 'exempt' }
      }
      const fixed = this.#fixedChecks(key, isFallback)
      return { key, shown, checks: fixed ?? await this.#computedChecks(request, key, shown, isFallback) }
    } catch (thrown) {
      throw hidden(thrown, this.#name, request)
    }
  }

  /** @returns undefined: one of the limits has to be computed */
  #fixedChecks (key: string, isFallback: boolean): readonly NamedCheck[] | undefined {
    if (this.#version !== this.#registry.version) {
      this.#version = this.#registry.version
      this.#fixed = new Map()
      this.#fixedByAddress = new Map()
    }
    const shadows = this.#shadowsFor(key)
    const known = (isFallback ? this.#fixedByAddress : this.#fixed).get(shadows)
    if (known !== undefined) return known
    const checks: NamedCheck[] = []
    for (const [i, { name, inForce, definition: { cost } }] of this.#limits.entries()) {
      if (inForce === undefined || typeof cost !== 'number') return undefined
      if (inForce.max === Infinity) continue
      checks.push({ name: isFallback ? byAddress(name) : name, limit: inForce, cost, shadow: (shadows & 1 << i) !== 0 })
    }
    ;(isFallback ? this.#fixedByAddress : this.#fixed).set(shadows, checks)
    return checks
  }

  /** A bit for each limit that is in shadow for a client. */
  #shadowsFor (key: string): number {
    let shadows = 0
    for (let i = 0; i < this.#limits.length; i++) {
      const { name, definition: { enforce } } = this.#limits[i]!
      if (enforce < 1 && !isInPart(`${name} ${key}`, enforce)) shadows |= 1 << i
    }
    return shadows
  }

  async #computedChecks (
    request: FastifyRequest, key: string, shown: string, isFallback: boolean
  ): Promise<readonly NamedCheck[]> {
    const shadows = this.#shadowsFor(key)
    const checks = await Promise.all(this.#limits.map(async (live, i): Promise<NamedCheck> => {
      const { name, inForce, definition: { cost } } = live
      try {
        const limit = inForce ?? await computed(live, request, shown)
        const hits = typeof cost === 'number' ? cost : await answerOf('cost', () => cost(request))
        if (!isCost(hits)) throw new LimitError(`cost must be a whole number >= 0, got ${show(hits)}`)
        return {
          name: isFallback ? byAddress(name) : name,
          limit,
          cost: Math.min(hits, Number.MAX_SAFE_INTEGER),
          shadow: (shadows & 1 << i) !== 0
        }
      } catch (thrown) {
        throw hidden(thrown, name, request)
      }
    }))
    return checks.some(isUnlimited) ? checks.filter(check => !isUnlimited(check)) : checks
  }
}

/** Options that must be identical for two hooks to be one limit; their allow lists and limits must be equal. */
const comparedOptions = ['skip', 'countWhen', 'onOutage'] as const

function isUnlimited ({ limit }: NamedCheck): boolean {
  return limit.max === Infinity
}

/** The user's functions get the key that is shown, which may be no string, and not the one that is counted. */
function showing (shown: string, counted: string, decided: Decided): Decided {
  if (shown === counted) return decided
  return (failure, verdict) =>
    decided(failure, verdict !== undefined && 'key' in verdict ? { ...verdict, key: shown } : verdict)
}

async function computed (live: LiveLimit, request: FastifyRequest, key: string): Promise<Limit> {
  const { max, timeWindow } = live.definition
  return live.of(
    typeof max === 'function' ? await answerOf('max', () => max(request, key)) : max,
    typeof timeWindow === 'function' ? await answerOf('timeWindow', () => timeWindow(request, key)) : timeWindow
  )
}

/** However large: a client may choose the number, such as the length of its batch. The number 1e999 of JSON is Infinity. */
function isCost (cost: unknown): cost is number {
  return (Number.isInteger(cost) || cost === Infinity) && (cost as number) >= 0
}

/** What a class that only counts cannot do. */
function checkForStore (name: string, { limits, countWhen }: LimitSettings): void {
  const problems: OptionProblem[] = []
  const refuse = (option: string, received: unknown) => problems.push({ option: `${name} ${option}`, rule: 'left out beside store', received: show(received) })
  if (limits.length > 1 || limits[0]!.name !== '') refuse('limits', limits)
  if (countWhen !== undefined) refuse('countWhen', countWhen)
  for (const { algorithm, cost } of limits) {
    if (algorithm !== storeAlgorithm) refuse('algorithm', algorithm)
    if (cost !== 1) refuse('cost', cost)
  }
  if (problems.length > 0) throw new OptionsError(problems)
}

/** No method has a small letter: a group cannot be called like a route. */
export function groupName (groupId: string): string {
  return `group:${groupId}`
}

/** Addresses are compared with the client's address only: a client that chooses its key can make it look like one. */
function isListed ({ address }: Client, key: string, { allowList: { keys, addresses } }: LimitSettings): boolean {
  if (keys.size > 0 && keys.has(key)) return true
  return !addresses.isEmpty && address !== undefined && addresses.find(address) === true
}
