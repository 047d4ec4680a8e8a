/**
 * Keeps the limits that are set at run time the same on all instances. Each change is a value in the store, so an
 * outage of Redis loses none. A common version, also a value, shows the other instances that something has changed.
 */
import { randomUUID } from 'node:crypto'
import { ValueError } from '../errors.js'
import type { ValueStore } from '../store/value-store.js'
import type { ChangedBy } from './change.js'
import type { LimitChange, LimitRegistry } from './registry.js'
import {
  formatChange, parseChange, type SetLimit, type StoredChange, storedKey, toSetLimit, versionKey
} from './stored-change.js'

/** Limits that are read at once. Thousands at once would delay requests, and time out. */
const pageLength = 200

export interface LimitSyncParts {
  readonly registry: LimitRegistry
  /** where the changes are kept */
  readonly values: Pick<ValueStore, 'get' | 'set'>
  /** called with the key of a value that the guard did not write, each time it is read */
  readonly onForeign: (key: string) => void
  /**
   * Called with limits that were set or reset by another instance, or before this process started, when the change is
   * in force here.
   *
   * @param reset  names of limits
   */
  readonly onAdopted: (set: readonly SetLimit[], reset: readonly string[]) => void
  /** ms since 1970 */
  readonly now: () => number
}

export class LimitSync {
  readonly #registry: LimitRegistry
  readonly #values: Pick<ValueStore, 'get' | 'set'>
  readonly #onForeign: (key: string) => void
  readonly #onAdopted: LimitSyncParts['onAdopted']
  readonly #now: () => number
  /** times of the changes that are being written, by the name of the limit */
  readonly #underWay = new Map<string, number>()
  /** the last change of each limit, by its name */
  readonly #known = new Map<string, StoredChange>()
  #version: string | null = null
  /** names of the limits that were read since the version has this value */
  readonly #read = new Set<string>()
  /** whether to replace the version at the next look, see `#write` */
  #hasChanged = false
  /**
   * How often in a row Redis went away while the version was read. A huge foreign value may be the cause; it is
   * replaced after two times.
   */
  #unread = 0
  #looking: Promise<void> | undefined

  constructor ({ registry, values, onForeign, onAdopted, now }: LimitSyncParts) {
    this.#registry = registry
    this.#values = values
    this.#onForeign = onForeign
    this.#onAdopted = onAdopted
    this.#now = now
  }

