/** In a process with the guard, `process.nextTick` stays as fast as it was after full garbage collections. */
import { execFile } from 'node:child_process'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { guardedApp } from '../support/app.js'
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

t.test('the guard keeps the object of one tick, for all of its registrations', async t => {
  for (let i = 0; i < 2; i++) await guardedApp(t)
  await new Promise(resolve => setImmediate(resolve))
  const kept = Object.getOwnPropertySymbols(process).filter(key => key.description === 'fastify-redis-guard.kept-tick')
  t.equal(kept.length, 1)
  const { object } = (process as unknown as Record<symbol, { readonly object: object }>)[kept[0]!]!
  t.ok('callback' in object && 'args' in object, 'it is what process.nextTick makes')
})
