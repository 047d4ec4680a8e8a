/** In a process with the guard, `process.nextTick` stays as fast as it was after full garbage collections. */
import { execFile } from 'node:child_process'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { inRepository } from '../support/paths.js'

const guard = pathToFileURL(inRepository('dist/lib/index.js')).href

/** @returns how many times slower a call is after the collections */
async function slowdown (...args: readonly string[]): Promise<number> {
  const program = inRepository('test/support/tick-speed.mjs')
  // Without NODE_OPTIONS, in which tap has its loaders.
  const env = { PATH: process.env['PATH'] }
  // With so much room there is no full collection while the modules are loaded, before the guard is registered.
  const flags = ['--expose-gc', '--initial-old-space-size=256']
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, program, ...args], { env })
  return Number(stdout)
}

t.test('full garbage collections do not slow nextTick down where the guard is registered', async t => {
  const slower = await slowdown(guard)
  t.ok(slower > 0 && slower < 3, String(slower))
})

t.test('without the guard they slow it down, on versions of Node.js that forget the shape of its objects', async t => {
  const [major] = process.versions.node.split('.').map(Number) as [number]
  const seen = [await slowdown()]
  // Now and then an object happens to be alive in each of the collections.
  while (seen.at(-1)! < 3 && seen.length < 10) seen.push(await slowdown())
  t.ok(seen.at(-1)! > (major <= 24 ? 3 : 0), seen.join(', '))
})
