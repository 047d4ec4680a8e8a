/** What `npm run chaos -- ...` may be told. */
import { parseArgs } from 'node:util'
import type { PlayOptions } from './play.js'

export interface ChaosOptions extends PlayOptions {
  readonly json: boolean
  /** faults that are played side by side; more than one tells nothing about times */
  readonly atOnce: number
  /** parts of the names of the faults to play, or `=` and a whole name; empty: all */
  readonly names: readonly string[]
}

/** @throws with what was wrong, for people */
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
