/**
 * The limits of one route, of one hook or function that `fastify.rateLimit`
 * or `fastify.createRateLimit` gave, or of all other routes together: whom a
 * request is counted against, and by which limits.
 */
import { isDeepStrictEqual } from 'node:util'
import type { FastifyRequest } from 'fastify'
import { type Awaitable, isThenable } from '../runtime/awaitable.js'
import { LimitError, type OptionProblem, OptionsError, show } from '../errors.js'
import type { Client } from '../guard/client.js'
import type { Clients } from '../guard/clients.js'
import type { Counted, Subject } from '../guard/decision.js'
import type { Guard, HitStore } from '../guard/guard.js'
import type { LimitRegistry, LiveLimit } from '../limits/registry.js'
import { storeAlgorithm } from '../rules/fixed-window.js'
import { byAddress } from '../rules/limit-name.js'
import type { Check, Limit } from '../rules/rate-limit.js'
import { isInPart } from '../rules/sample.js'
import type { LimitSettings } from '../settings/limit-settings.js'
import { readClientId } from './client-id.js'
import { type AskedLimit, type Asking, RequestHit, type Whom } from './request-hit.js'
import { answerOf, hidden } from './user-function.js'

export class Limiter implements AskedLimit {
  readonly settings: LimitSettings
  readonly guard: Guard
  readonly name: string
  /** who decides in place of the guard's store */
  readonly store: HitStore | undefined
  readonly #clients: Clients
  readonly #registry: LimitRegistry
  readonly #limits: readonly LiveLimit[]
  readonly #isPlain: boolean
  /**
   * The same array for each request that has the same checks, so that a batch tells Redis about them once; by which of
   * them are in shadow.
   */
  #fixed = new Map<number, readonly Check[]>()
  #fixedByAddress = new Map<number, readonly Check[]>()
  #version: number

