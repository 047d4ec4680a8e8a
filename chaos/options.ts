/** The options of `npm run chaos -- ...`. */
import { parseArgs } from 'node:util'
import type { PlayOptions } from './play.js'

export interface ChaosOptions extends PlayOptions {
  readonly json: boolean
  /** faults that are played at the same time; with more than one, times say nothing */
  readonly atOnce: number
  /** parts of the names of the faults to play, or `=` and a whole name; empty: all */
  readonly names: readonly string[]
}

/** @throws Error  that names the wrong option and the value received */
export function readOptions (args: readonly string[]): ChaosOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      json: { type: 'boolean', default: false },
      fault: { type: 'string', multiple: true, default: [] },
      'at-once': { type: 'string', default: '1' },
      seconds: { type: 'string' },
      timeout: { type: 'string', default: '250' },
      rate: { type: 'string', default: '400' },
      connections: { type: 'string', default: '64' }
    }
  })
  return {
    json: values.json,
    names: values.fault,
    atOnce: Math.ceil(positive('--at-once', values['at-once'])),
    commandTimeout: Math.ceil(positive('--timeout', values.timeout)),
    holdMs: values.seconds === undefined ? undefined : positive('--seconds', values.seconds) * 1000,
    rate: positive('--rate', values.rate),
    connections: positive('--connections', values.connections)
  }
}

function positive (name: string, text: string): number {
  const number = Number(text)
  if (!(number > 0 && number <= 100_000)) {
    throw new Error(`${name} must be a number above 0 and at most 100000, got ${text}`)
  }
  return number
}
