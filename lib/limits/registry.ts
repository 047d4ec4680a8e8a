/** The limits of an application by name, with the numbers that are in force: the configured ones, or a change. */
import { LimitError, OptionsError, show } from '../errors.js'
import { defineLimit, type Limit } from '../rules/rate-limit.js'
import type { LimitDefinition } from '../settings/limit-settings.js'

/** The numbers that a limit is set to at run time. */
export interface LimitChange {
  readonly max: number
  /** ms */
  readonly windowMs: number
}

/** How a limit tells clients apart. */
export interface LimitClients {
  /** bits of the prefix that identifies an IPv6 client */
  readonly ipv6Subnet: number
  readonly hasKeyGenerator: boolean
}

/** One limit of a place, such as a route, with the numbers that are in force. */
export class LiveLimit {
  readonly name: string
  readonly place: string
  readonly definition: LimitDefinition
  readonly clients: LimitClients
  /** undefined: computed for each request */
  readonly configured: Limit | undefined
  #inForce: Limit | undefined

  constructor (name: string, place: string, definition: LimitDefinition, clients: LimitClients) {
    const { max, timeWindow } = definition
    this.name = name
    this.place = place
    this.definition = definition
    this.clients = clients
    this.configured = typeof max === 'number' && typeof timeWindow === 'number' ? this.of(max, timeWindow) : undefined
    this.#inForce = this.configured
  }

  /** undefined: computed for each request */
  get inForce (): Limit | undefined {
    return this.#inForce
  }

  /**
   * The limit with these numbers.
   *
   * @throws LimitError  if it cannot have them
   */
  of (max: number, windowMs: number): Limit {
    const { algorithm, burst, excess, maxBackoff } = this.definition
    return defineLimit(algorithm, max, windowMs, { burst, excess, maxBackoffMs: maxBackoff })
  }

  /**
   * The limit as a change would make it.
   *
   * @throws LimitError  if it cannot be changed so
   */
  with ({ max, windowMs }: LimitChange): Limit {
    const { cost } = this.definition
    const limit = this.of(max, windowMs)
    if (typeof cost === 'number' && max > 0 && cost > limit.burst) {
      throw new LimitError(`a request costs ${cost}, and could never fit`)
    }
    return limit
  }

  /** @param change  undefined: the configured numbers */
  change (change: LimitChange | undefined): void {
    this.#inForce = change === undefined ? this.configured : this.with(change)
  }
}

export class LimitRegistry {
  readonly #limits = new Map<string, LiveLimit[]>()
  readonly #changes = new Map<string, LimitChange>()
  #version = 0

  /** Rises with each change. */
  get version (): number {
    return this.#version
  }

  get names (): readonly string[] {
    return [...this.#limits.keys()]
  }

  /**
   * Adds a limit. Limits of one group share a name, and with it the counters of their clients. A limit of the group
   * with another window gets another name; otherwise the shorter window would reset clients that the longer one limits.
   *
   * @param place    the first part of its name: route, group, or limiter
   * @param ownName  the last part of its name; undefined: it is the only limit of the place
   * @throws OptionsError  if another place has a limit of this name
   */
  add (place: string, ownName: string | undefined, definition: LimitDefinition, clients: LimitClients): LiveLimit {
    const shared = ownName === undefined ? place : `${place}:${ownName}`
    if (this.find(shared).some(other => other.place !== place)) {
      const rule = 'one whose name is not already used by another route or group'
      throw new OptionsError([{ option: `the limit ${shared}`, rule, received: show(shared) }])
    }
    const name = this.#nameFor(shared, definition)
    const limit = new LiveLimit(name, place, definition, clients)
    const change = this.#changes.get(name)
    try {
      limit.change(change)
    } catch {
      // A change that was made for other limits of this name must not keep the application from starting.
    }
    const others = this.#limits.get(name)
    if (others === undefined) this.#limits.set(name, [limit])
    else others.push(limit)
    return limit
  }

  /** The first name whose other limits all have the same window. */
  #nameFor (shared: string, definition: LimitDefinition): string {
    const apart = `${shared}@${windowName(definition)}`
    let name = shared
    // Two functions of a group may compute different windows, so they cannot share one name for computed windows.
    for (let number = 1; this.find(name).some(other => !hasSameWindow(other.definition, definition)); number++) {
      name = number === 1 ? apart : `${apart}-${number}`
    }
    return name
  }

  all (): readonly LiveLimit[] {
    return [...this.#limits.values()].flat()
  }

  /** @returns all limits of a name; empty: there is none */
  find (name: string): readonly LiveLimit[] {
    return this.#limits.get(name) ?? []
  }

  /** The changes that are in force, by the name of the limit. */
  changes (): ReadonlyMap<string, LimitChange> {
    return this.#changes
  }

  /** @throws LimitError  if a limit of this name cannot be changed so */
  check (name: string, change: LimitChange): void {
    for (const limit of this.find(name)) limit.with(change)
  }

  /**
   * @param change  undefined: the configured numbers
   * @throws LimitError  if a limit of this name cannot be changed so
   */
  change (name: string, change: LimitChange | undefined): void {
    const limits = this.find(name)
    if (change !== undefined) this.check(name, change)
    if (change === undefined) this.#changes.delete(name)
    else this.#changes.set(name, change)
    for (const limit of limits) limit.change(change)
    this.#version++
  }
}

function hasSameWindow (a: LimitDefinition, b: LimitDefinition): boolean {
  // With two caps on one counter, the lower one would shorten the lock that the higher one allows.
  return a.timeWindow === b.timeWindow && a.excess === b.excess && a.maxBackoff === b.maxBackoff
}

function windowName ({ timeWindow, excess }: LimitDefinition): string {
  const length = typeof timeWindow === 'number' ? `${timeWindow}ms` : 'computed'
  return excess === 'none' ? length : `${length},${excess}`
}
