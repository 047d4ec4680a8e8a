/**
 * The limits of an application by name, and what they are at the moment: as
 * configured, or as somebody has set them at run time.
 */
import { LimitError, OptionsError, show } from '../errors.js'
import { defineLimit, type Limit } from '../rules/rate-limit.js'
import type { LimitDefinition } from '../settings/limit-settings.js'

/** What a limit can be set to at run time. */
export interface LimitChange {
  readonly max: number
  /** ms */
  readonly windowMs: number
}

/** How a limit tells clients apart. */
export interface LimitClients {
  /** bits */
  readonly ipv6Subnet: number
  readonly hasKeyGenerator: boolean
}

/** One limit of a route. */
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

  /** @throws LimitError  when the limit cannot be such a one */
  of (max: number, windowMs: number): Limit {
    const { algorithm, burst, excess, maxBackoff } = this.definition
    return defineLimit(algorithm, max, windowMs, { burst, excess, maxBackoffMs: maxBackoff })
  }

  /** @throws LimitError  when the limit cannot be changed to such a one */
  with ({ max, windowMs }: LimitChange): Limit {
    const { cost } = this.definition
    const limit = this.of(max, windowMs)
    if (typeof cost === 'number' && max > 0 && cost > limit.burst) {
      throw new LimitError(`a request costs ${cost}, and could never fit`)
    }
    return limit
  }

  /** @param change  undefined: as configured */
  change (change: LimitChange | undefined): void {
    this.#inForce = change === undefined ? this.configured : this.with(change)
  }
}

export class LimitRegistry {
  readonly #limits = new Map<string, LiveLimit[]>()
  readonly #changes = new Map<string, LimitChange>()
  #version = 0

  /** Goes up with each change. */
  get version (): number {
    return this.#version
  }

  get names (): readonly string[] {
    return [...this.#limits.keys()]
  }

  /**
   * Several routes of one place, as a group is, may share a name, and with it
   * their clients' counters; and what counts in another window has a name of
   * its own there: otherwise the shorter window would reset clients that the
   * longer one limits.
   *
   * @param place       what the limit is called after: route, group, or limiter
   * @param ownName     undefined: it is the only one there
   * @throws OptionsError  where another place has a limit of that name
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
      // What was set once for others of this name is no reason for an application not to start.
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
    // Two functions of one group may return different windows, so one name for all computed windows is not enough.
    for (let number = 1; this.find(name).some(other => !hasSameWindow(other.definition, definition)); number++) {
      name = number === 1 ? apart : `${apart}-${number}`
    }
    return name
  }

  all (): readonly LiveLimit[] {
    return [...this.#limits.values()].flat()
  }

  /** @returns those of a name; none: there is no such limit */
  find (name: string): readonly LiveLimit[] {
    return this.#limits.get(name) ?? []
  }

  /** What has been set at run time. */
  changes (): ReadonlyMap<string, LimitChange> {
    return this.#changes
  }

  /** @throws LimitError  when a limit of that name cannot be such a one */
  check (name: string, change: LimitChange): void {
    for (const limit of this.find(name)) limit.with(change)
  }

  /**
   * @param change  undefined: as configured
   * @throws LimitError  when a limit of that name cannot be such a one
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
  // The lower of two caps would shorten the lock that the higher one allows.
  return a.timeWindow === b.timeWindow && a.excess === b.excess && a.maxBackoff === b.maxBackoff
}

function windowName ({ timeWindow, excess }: LimitDefinition): string {
  const length = typeof timeWindow === 'number' ? `${timeWindow}ms` : 'computed'
  return excess === 'none' ? length : `${length},${excess}`
}
