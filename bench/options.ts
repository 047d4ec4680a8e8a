/** Options of `npm run bench -- ...`. */
import { parseArgs } from 'node:util'
import { scenarios } from './scenarios.js'

export interface BenchOptions {
  readonly json: boolean
  /** one table of the variants that matter most, in under four minutes */
  readonly quick: boolean
  readonly rounds: number
  /** length of one run of wrk */
  readonly seconds: number
  /** for the scenarios `normal` and `quick`; the others have their own */
  readonly connections: readonly number[]
  /** runs only variants whose name (variants.ts) or store contains it, such as `memory` */
  readonly only: string | undefined
  /** name of the one scenario to run; `sizes` are the tables without load */
  readonly scenario: string | undefined
}

export const sizes = 'sizes'

/** @throws Error  its message names the wrong option */
export function readOptions (args: readonly string[]): BenchOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      json: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '15' },
      seconds: { type: 'string', default: '1' },
      connections: { type: 'string' },
      only: { type: 'string' },
      scenario: { type: 'string' }
    }
  })
  const names = [...scenarios.map(({ name }) => name), sizes]
  if (values.scenario !== undefined && !names.includes(values.scenario)) {
    throw new Error(`--scenario must be one of ${names.join(', ')}, got ${values.scenario}`)
  }
  const { connections = values.quick ? '8,64' : '8,64,256' } = values
  return {
    json: values.json,
    quick: values.quick,
    rounds: whole('--rounds', values.rounds),
    seconds: whole('--seconds', values.seconds),
    connections: connections.split(',').map(text => whole('--connections', text)),
    only: values.only,
    scenario: values.scenario
  }
}

function whole (name: string, text: string): number {
  if (!/^[1-9]\d{0,3}$/.test(text)) throw new Error(`${name} must be a whole number from 1 to 9999, got ${text}`)
  return Number(text)
}
