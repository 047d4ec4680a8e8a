/** The scripts and replies of the block list. */
import { type Arguments, Script } from '../../../redis/script.js'
import { parseNetwork } from '../../../addresses/address.js'
import { type Block, blockedIn, type BlockOperation } from '../../block-store.js'
import { scripts } from '../lua/scripts.js'
import { clockOf, listOf, parseJson, streamIdOf, textOf, unreadable, wholeOf } from '../replies.js'
import type { Encoding } from './encoding.js'

export interface DatedOperations {
  readonly operations: readonly BlockOperation[]
  /** the clock of the operations minus the clock of Redis */
  readonly aheadMs: number
  /** until when the operations count as of now, by Redis' clock; 0: each counts as of its own time */
  readonly untilMs: number
  /** the most changes that the stream keeps */
  readonly maxChanges: number
}

/** The result of one operation on the block list. */
export interface ChangedBlock {
  /** whether exactly this address or range was blocked before */
  readonly wasBlocked: boolean
  /** the block that stands now; undefined: none */
  readonly standing: Block | undefined
  /** number of the last change at that moment */
  readonly sequence: number
}

export interface AnnouncedBlock extends ChangedBlock {
  /** whether the operation was added to the stream of changes, for the other instances */
  readonly isAnnounced: boolean
}

export const changeBlocks: Encoding<DatedOperations, readonly AnnouncedBlock[]> = {
  script: new Script(scripts['change-blocks']),

  args ({ operations, aheadMs, untilMs, maxChanges }) {
    const until = Math.floor(Math.min(untilMs, Number.MAX_SAFE_INTEGER))
    return [maxChanges, until, ...operations.flatMap(operation => operationRow(operation, aheadMs))]
  },

  read (reply, { operations }) {
    const list = listOf(reply, 3 * operations.length + 1)
    const sequence = wholeOf(list.at(-1))
    return operations.map((operation, i) => {
      const [isAnnounced, wasBlocked, json] = list.slice(3 * i, 3 * i + 3)
      const standing = json === '' ? undefined : parseBlock(blockedIn(operation), textOf(json))
      if (json !== '' && standing === undefined) throw unreadable()
      return {
        isAnnounced: wholeOf(isAnnounced, 0, 1) === 1, wasBlocked: wholeOf(wasBlocked, 0, 1) === 1, standing, sequence
      }
    })
  }
}

/** The changes after a known change. */
export interface ReadChanges {
  readonly nowMs: number
  /** number of the last change in the stream */
  readonly lastSequence: number
  /** id of the last change in the stream */
  readonly lastId: string
  readonly entries: readonly (readonly [id: string, fields: readonly string[]])[]
  readonly epoch: string
}

/** `id`: id of the known change. */
export const blockChanges: Encoding<{ readonly id: string, readonly count: number }, ReadChanges> = {
  script: new Script(scripts['block-changes']),

  args: ({ id, count }) => [id, count],

  read (reply) {
    const [clock, last, lastId, entries, epoch] = listOf(reply, 5)
    return {
      nowMs: clockOf(clock),
      lastSequence: wholeOf(last),
      lastId: streamIdOf(lastId),
      entries: listOf(entries).map(entry => {
        const [id, fields] = listOf(entry, 2)
        return [streamIdOf(id), listOf(fields).map(textOf)] as const
      }),
      epoch: textOf(epoch)
    }
  }
}

/** Reads the reply of HSCAN: the next cursor, and a flat list of fields and values. */
export function readScan (
  reply: unknown
): readonly [next: string, entries: readonly (readonly [ip: string, json: string])[]] {
  const [next, list] = listOf(reply, 2)
  const fields = listOf(list)
  if (typeof next !== 'string' || !/^\d{1,20}$/.test(next) || fields.length % 2 !== 0) throw unreadable()
  return [next, Array.from({ length: fields.length / 2 }, (_, i) => [textOf(fields[2 * i]), textOf(fields[2 * i + 1])])]
}

/** @returns undefined for a foreign value */
export function parseBlock (ip: string | undefined, json: string | undefined): Block | undefined {
  const read = (parseJson(json) ?? {}) as Partial<Record<keyof Block, unknown>>
  const { reason, origin, blockedAtMs, expiresAtMs = Infinity } = read
  if (!isNetwork(ip) || typeof reason !== 'string' || typeof origin !== 'string') return undefined
  if (!isMoment(blockedAtMs) || (expiresAtMs !== Infinity && !isMoment(expiresAtMs))) return undefined
  return { ip, reason, origin, blockedAtMs, expiresAtMs }
}

/** Whether a text is an address or range in canonical form, as Redis stores it. */
export function isNetwork (ip: string | undefined): ip is string {
  return ip !== undefined && parseNetwork(ip)?.text === ip
}

function isMoment (value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function operationRow (operation: BlockOperation, aheadMs: number): Arguments {
  const atMs = Math.floor(operation.atMs - aheadMs)
  if ('unblock' in operation) return ['unblock', operation.unblock, atMs, '', '', '']
  const { ip, durationMs, reason, origin, replace } = operation.block
  return [replace === true ? 'replace' : 'block', ip, atMs, durationMs === Infinity ? '' : durationMs, reason, origin]
}
