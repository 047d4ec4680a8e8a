/** The scripts of plain values. */
import { type Arguments, Script } from '../../../redis/script.js'
import type { ReportedValue, ValueChange, ValueOperation } from '../../value-store.js'
import { scripts } from '../lua/scripts.js'
import { listOf, unreadable, wholeOf } from '../replies.js'
import type { Command, Encoding } from './encoding.js'

/** The instance that changes values, and the time by its clock. */
export interface Writer {
  /** id of the instance */
  readonly instance: string
  /** how long Redis keeps markers, and notes of the last `set` or `del` */
  readonly keptMs: number
  /** now, by the clock of the changes */
  readonly nowMs: number
}

/** The result of one change. */
export interface ChangedValue {
  /** whether there was a value before; always true for `set` and `incr` */
  readonly existed: boolean
  /** the value after an `incr`; undefined after any other operation */
  readonly reported: ReportedValue | undefined
}

export const value: Encoding<Writer & { readonly operation: ValueOperation }, ChangedValue> = {
  script: new Script(scripts.value),

  args: ({ operation, instance, keptMs, nowMs }) =>
    [instance, keptMs, operation.kind, ...operationRow(operation, nowMs)],

  read (reply, { operation }) {
    if (operation.kind !== 'incr') return { existed: wholeOf(reply, 0, 1) === 1, reported: undefined }
    const [sum, leftMs] = listOf(reply, 2)
    const text = String(sum)
    if (!/^-?\d{1,19}$/.test(text)) throw unreadable()
    return { existed: true, reported: { text, leftMs: leftOf(leftMs) } }
  }
}

export const mergeValues: Command<Writer & { readonly changes: readonly ValueChange[] }> = {
  script: new Script(scripts['merge-values']),
  args: ({ changes, instance, keptMs, nowMs }) =>
    [keptMs, instance, ...changes.flatMap(change => changeRow(change, nowMs))]
}

/** Reads a time to live. @param leftMs  a reply of PTTL; below 0: no expiry */
export function leftOf (leftMs: unknown): number {
  const ms = wholeOf(leftMs, -2)
  return ms < 0 ? Infinity : ms
}

function operationRow (operation: ValueOperation, nowMs: number): Arguments {
  switch (operation.kind) {
    case 'set': return [operation.text, operation.expiresAtMs === Infinity ? '' : operation.expiresAtMs - nowMs]
    case 'expire': return [operation.expiresAtMs - nowMs]
    case 'incr':
    case 'del': return []
  }
}

function changeRow ({ base, add, addedAtMs, end }: ValueChange, nowMs: number): Arguments {
  const agoMs = (atMs: number) => Math.max(1, nowMs - atMs)
  const baseRow = base === undefined
    ? ['', '', 0]
    : [base.text === undefined ? 'del' : 'set', base.text ?? '', agoMs(base.atMs)]
  const endRow = end === undefined ? [0, 0, 0] : [1, Math.ceil(end.expiresAtMs - nowMs), agoMs(end.atMs)]
  return [...baseRow, add, agoMs(addedAtMs), ...endRow]
}
