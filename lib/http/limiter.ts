/**
 * The limits of one place: a route, a hook of `fastify.rateLimit`, a function of `fastify.createRateLimit`, or all
 * other routes together. It finds the client that a request counts against and the checks, and asks the guard.
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
import { type AskedLimit, type Asking, RequestHit, type Target } from './request-hit.js'
import { answerOf, withoutDetails } from './user-function.js'

export class Limiter implements AskedLimit {
  readonly settings: LimitSettings
  readonly guard: Guard
  readonly name: string
  /** counts in place of the guard's store */
  readonly store: HitStore | undefined
  readonly #clients: Clients
  readonly #registry: LimitRegistry
  readonly #limits: readonly LiveLimit[]
  /** whether the client is found without a function of the user */
  readonly #isPlain: boolean
  /**
   * Checks that need no function of the user, by the bits of `#shadowsFor`. Requests with the same checks get the same
   * array, so that a batch sends them to Redis once.
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

  /** Decides on a request: before it returns, unless a function of the user or a store has to be waited for. */
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

  /** Whether the user's `skip` leaves a request out. A promise only if `skip` returns one, or throws. */
  skips (request: FastifyRequest): Awaitable<boolean> {
    let answer: unknown
    try {
      answer = this.settings.skip?.(request)
      if (!isThenable(answer)) return Boolean(answer)
    } catch (thrown) {
      answer = Promise.reject(thrown)
    }
    return answerOf('skip', () => answer).then(Boolean, (thrown: unknown) => {
      throw withoutDetails(thrown, this.name, request)
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

  /** Decides after functions of the user have found the client or the checks. */
  #decideLater (asking: Asking, client: Client): void {
    const { reply, subject } = asking
    // `createRateLimit` marks nothing, and a plain limit has marked the request already.
    const marksNothing = reply === undefined || this.#isPlain
    const marks = marksNothing ? undefined : (key: string) => subject.markUnlessCounted(this, key)
    // No catch after the then: a failure after the decision must not be answered a second time.
    this.targetOf(asking.request, client, marks).then(
      target => this.#ask(asking, target),
      (thrown: unknown) => this.#fail(asking, thrown)
    )
  }

  #ask (asking: Asking, target: Target): void {
    if (target.checks === 'repeated') return this.#skip(asking, { key: target.counterKeys.client, shown: target.shown })
    const hit = new RequestHit(this, asking, target)
    const decision = this.guard.decide(hit)
    if (decision !== undefined) hit.finish(decision)
  }

  #skip (asking: Asking, { key, shown }: Pick<Client, 'key' | 'shown'> = this.clientOf(asking.subject)): void {
    asking.answer({ kind: 'skipped', source: 'local', key, name: this.name }, shown)
  }

  /** A function of the user failed, so the client or the checks are not known. */
  #fail (asking: Asking, thrown: unknown): void {
    const { key, shown } = this.clientOf(asking.subject)
    asking.answer({ kind: 'failed', source: 'local', key, name: this.name, failure: thrown as Error }, shown)
  }

  /** The client by the `ipv6Subnet` of this limit. */
  clientOf ({ client }: Subject): Client {
    return client.inSubnet(this.settings.ipv6Subnet)
  }

  /**
   * Whether both are the same limit, so that only the first of them counts a request. Limiters of one `groupId` are the
   * same limit if they count alike.
   */
  isSameAs (other: Limiter): boolean {
    if (other === this) return true
    if (other.name !== this.name) return false
    const { settings } = other
    return comparedOptions.every(name => settings[name] === this.settings[name]) &&
      isDeepStrictEqual(settings.allowList.given, this.settings.allowList.given) &&
      isDeepStrictEqual(settings.limits, this.settings.limits)
  }

  /** Shows where a client stands, without counting anything. */
  async peek (key: string, checks: readonly Check[]): ReturnType<Guard['peek']> {
    return await this.guard.peek({ clientKey: key, checks, onOutage: this.settings.onOutage, store: this.store })
  }

  /** Whether `ban` has turned a refusal into a 403. */
  isBanned ({ name, explanation }: Pick<Counted, 'name' | 'explanation'>): boolean {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a decision names one of its limits
    const { ban } = this.#limits.find(limit => name === limit.name || name === byAddress(limit.name))!.definition
    return ban !== -1 && explanation.refusals > ban
  }

  /** @param marks  see `RequestSubject.markUnlessCounted`; undefined: each call counts */
  async targetOf (request: FastifyRequest, client: Client, marks?: (key: string) => boolean): Promise<Target> {
    try {
      const { keyGenerator, allowList } = this.settings
      const answer = keyGenerator === undefined
        ? undefined
        : await answerOf('keyGenerator', () => keyGenerator(request))
      const generated = readClientId(answer)
      const counterKeys = generated === undefined ? client.counterKeys : this.#clients.counterKeysOf(generated)
      const key = counterKeys.client
      const shown = generated === undefined ? client.shown : answer as string
      // Counted by another name: otherwise a client could send the address of another as a key, and use up its quota.
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
      throw withoutDetails(thrown, this.name, request)
    }
  }

  /** @returns undefined: a function of the user has to compute one of the limits or costs */
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

  /** One bit for each limit, which is set if the limit is in shadow for this client. */
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
        const limit = inForce ?? await computeLimit(live, request, shown)
        const hits = typeof cost === 'number' ? cost : await answerOf('cost', () => cost(request))
        if (!isCost(hits)) throw new LimitError(`cost must be a whole number >= 0, got ${show(hits)}`)
        return {
          name: isFallback ? byAddress(name) : name,
          limit,
          cost: Math.min(hits, Number.MAX_SAFE_INTEGER),
          shadow: (shadows & 1 << i) !== 0
        }
      } catch (thrown) {
        throw withoutDetails(thrown, name, request)
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

async function computeLimit (live: LiveLimit, request: FastifyRequest, key: string): Promise<Limit> {
  const { max, timeWindow } = live.definition
  return live.of(
    typeof max === 'function' ? await answerOf('max', () => max(request, key)) : max,
    typeof timeWindow === 'function' ? await answerOf('timeWindow', () => timeWindow(request, key)) : timeWindow
  )
}

/** Has no upper bound: a client may choose the number, such as the length of a batch, and 1e999 in JSON is Infinity. */
function isCost (cost: unknown): cost is number {
  return (Number.isInteger(cost) || cost === Infinity) && (cost as number) >= 0
}

/** @throws OptionsError  for options that a user's class, which only counts, cannot support */
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

/** The name of a group. It cannot be the name of a route, since HTTP methods have no lower-case letters. */
export function groupName (groupId: string): string {
  return `group:${groupId}`
}

/**
 * Compares addresses of the allow list with the address of the client only, since a client that chooses its key could
 * choose such an address.
 */
function isListed ({ address }: Client, key: string, { allowList: { keys, addresses } }: LimitSettings): boolean {
  if (keys.size > 0 && keys.has(key)) return true
  return !addresses.isEmpty && address !== undefined && addresses.find(address) === true
}
