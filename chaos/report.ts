/** The table that `npm run chaos` prints. */
import { figure, renderTable } from '../tools/table.js'
import type { Figures, Miss } from './judge.js'

export interface Row {
  readonly fault: string
  readonly figures: Figures
  readonly misses: readonly Miss[]
  /** what helps to find out why */
  readonly details: readonly string[]
}

const head = ['fault', 'requests', '5xx', 'unanswered', 'errors', 'slowest before, ms', 'while noticing', 'while away', 'machine stalled', 'over memory', 'over share', 'counters off', 'blocks lost', 'events lost', 'values lost', 'recovery, ms', 'as it must be']

export function renderRows (rows: readonly Omit<Row, 'details'>[]): string {
  return renderTable(head, rows.map(({ fault, figures: { requests, serverErrors, unanswered, errors, slowestMs: { before, noticing, away }, stalledMs, overMemory, overShare, countersOff, blocksLost, eventsLost, valuesLost, recoveryMs }, misses }) => [
    fault, requests.toLocaleString('en-US'), ...[serverErrors, unanswered, errors].map(String), ...[before, noticing, away, stalledMs].map(figure),
    ...[overMemory, overShare, countersOff, blocksLost, eventsLost, valuesLost].map(String), figure(recoveryMs), misses.length === 0 ? 'yes' : 'no'
  ]))
}
