/** Measures work on a busy machine, which interrupts some pieces of it. */
import { performance } from 'node:perf_hooks'

/** @returns the median time of the pieces of work, ms; each piece is done once, in order */
export function medianMs (pieces: number, work: (piece: number) => void): number {
  const times = Array.from({ length: pieces }, (_, piece) => {
    const startedAtMs = performance.now()
    work(piece)
    return performance.now() - startedAtMs
  })
  return times.sort((a, b) => a - b)[pieces >> 1]!
}
