/**
 * The decision about a request: exempt, blocked, limited or allowed. Knows the
 * stores and the lists, but nothing of HTTP.
 */
import type { StoreUnavailableError } from '../errors.js'
import { canonicalAddress, clientKey } from '../rules/address.js'
import type { AddressList } from '../rules/address-list.js'
import { explain } from '../rules/rate-limit.js'
import type { Blocked, Exempt, OnOutage, Source, Verdict } from '../rules/verdict.js'
import type { FailoverStore } from '../store/failover.js'
import type { MemoryStore } from '../store/memory.js'
import type { NamedCheck } from '../store/store.js'
import type { DenyCache } from './deny-cache.js'

/** Who sent a request, as far as its address tells. */
export interface Client {
  /** canonical; undefined on a unix socket, and for what is no address */
  readonly address: string | undefined
  /** what it is counted by, unless a `keyGenerator` says otherwise */
  readonly key: string
  /** on the plugin's allow list: never blocked, and not limited by limits that use that list */
  readonly exempt: boolean
}

/** What a decision was about, and what it was; for those who only watch. */
export interface GuardEvent {
  readonly outcome: Outcome
  readonly source: Source
  /** name of the limit; undefined for a block */
  readonly limit: string | undefined
  /** what it was counted by; of a block the address or range that is blocked */
  readonly key: string | undefined
  readonly subject: Subject
}

/** `uncounted`, `denied`, `failed`: Redis was away, and `onOutage` is `allow`, `deny` or `fail`. */
export type Outcome = Verdict['kind'] | 'failed'

export type GuardListener = (event: GuardEvent) => void

/** The part of a request that events tell about; read only where somebody wants to know. */
export interface Subject {
  readonly client: Client
  readonly method: string
  /** pattern of the route; undefined for a 404 */
  readonly route: string | undefined
}

export interface GuardOptions {
  readonly store: FailoverStore
  readonly memory: MemoryStore
  readonly denyCache: DenyCache
  readonly ipv6Subnet: number
  readonly allowList: AddressList<true>
  readonly listeners: readonly GuardListener[]
}

/** Decides, and tells its listeners; they are not to throw. */
export class Guard {
  readonly #store: FailoverStore
  readonly #memory: MemoryStore
  readonly #denyCache: DenyCache
  readonly #ipv6Subnet: number
  readonly #allowList: AddressList<true>
  readonly #listeners: readonly GuardListener[]
  readonly #clients = new Map<unknown, Client>()

  constructor ({ store, memory, denyCache, ipv6Subnet, allowList, listeners }: GuardOptions) {
    this.#store = store
    this.#memory = memory
    this.#denyCache = denyCache
    this.#ipv6Subnet = ipv6Subnet
    this.#allowList = allowList
    this.#listeners = listeners
  }

  /** @param ip  `request.ip`: may be undefined, or any text that a trusted proxy passed on */
  identify (ip: unknown): Client {
    const known = this.#clients.get(ip)
    if (known !== undefined) return known
    const client = this.read(ip)
    if (client === unknownClient) return client
    if (this.#clients.size >= mostRemembered) this.#clients.clear()
    this.#clients.set(copy(String(ip)), client)
    return client
  }

  /** The same, for who remembers the answer. */
  read (ip: unknown): Client {
    const found = canonicalAddress(ip)
    if (found === undefined) return unknownClient
    const address = copy(found)
    return { address, key: clientKey(address, this.#ipv6Subnet), exempt: this.#allowList.find(address) === true }
  }

  /** The verdict when a block is in force for the client; answered from this process. */
  blocked (subject: Subject): Blocked | undefined {
    const { address, exempt } = subject.client
    const block = address === undefined || exempt ? undefined : this.#memory.findBlock(address)
    if (block === undefined) return undefined
    this.#tell(subject, 'blocked', 'local', undefined, block.ip)
    return { kind: 'blocked' }
  }

  /** The verdict on a request that is on the allow list of a limit. */
  exempt (subject: Subject, limit: string, key: string): Exempt {
    this.#tell(subject, 'exempt', 'local', limit, key)
    return { kind: 'exempt' }
  }

  /**
   * Counts a request against a limit; decided before it returns where memory
   * answers, and where Redis has refused the key a moment ago.
   *
   * @param checks    one limit; the same array for each request that has it,
   *   so that a batch tells Redis about it once
   * @param onOutage  who answers when Redis cannot
   * @param done      called once, with the verdict; with the failure where `fail` asks for it
   */
  take (
    subject: Subject, key: string, checks: readonly [NamedCheck], onOutage: OnOutage,
    done: (failure: StoreUnavailableError | undefined, verdict: Verdict | undefined) => void
  ): void {
    const [check] = checks
    const canAsk = this.#store.usesRedis
    const fallback = onOutage === 'memory' || onOutage === 'share' ? onOutage : undefined
    const denied = canAsk || fallback !== undefined ? this.#denyCache.refuse(key, check, canAsk) : undefined
    if (denied !== undefined) {
      this.#tell(subject, 'limited', 'local', check.name, key)
      return done(undefined, { kind: 'limited', source: 'local', key, limit: check.limit, explanation: denied })
    }
    this.#store.takeOne({ key, checks }, fallback, (failure, taken, source) => {
      if (taken === undefined) {
        const outcome = unanswered[onOutage as keyof typeof unanswered]
        this.#tell(subject, outcome, source, check.name, key)
        if (outcome === 'failed') return done(failure, undefined)
        return done(undefined, outcome === 'denied' ? { kind: outcome } : { kind: outcome, key, limit: check.limit })
      }
      if (source === 'redis') this.#denyCache.learn(key, check, taken)
      const explanation = taken.explanation ?? explain(taken.outcomes[0]!.state, taken.nowMs, check.limit, check.cost)
      const kind = taken.accepted ? 'allowed' : 'limited'
      this.#tell(subject, kind, source, check.name, key)
      done(undefined, { kind, source, key, limit: check.limit, explanation })
    })
  }

  #tell (subject: Subject, outcome: Outcome, source: Source, limit?: string, key?: string): void {
    const event = { outcome, source, limit, key, subject }
    for (const listener of this.#listeners) listener(event)
  }
}

/** What becomes of a request that nobody has decided. */
const unanswered = { allow: 'uncounted', deny: 'denied', fail: 'failed' } as const

/** All whose address cannot be read share one counter: it must not be a way around the limit. */
const unknownClient: Client = { address: undefined, key: 'unknown', exempt: false }

function copy (address: string): string {
  return Buffer.from(address, 'latin1').toString('latin1')
}

/** Addresses whose reading is remembered. */
const mostRemembered = 10_000
