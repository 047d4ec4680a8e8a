/** How long work takes on a busy machine, on which now and then a piece of it is interrupted. */
import { performance } from 'node:perf_hooks'

/** @returns the median of the times that short pieces of work take, ms; each piece is done once, in their order */
export function medianMs (pieces: number, work: (piece: number) => void): number {
  const times = Array.from({ length: pieces }, (_, piece) => {
    const startedAtMs = performance.now()
    work(piece)
    return performance.now() - startedAtMs
  })
  return times.sort((a, b) => a - b)[pieces >> 1]!
}
