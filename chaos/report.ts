/** The table that `npm run chaos` prints. */
import { figure, renderTable } from '../tools/table.js'
import type { Figures, Miss } from './judge.js'

export interface Row {
  readonly fault: string
  readonly figures: Figures
  readonly misses: readonly Miss[]
  /** that help to find the cause of a miss */
  readonly details: readonly string[]
}

const head = [
  'fault', 'requests', '5xx', 'unanswered', 'errors', 'slowest before, ms', 'while noticing', 'while away',
  'machine stalled', 'over memory', 'over share', 'counters off', 'blocks lost', 'events lost', 'values lost',
  'recovery, ms', 'as it must be'
]

export function renderRows (rows: readonly Omit<Row, 'details'>[]): string {
  return renderTable(head, rows.map(({ fault, figures: of, misses }) => [
    fault,
    of.requests.toLocaleString('en-US'),
    ...[of.serverErrors, of.unanswered, of.errors].map(String),
    ...[of.slowestMs.before, of.slowestMs.noticing, of.slowestMs.away, of.stalledMs].map(figure),
    ...[of.overMemory, of.overShare, of.countersOff, of.blocksLost, of.eventsLost, of.valuesLost].map(String),
    figure(of.recoveryMs),
    misses.length === 0 ? 'yes' : 'no'
  ]))
}
