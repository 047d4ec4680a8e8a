/** Programs of examples/ that print their URL when they listen. */
import type { Test } from 'tap'
import { Program } from '../../tools/program.js'
import { inRepository } from './paths.js'

/** Starts an example on memory and a free port. @returns its URL */
export async function exampleOf (t: Test, name: string): Promise<string> {
  const { PATH, HOME } = process.env
  const env = { PATH, HOME, PORT: '0', LOG_LEVEL: 'fatal' }
  const program = new Program(process.execPath, [inRepository(`dist/examples/${name}.js`)], { env })
  t.teardown(async () => await program.stop('SIGKILL'))
  await program.saying(/http:\/\/\S+\n/, 120_000)
  return /http:\/\/\S+/.exec(program.output)![0]
}