  constructor ({ clients, guard, registry, name, settings, store }: LimiterParts) {
    const { allowList, ipv6Subnet, keyGenerator } = settings
    if (store !== undefined) checkForStore(name, settings)
    this.store = store
    this.settings = settings
    this.guard = guard
    this.#clients = clients
    this.name = name
    this.#registry = registry
    const tellsApart = { ipv6Subnet, hasKeyGenerator: keyGenerator !== undefined }
    this.#limits = settings.limits.map(definition => {
      return registry.add(name, definition.name === '' ? undefined : definition.name, definition, tellsApart)
    })
    this.#isPlain = keyGenerator === undefined && allowList.decide === undefined
    this.#version = registry.version
  }

  /** Decides; before it returns where nobody has to be waited for. */
  decide (asking: Asking): void {
    if (this.settings.skip === undefined) this.#decide(asking)
    else this.#decideUnlessSkipped(asking)
  }

  #decideUnlessSkipped (asking: Asking): void {
    const continued = (skips: boolean) => skips ? this.#skip(asking) : this.#decide(asking)
    const skips = this.skips(asking.request)
    if (typeof skips === 'boolean') continued(skips)
    else skips.then(continued, (thrown: unknown) => this.#fail(asking, thrown))
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
      throw hidden(thrown, this.name, request)
    })
  }

  #decide (asking: Asking): void {
    const { reply, subject } = asking
    const client = this.clientOf(subject)
    if (this.#isPlain) {
      const { key, counterKeys, shown } = client
      if (reply !== undefined && !subject.markUnlessCounted(this, key)) return this.#skip(asking)
      const checks = isListed(client, key, this.settings) ? 'exempt' : this.#fixedChecks(key, false)
      if (checks !== undefined) return this.#ask(asking, { counterKeys, shown, checks })
    }
    this.#decideLater(asking, client)
  }

  /** Functions of the user's say whom the request is counted against, or by what. */
  #decideLater (asking: Asking, client: Client): void {
    const { reply, subject } = asking
    // Not a catch behind the then: what fails after the decision must not be answered a second time.
    // For a plain limit that is done already.
    const isMarked = reply === undefined || this.#isPlain
    const marks = isMarked ? undefined : (key: string) => subject.markUnlessCounted(this, key)
    this.whomOf(asking.request, client, marks).then(
      whom => this.#ask(asking, whom),
      (thrown: unknown) => this.#fail(asking, thrown)
    )
  }

  #ask (asking: Asking, whom: Whom): void {
    if (whom.checks === 'repeated') return this.#skip(asking, { key: whom.counterKeys.client, shown: whom.shown })
    const hit = new RequestHit(this, asking, whom)
    const decision = this.guard.decide(hit)
    if (decision !== undefined) hit.finish(decision)
  }

  #skip (asking: Asking, { key, shown }: Pick<Client, 'key' | 'shown'> = this.clientOf(asking.subject)): void {
    asking.answer({ kind: 'skipped', source: 'local', key, name: this.name }, shown)
  }

  /** A function of the user's failed, so that nobody knows whom to count. */
  #fail (asking: Asking, thrown: unknown): void {
    const { key, shown } = this.clientOf(asking.subject)
    asking.answer({ kind: 'failed', source: 'local', key, name: this.name, failure: thrown as Error }, shown)
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
    if (other.name !== this.name) return false
    const { settings } = other
    return comparedOptions.every(name => settings[name] === this.settings[name]) &&
      isDeepStrictEqual(settings.allowList.given, this.settings.allowList.given) &&
      isDeepStrictEqual(settings.limits, this.settings.limits)
  }

  /** How far a client is; nothing is counted. */
  async peek (key: string, checks: readonly Check[]): ReturnType<Guard['peek']> {
    return await this.guard.peek({ key, checks, onOutage: this.settings.onOutage, store: this.store })
  }

  /** Whether a refusal is one by `ban`. */
  isBanned ({ name, explanation }: Pick<Counted, 'name' | 'explanation'>): boolean {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a decision names one of its limits
    const { ban } = this.#limits.find(limit => name === limit.name || name === byAddress(limit.name))!.definition
    return ban !== -1 && explanation.refusals > ban
  }

  /** @param marks  see RequestSubject.markUnlessCounted; undefined: each call counts */
  async whomOf (request: FastifyRequest, client: Client, marks?: (key: string) => boolean): Promise<Whom> {
    try {
      const { keyGenerator, allowList } = this.settings
      const answer = keyGenerator === undefined
        ? undefined
        : await answerOf('keyGenerator', () => keyGenerator(request))
      const generated = readClientId(answer)
      const counterKeys = generated === undefined ? client.counterKeys : this.#clients.counterKeysOf(generated)
      const key = counterKeys.client
      const shown = generated === undefined ? client.shown : answer as string
      // Counted by another name: nobody is to use up a quota by sending its owner's address as a key.
      const isFallback = keyGenerator !== undefined && generated === undefined
      if (marks?.(isFallback ? byAddress(key) : key) === false) return { counterKeys, shown, checks: 'repeated' }
      if (isListed(client, generated ?? key, this.settings)) return { counterKeys, shown, checks: 'exempt' }
      const { decide } = allowList
      if (decide !== undefined && await answerOf('allowList', () => decide(request, shown))) {
        return { counterKeys, shown, checks: 'exempt' }
      }
      const fixed = this.#fixedChecks(key, isFallback)
      return { counterKeys, shown, checks: fixed ?? await this.#computedChecks(request, key, shown, isFallback) }
    } catch (thrown) {
      throw hidden(thrown, this.name, request)
    }
  }

  /** @returns undefined: one of the limits has to be computed */
  #fixedChecks (key: string, isFallback: boolean): readonly Check[] | undefined {
    if (this.#version !== this.#registry.version) {
      this.#version = this.#registry.version
      this.#fixed = new Map()
      this.#fixedByAddress = new Map()
    }
    const shadows = this.#shadowsFor(key)
    const known = (isFallback ? this.#fixedByAddress : this.#fixed).get(shadows)
    if (known !== undefined) return known
    const checks: Check[] = []
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
    let bit = 1
    for (const { name, definition: { enforce } } of this.#limits) {
      if (enforce < 1 && !isInPart(`${name} ${key}`, enforce)) shadows |= bit
      bit <<= 1
    }
    return shadows
  }

  async #computedChecks (
    request: FastifyRequest, key: string, shown: string, isFallback: boolean
  ): Promise<readonly Check[]> {
    const shadows = this.#shadowsFor(key)
    const checks = await Promise.all(this.#limits.map(async (live, i): Promise<Check> => {
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

export interface LimiterParts {
  readonly clients: Clients
  readonly guard: Guard
  readonly registry: LimitRegistry
  readonly name: string
  readonly settings: LimitSettings
  readonly store: HitStore | undefined
}

/** Options that must be identical for two hooks to be one limit; their allow lists and limits must be equal. */
const comparedOptions = ['skip', 'countWhen', 'onOutage'] as const

function isUnlimited ({ limit }: Check): boolean {
  return limit.max === Infinity
}

async function computed (live: LiveLimit, request: FastifyRequest, key: string): Promise<Limit> {
  const { max, timeWindow } = live.definition
  return live.of(
    typeof max === 'function' ? await answerOf('max', () => max(request, key)) : max,
    typeof timeWindow === 'function' ? await answerOf('timeWindow', () => timeWindow(request, key)) : timeWindow
  )
}

/** However large: a client may choose the number, such as the length of its batch. 1e999 in JSON is Infinity. */
function isCost (cost: unknown): cost is number {
  return (Number.isInteger(cost) || cost === Infinity) && (cost as number) >= 0
}

/** What a class that only counts cannot do. */
function checkForStore (name: string, { limits, countWhen }: LimitSettings): void {
  const problems: OptionProblem[] = []
  const refuse = (option: string, received: unknown) => {
    problems.push({ option: `${name} ${option}`, rule: 'left out beside store', received: show(received) })
  }
  if (limits.some(({ name }) => name !== '')) refuse('limits', limits)
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
