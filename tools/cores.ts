/**
 * Assigns processes to cores: the measured server has its own core; the load, Redis and the proxy share the other one,
 * since in production they run on other machines. Redis pins itself (`--server_cpulist`).
 */
import { availableParallelism } from 'node:os'
import { findProgram } from './program.js'

export const serverCore = 0
export const otherCore = 1

/** undefined: everything is pinned */
export const notPinnedBecause = reason()

export function pinned (core: number, program: string, args: readonly string[]): [program: string, args: string[]] {
  return notPinnedBecause === undefined
    ? [findProgram('taskset'), ['-c', String(core), program, ...args]]
    : [program, [...args]]
}

function reason (): string | undefined {
  if (availableParallelism() < 2) return 'there is only one core'
  try {
    findProgram('taskset')
  } catch {
    return 'taskset is not installed'
  }
  return undefined
}
