/** Tables of numbers that can be read in a terminal and pasted into Markdown. */

/** @throws RangeError for an empty list, which has no median */
export function median (numbers: readonly number[]): number {
  if (numbers.length === 0) throw new RangeError('no numbers')
  const sorted = numbers.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Up to two decimals, fewer for larger numbers: 12,345, 123, 12.3, 1.23, 0.01; a missing number is a dash. */
export function figure (value: number | undefined): string {
  if (value === undefined || !Number.isFinite(value)) return '-'
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2
  return value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

/** A Markdown table with columns as narrow as possible; all but the first are aligned to the right. */
export function renderTable (head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) => Math.max(3, title.length, ...rows.map(row => row[i]!.length)))
  const padded = (cell: string, i: number) => i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)
  const line = (cells: readonly string[]) => `| ${cells.map(padded).join(' | ')} |`
  const rule = widths.map((width, i) => i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)
  return [line(head), line(rule), ...rows.map(line)].join('\n')
}
