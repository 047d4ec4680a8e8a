/** The scripts and replies of recorded events and suspects. */
import { type Arguments, Script } from '../../../redis/script.js'
import type { RateLimitEvent } from '../../event-store.js'
import { scripts } from '../lua/scripts.js'
import { clockOf, listOf, parseJson, streamIdOf, textOf, unreadable, wholeOf } from '../replies.js'
import type { Command, Encoding } from './encoding.js'

export interface LoggedEvents {
  /** ms to keep the marker of a replay; 0: this is no replay */
  readonly markerMs: number
  readonly maxEvents: number
  readonly events: readonly RateLimitEvent[]
}

export const logEvents: Command<LoggedEvents> = {
  script: new Script(scripts['log-events']),
  args: ({ markerMs, maxEvents, events }) => [markerMs, maxEvents, ...events.flatMap(eventRow)]
}

/** A page of the stream, whose old events the script removes. */
export interface ClearedPage {
  /** age in ms; 0: all events are removed */
  readonly olderThanMs: number
  /** id of the first event in the page; `-`: the oldest */
  readonly from: string
  readonly length: number
  /** the moment from which the age is measured, ms since 1970; undefined: now */
  readonly nowMs: number | undefined
}

export interface Cleared {
  readonly removed: number
  /** id of the first event in the next page; empty: this was the last page */
  readonly next: string
  readonly nowMs: number
}

export const clearEvents: Encoding<ClearedPage, Cleared> = {
  script: new Script(scripts['clear-events']),

  args: ({ olderThanMs, from, length, nowMs }) => [olderThanMs, from, length, nowMs ?? ''],

  read (reply, { length }) {
    const [count, id, clock] = listOf(reply, 3)
    return { removed: wholeOf(count, 0, length), next: id === '' ? id : streamIdOf(id), nowMs: clockOf(clock) }
  }
}

/** Reads entries of the stream of events. A foreign entry has an id but no event. */
export function readEntries (
  reply: unknown
): readonly { readonly id: string, readonly event: RateLimitEvent | undefined }[] {
  return listOf(reply).map(entry => {
    const [id, fields] = listOf(entry, 2)
    return { id: streamIdOf(id), event: parseEvent(listOf(fields).at(-1)) }
  })
}

/** Reads members and scores: pairs in RESP3, a flat list in RESP2. A foreign member may have any score. */
export function readRanks (reply: unknown): readonly { readonly ip: string, readonly count: number }[] {
  const rows = listOf(reply)
  const pairs = Array.isArray(rows[0])
    ? rows
    : Array.from({ length: Math.ceil(rows.length / 2) }, (_, i) => rows.slice(2 * i, 2 * i + 2))
  return pairs.map(pair => {
    const [ip, score] = listOf(pair, 2)
    if (typeof score !== 'string' && typeof score !== 'number') throw unreadable()
    return { ip: textOf(ip), count: parseFloat(String(score)) }
  })
}

function eventRow (event: RateLimitEvent): Arguments {
  return [event.type === 'limited' ? event.ip ?? '' : '', event.count, event.atMs, JSON.stringify(event)]
}

function parseEvent (json: unknown): RateLimitEvent | undefined {
  const event = (parseJson(json) ?? {}) as Partial<Record<keyof RateLimitEvent, unknown>>
  const { type, count, atMs, ip, key, limit, method, route } = event
  const isEvent = (type === 'limited' || type === 'blocked') && [count, atMs].every(Number.isSafeInteger) &&
    [ip, key, limit, method, route].every(text => text === undefined || typeof text === 'string')
  return isEvent ? event as unknown as RateLimitEvent : undefined
}
