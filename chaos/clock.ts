/**
 * A clock that all processes of one machine share, and the stalls of a process:
 * on a shared machine a process may stand still for tens of ms, which is no
 * fault of its code.
 */

/** ms since 1970, with fractions */
export function nowMs (): number {
  return performance.timeOrigin + performance.now()
}

/** A time in which this process did not run, though it had something to do. */
export interface Stall {
  readonly fromMs: number
  readonly untilMs: number
  /** ms of that time, without the CPU time of the process: slow code is no stall */
  readonly lostMs: number
}

const tickMs = 2

/** ms; a timer is often late by less. */
const noticedMs = 2

/** Collects the stalls of this process from now on. */
export function watchStalls (): readonly Stall[] {
  const stalls: Stall[] = []
  let before = nowMs()
  let cpuBefore = process.cpuUsage()
  setInterval(() => {
    const now = nowMs()
    const cpu = process.cpuUsage()
    const usedMs = (cpu.user - cpuBefore.user + cpu.system - cpuBefore.system) / 1000
    const lostMs = now - before - tickMs - usedMs
    if (lostMs > noticedMs) stalls.push({ fromMs: before, untilMs: now, lostMs })
    before = now
    cpuBefore = cpu
  }, tickMs).unref()
  return stalls
}

/** How much of the time between two moments was lost to stalls, in ms. */
export function lostBetween (stalls: readonly Stall[], fromMs: number, untilMs: number): number {
  return stalls.reduce((sum, stall) => {
    const overlap = Math.min(untilMs, stall.untilMs) - Math.max(fromMs, stall.fromMs)
    return overlap <= 0 ? sum : sum + Math.min(overlap, stall.lostMs)
  }, 0)
}
