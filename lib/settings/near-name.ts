/** Compares names, to find the option that a misspelt name probably meant. */

/** A name without case, hyphens and underscores: `timeWindow`, `time_window` and `TIME-WINDOW` become the same. */
export function plainName (name: string): string {
  return name.toLowerCase().replaceAll(/[-_]/g, '')
}

/**
 * @param atMost  the most changes that count as a typing error
 * @returns how many characters must be added, removed, replaced, or swapped with the next one, to turn one text into
 * the
 *   other; Infinity: more than `atMost`
 */
export function editDistance (a: string, b: string, atMost = 3): number {
  let same = 0
  while (same < a.length && a[same] === b[same]) same++
  const [restA, restB] = [a.slice(same), b.slice(same)]
  const left = Math.max(restA.length, restB.length)
  if (left === 0) return 0
  if (atMost === 0) return Infinity
  const after = (fromA: number, fromB: number) => 1 + editDistance(restA.slice(fromA), restB.slice(fromB), atMost - 1)
  const isSwapped = left > 1 && restA[0] === restB[1] && restA[1] === restB[0]
  return Math.min(after(1, 0), after(0, 1), after(1, 1), isSwapped ? after(2, 2) : Infinity)
}