  /** The limits that were set at run time on any instance, as far as this process knows. */
  list (): readonly SetLimit[] {
    const changes = this.#registry.changes()
    return [...this.#known].flatMap(([name, stored]) => {
      const change = changes.get(name)
      return change === undefined ? [] : [toSetLimit(name, change, stored)]
    })
  }

  /**
   * Writes a change, and then applies it.
   *
   * @param change  undefined: reset the limit
   * @throws StoreUnavailableError  of kind `reply`: Redis rejected the change, and nothing has changed
   */
  async change (name: string, change: LimitChange | undefined, by: Required<ChangedBy>): Promise<void> {
    // The clocks of two instances may differ. A change must be later than each change that this instance knows.
    const knownAtMs = Math.max(this.#known.get(name)?.atMs ?? 0, this.#underWay.get(name) ?? 0)
    const atMs = Math.max(this.#now(), knownAtMs + 1)
    const stored = formatChange(change, atMs, by)
    this.#underWay.set(name, atMs)
    try {
      await this.#write(name, stored.text, true)
    } finally {
      if (this.#underWay.get(name) === atMs) this.#underWay.delete(name)
    }
    // A later change may be in force already.
    if ((this.#known.get(name)?.atMs ?? -1) >= atMs) return
    this.#known.set(name, stored)
    this.#registry.change(name, change)
  }

  /** The last change of a limit in the store. undefined: there is none, or the guard did not write the value. */
  async stored (name: string): Promise<StoredChange | undefined> {
    const key = storedKey(name)
    const text = await this.#get(key)
    if (text === null) return undefined
    const stored = parseChange(text)
    if (stored === undefined) this.#onForeign(key)
    return stored
  }

  /**
   * Adopts changes of other instances. If Redis has lost its data, or came back with older data, this writes the known
   * changes to Redis. A call during another call waits for that one.
   *
   * @param isUsable  whether Redis answers now
   */
  async sync (isUsable: () => boolean): Promise<void> {
    this.#looking ??= this.#look(isUsable).finally(() => { this.#looking = undefined })
    await this.#looking
  }

  /** A look that ends early, because Redis went away, is continued by the next one. */
  async #look (isUsable: () => boolean): Promise<void> {
    if (!isUsable()) return
    if (this.#hasChanged || this.#unread > 1) {
      this.#hasChanged = false
      await this.#writeVersion()
    }
    const version = await this.#get(versionKey)
    this.#unread = isUsable() ? 0 : this.#unread + 1
    if (this.#unread > 0) return
    if (version !== this.#version) this.#read.clear()
    this.#version = version
    const names = this.#registry.names.filter(name => !this.#read.has(name))
    for (let i = 0; i < names.length; i += pageLength) {
      if (!await this.#lookAt(names.slice(i, i + pageLength), isUsable)) return
    }
  }

  /** @returns false: the values may be stale, and are read again next time */
  async #lookAt (names: readonly string[], isUsable: () => boolean): Promise<boolean> {
    const changedBefore = this.#registry.version
    const found = await Promise.all(names.map(async name => await this.stored(name)))
    // If a limit was set here meanwhile, the values that were read may be older.
    if (!isUsable() || this.#registry.version !== changedBefore) return false
    const set: SetLimit[] = []
    const reset: string[] = []
    // Adopts all of them before it writes any: during a write, a limit may be set here.
    for (const [i, name] of names.entries()) {
      this.#read.add(name)
      const stored = found[i]
      const known = this.#known.get(name)
      if (stored === undefined || (known !== undefined && stored.atMs < known.atMs)) continue
      this.#known.set(name, stored)
      const { change } = stored
      if (!this.#adopt(name, this.#registry.changes().get(name), change)) continue
      if (change === undefined) reset.push(name)
      else set.push(toSetLimit(name, change, stored))
    }
    if (set.length + reset.length > 0) this.#onAdopted(set, reset)
    // Redis has lost a change, or has an older one.
    for (const [i, name] of names.entries()) {
      const known = this.#known.get(name)
      const isNewest = (this.#underWay.get(name) ?? 0) <= (known?.atMs ?? 0)
      if (known !== undefined && found[i] !== known && isNewest) await this.#write(name, known.text)
    }
    return true
  }

  /** @returns whether this has changed the limit */
  #adopt (name: string, known: LimitChange | undefined, change: LimitChange | undefined): boolean {
    if (change?.max === known?.max && change?.windowMs === known?.windowMs) return false
    try {
      this.#registry.change(name, change)
      return true
    } catch {
      // The change fits the limit of this name in another release of the application, but not in this one.
      return false
    }
  }

  /** A value of another type than string is foreign. It counts as missing, and the next change replaces it. */
  async #get (key: string): Promise<string | null> {
    try {
      return await this.#values.get(key)
    } catch (error) {
      if (!(error instanceof ValueError)) throw error
      this.#onForeign(key)
      return null
    }
  }

  /** @param mustReach  whether to throw if Redis rejects the value */
  async #write (name: string, text: string, mustReach = false): Promise<void> {
    await this.#values.set(storedKey(name), text, undefined, mustReach)
    await this.#writeVersion()
    // In an outage the two values may reach Redis in any order. A new version later makes the others look again.
    this.#hasChanged = true
  }

  async #writeVersion (): Promise<void> {
    await this.#values.set(versionKey, randomUUID(), undefined)
  }
}
