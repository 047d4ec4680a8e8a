/** How alike two names are, to say which option was probably meant by a mistyped one. */

/** A name as far as it matters: `timeWindow`, `time_window` and `TIME-WINDOW` are the same. */
export function plainName (name: string): string {
  return name.toLowerCase().replaceAll(/[-_]/g, '')
}

/**
 * @returns how many characters have to be added, removed, replaced, or swapped with the next one, to make one text the
 *   other; Infinity: their lengths differ by more than three, which is no slip of the fingers
 */
export function editDistance (a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 3) return Infinity
  let beforeLast: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = last[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      const isSwapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      const swapped = isSwapped ? beforeLast[j - 2]! + 1 : Infinity
      row.push(Math.min(last[j]! + 1, row[j - 1]! + 1, replaced, swapped))
    }
    beforeLast = last
    last = row
  }
  return last[b.length]!
}
