/**
 * One run of wrk. It keeps every connection busy (closed loop), so latencies
 * are those of a server at its limit; compare them at equal connections only.
 */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { findProgram } from '../tools/program.js'
import { otherCore, pinned } from '../tools/cores.js'

export interface Load {
  readonly connections: number
  readonly seconds: number
  readonly addresses: number
  readonly blockedPercent: number
}

export interface LoadResult {
  readonly requests: number
  readonly durationMicros: number
  readonly p50Micros: number
  readonly p99Micros: number
  /** answers of 400 and above */
  readonly refused: number
  /** without an answer */
  readonly failed: number
}

/** Lua is not compiled: it stays where the sources are. */
const script = fileURLToPath(new URL('../../bench/load.lua', import.meta.url))

/** @throws when wrk fails or does not end in time */
export async function runWrk (
  port: number,
  { connections, seconds, addresses, blockedPercent }: Load
): Promise<LoadResult> {
  const [program, args] = pinned(otherCore, findProgram('wrk'), [
    '--threads', '1', '--connections', String(connections), '--duration', `${seconds}s`, '--timeout', '5s',
    '--script', script, `http://127.0.0.1:${port}/`, '--', String(addresses), String(blockedPercent)
  ])
  const { stdout } = await promisify(execFile)(program, args, { timeout: (seconds + 15) * 1000, killSignal: 'SIGKILL' })
  const json = stdout.split('\n').find(line => line.startsWith('{'))
  if (json === undefined) throw new Error(`wrk said:\n${stdout}`)
  return JSON.parse(json) as LoadResult
}
