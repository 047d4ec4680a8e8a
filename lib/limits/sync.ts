/**
 * Keeps the limits that are set at run time the same on all instances. Changes
 * are plain values in the store, so that an outage of Redis loses none; each
 * instance looks for others' by their common version.
 */
import { randomUUID } from 'node:crypto'
import { ValueError } from '../errors.js'
import type { ValueStore } from '../store/value-store.js'
import type { ChangedBy } from './change.js'
import type { LimitChange, LimitRegistry } from './registry.js'
import {
  describe, formatChange, keyOf, parseChange, type SetLimit, type StoredChange, versionKey
} from './stored-change.js'

/** Limits read at once: thousands would hold up the requests, and time out. */
const pageLength = 200

export interface LimitSyncParts {
  readonly registry: LimitRegistry
  /** where the limits that are set at run time are kept */
  readonly values: Pick<ValueStore, 'get' | 'set'>
  /** called with the key of a value that the guard did not write, each time it is read */
  readonly onForeign: (key: string) => void
  /**
   * Called with limits that were set or reset elsewhere, or before this process began, once they are so here.
   *
   * @param reset  names of limits
   */
  readonly onTakenOver: (set: readonly SetLimit[], reset: readonly string[]) => void
  /** ms since 1970 */
  readonly now: () => number
}

export class LimitSync {
  readonly #registry: LimitRegistry
  readonly #values: Pick<ValueStore, 'get' | 'set'>
  readonly #onForeign: (key: string) => void
  readonly #onTakenOver: LimitSyncParts['onTakenOver']
  readonly #now: () => number
  /** when the changes were made that are being written, by the name of the limit */
  readonly #underWay = new Map<string, number>()
  /** the last change of each limit, by its name */
  readonly #known = new Map<string, StoredChange>()
  #version: string | null = null
  /** names that were read since it is the version */
  readonly #read = new Set<string>()
  #hasChanged = false
  /** how often in a row Redis went away as the version was read: it may be a huge foreign value, which is replaced */
  #unread = 0
  #looking: Promise<void> | undefined

  constructor ({ registry, values, onForeign, onTakenOver, now }: LimitSyncParts) {
    this.#registry = registry
    this.#values = values
    this.#onForeign = onForeign
    this.#onTakenOver = onTakenOver
    this.#now = now
  }

  /** The limits that are as they were set at run time, here or elsewhere, as far as this process knows. */
  list (): readonly SetLimit[] {
    const changes = this.#registry.changes()
    return [...this.#known].flatMap(([name, stored]) => {
      const change = changes.get(name)
      return change === undefined ? [] : [describe(name, change, stored)]
    })
  }

  /**
   * Writes a change, and applies it once it is written.
   *
   * @param change  undefined: the limit is reset
   * @throws StoreUnavailableError  of kind `reply`, when Redis rejects the change: nothing changes
   */
  async change (name: string, change: LimitChange | undefined, by: Required<ChangedBy>): Promise<void> {
    // The clocks of two instances may differ: a change with another one in sight is later than that.
    const inSight = Math.max(this.#known.get(name)?.atMs ?? 0, this.#underWay.get(name) ?? 0)
    const atMs = Math.max(this.#now(), inSight + 1)
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

  /** The last change of a limit in the store; undefined: there is none, or the value is not the guard's. */
  async stored (name: string): Promise<StoredChange | undefined> {
    const key = keyOf(name)
    const text = await this.#get(key)
    if (text === null) return undefined
    const stored = parseChange(text)
    if (stored === undefined) this.#onForeign(key)
    return stored
  }

  /**
   * Takes over what others have changed. Where Redis has lost its data, or came
   * back with older data, it writes what is known here. While one look is under
   * way, others join it.
   */
  async sync (isUsable: () => boolean): Promise<void> {
    this.#looking ??= this.#look(isUsable).finally(() => { this.#looking = undefined })
    await this.#looking
  }

  /** One that is cut short goes on next time where it ended. */
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

  /** @returns whether the limits were read as they are */
  async #lookAt (names: readonly string[], isUsable: () => boolean): Promise<boolean> {
    const changedBefore = this.#registry.version
    const found = await Promise.all(names.map(async name => await this.stored(name)))
    // A limit may have been set here meanwhile, and the values read be older: they are read again next time.
    if (!isUsable() || this.#registry.version !== changedBefore) return false
    const set: SetLimit[] = []
    const reset: string[] = []
    // All at once: while one is written, another may be set here.
    for (const [i, name] of names.entries()) {
      this.#read.add(name)
      const stored = found[i]
      const known = this.#known.get(name)
      if (stored === undefined || (known !== undefined && stored.atMs < known.atMs)) continue
      this.#known.set(name, stored)
      const { change } = stored
      if (!this.#takeOver(name, this.#registry.changes().get(name), change)) continue
      if (change === undefined) reset.push(name)
      else set.push(describe(name, change, stored))
    }
    if (set.length + reset.length > 0) this.#onTakenOver(set, reset)
    // Redis has lost these, or has older ones.
    for (const [i, name] of names.entries()) {
      const known = this.#known.get(name)
      const isNewest = (this.#underWay.get(name) ?? 0) <= (known?.atMs ?? 0)
      if (known !== undefined && found[i] !== known && isNewest) await this.#write(name, known.text)
    }
    return true
  }

  /** @returns whether the limit is another one now */
  #takeOver (name: string, known: LimitChange | undefined, change: LimitChange | undefined): boolean {
    if (change?.max === known?.max && change?.windowMs === known?.windowMs) return false
    try {
      this.#registry.change(name, change)
      return true
    } catch {
      // Another release of the application has a limit of this name that can be so; this one's cannot.
      return false
    }
  }

  /** A value of another type than text is not the guard's and counts as missing: the next change replaces it. */
  async #get (key: string): Promise<string | null> {
    try {
      return await this.#values.get(key)
    } catch (error) {
      if (!(error instanceof ValueError)) throw error
      this.#onForeign(key)
      return null
    }
  }

  /** @param mustReach  a value that Redis rejects is an error */
  async #write (name: string, text: string, mustReach = false): Promise<void> {
    await this.#values.set(keyOf(name), text, undefined, mustReach)
    await this.#writeVersion()
    // Where this was in an outage, the two may reach Redis in any order: others look again when both are there.
    this.#hasChanged = true
  }

  async #writeVersion (): Promise<void> {
    await this.#values.set(versionKey, randomUUID(), undefined)
  }
}
