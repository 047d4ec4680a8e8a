/**
 * Time that several processes of one machine can compare, and what the machine
 * took of it: on a shared one a process may stand still for tens of ms, which
 * is no fault of what runs in it.
 */

/** ms since 1970, with fractions */
export function nowMs (): number {
  return performance.timeOrigin + performance.now()
}

/** A while in which this process did not run, though it had something to do. */
export interface Stall {
  readonly fromMs: number
  readonly untilMs: number
  /** of that while, without what the process used of the CPU: code of ours that is slow is no stall */
  readonly lostMs: number
}

const tickMs = 2

/** Shorter ones are what a timer is late anyway. */
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

/** What of the time between two moments was lost to stalls, in ms. */
export function lostBetween (stalls: readonly Stall[], fromMs: number, untilMs: number): number {
  return stalls.reduce((sum, stall) => {
    const overlap = Math.min(untilMs, stall.untilMs) - Math.max(fromMs, stall.fromMs)
    return overlap <= 0 ? sum : sum + Math.min(overlap, stall.lostMs)
  }, 0)
}
